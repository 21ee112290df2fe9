// SPDX-License-Identifier: MIT
/*
 * The table. What is expected is what drivers/vfio/vfio_iommu_type1.c of Linux 6.12 does; a number
 * in a row's name is the list post that the row answers (host/tracking/README.md).
 *
 * Two things that the kernel does are left out. A page size or flags of 0 reach its __ffs(0),
 * which is undefined; on x86-64 both end in EINVAL, and that is expected here. And a bitmap that
 * update_user_bitmap() has shifted into place keeps bits behind the mapping's last page, which
 * the next read may show: rows that compare whole words start tracking anew first.
 */
#include "conformance/type1.hpp"

#include <cerrno>
#include <cstring>
#include <optional>

#include "conformance/machine.hpp"

namespace pvdirty::conformance {

namespace {

struct Row {
    const char* name;
    std::function<int(Machine&)> call;
    int result = 0;
    std::optional<Words> words{}; ///< in the bitmap afterwards
};

/* In the window: 0..99 and 100..127 touch, then there is a hole, then 200..202. */
constexpr Words all_mapped{ones, ones, 0, bits(8, 10)};

int map_all(Machine& m) {
    for (const auto& [first, pages] : {std::pair{0, 100}, std::pair{100, 28}, std::pair{200, 3}}) {
        if (const int result = m.map(first, pages); result != 0) {
            return result;
        }
    }
    return 0;
}

/* A GET into a bitmap that is filled like this, right after the start. */
int fresh_get(Machine& m, std::uint64_t fill, const Get& get = {}) {
    m.words.fill(fill);
    int result = m.stop();
    result = result != 0 ? result : m.start();
    return result != 0 ? result : m.get(get);
}

int cleared_get(Machine& m, const Get& get = {}) {
    m.words.fill(0);
    return m.get(get);
}

/* The same of an UNMAP with its bitmap. */
int fresh_unmap(Machine& m, const Get& get) {
    m.words.fill(0);
    int result = m.stop();
    result = result != 0 ? result : m.start();
    return result != 0 ? result : m.unmap(get);
}

/* An unmap that must fail, and then what is still mapped. */
int refused_unmap(Machine& m, const Get& get,
                  std::uint32_t flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) {
    const int result = m.unmap(get, flags);
    return fresh_get(m, 0) == 0 && m.words == all_mapped ? result : -EDOM;
}

/* The migration capability of GET_INFO: 0, or what is wrong as an errno. */
int migration_capability(Machine& m) {
    std::array<std::uint64_t, 64> buffer{};
    vfio_iommu_type1_info info{};
    info.argsz = sizeof(buffer);
    std::memcpy(buffer.data(), &info, sizeof(info));
    if (const int result = m.call(VFIO_IOMMU_GET_INFO, buffer.data()); result != 0) {
        return result;
    }
    std::memcpy(&info, buffer.data(), sizeof(info));
    std::uint32_t at = (info.flags & VFIO_IOMMU_INFO_CAPS) != 0 ? info.cap_offset : 0;
    while (at != 0 && at + sizeof(vfio_iommu_type1_info_cap_migration) <= sizeof(buffer)) {
        vfio_iommu_type1_info_cap_migration capability{};
        std::memcpy(&capability, reinterpret_cast<std::byte*>(buffer.data()) + at,
                    sizeof(capability));
        if (capability.header.id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
            return capability.pgsize_bitmap == page &&
                           capability.max_dirty_bitmap_size == std::uint64_t{1} << 28
                       ? 0
                       : -EDOM;
        }
        at = capability.header.next;
    }
    return -ENOENT;
}

int get_info_in(Machine& m, std::uint32_t argsz) {
    vfio_iommu_type1_info info{};
    info.argsz = argsz;
    return m.call(VFIO_IOMMU_GET_INFO, &info);
}

constexpr std::uint32_t start_flag = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
constexpr std::uint32_t stop_flag = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
constexpr std::uint32_t get_flag = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
constexpr std::uint32_t unmap_get = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
constexpr std::uint32_t unmap_all = VFIO_DMA_UNMAP_FLAG_ALL;
constexpr std::uint32_t get_argsz = Get{}.argsz;

using M = Machine;

std::vector<Row> table() {
    return {
        {"mappings", map_all},
        {"no other ioctl", [](M& m) { return m.call(_IO(VFIO_TYPE, VFIO_BASE + 99), nullptr); },
         -ENOTTY},
        {"map: overlaps", [](M& m) { return m.map(99, 1); }, -EEXIST},
        {"map: nothing", [](M& m) { return m.map(150, 0); }, -EINVAL},

        // Which page sizes are taken? (003)
        {"003 info: the migration capability names one page size, and the largest bitmap",
         migration_capability},
        {"info: argsz without the page sizes", [](M& m) { return get_info_in(m, 15); }, -EINVAL},
        {"info: argsz without capabilities", [](M& m) { return get_info_in(m, 16); }},

        // How do the operations interact? (003)
        {"003 GET before START", [](M& m) { return m.get({}); }, -EINVAL},
        {"003 UNMAP with bitmap before START", [](M& m) { return m.unmap({}); }, -EINVAL},
        {"003 STOP before START", [](M& m) { return m.stop(); }},
        {"003 START", [](M& m) { return m.start(); }},
        {"003 START again", [](M& m) { return m.start(); }},
        {"003 GET", [](M& m) { return cleared_get(m); }, 0, all_mapped},
        {"003 GET again: all that is mapped is dirty at every read",
         [](M& m) {
             const int result = cleared_get(m);
             m.words[3] &= all_mapped[3]; // bits behind the mapping: see above
             return result;
         },
         0, all_mapped},

        // Only one at a time? (003)
        {"003 no flag", [](M& m) { return m.dirty(0); }, -EINVAL},
        {"003 START|STOP", [](M& m) { return m.dirty(start_flag | stop_flag); }, -EINVAL},
        {"003 START|GET", [](M& m) { return m.dirty(start_flag | get_flag, get_argsz); }, -EINVAL},
        {"003 STOP|GET", [](M& m) { return m.dirty(stop_flag | get_flag, get_argsz); }, -EINVAL},
        {"003 all three", [](M& m) { return m.dirty(7, get_argsz); }, -EINVAL},
        {"003 a flag that is unknown", [](M& m) { return m.dirty(8); }, -EINVAL},
        {"003 START with it", [](M& m) { return m.dirty(start_flag | 8); }, -EINVAL},
        {"003 STOP with it", [](M& m) { return m.dirty(stop_flag | 1U << 31); }, -EINVAL},
        {"003 none of them stopped it", [](M& m) { return fresh_get(m, 0); }, 0, all_mapped},

        // Does argsz include the bitmap? (003)
        {"003 argsz 0", [](M& m) { return m.dirty(start_flag, 0); }, -EINVAL},
        {"003 argsz without flags", [](M& m) { return m.dirty(start_flag, 7); }, -EINVAL},
        {"003 argsz larger than START needs", [](M& m) { return m.dirty(start_flag, 4096); }},
        {"003 GET: argsz without the range", [](M& m) { return m.get({.argsz = 8}); }, -EINVAL},
        {"003 GET: argsz a byte short", [](M& m) { return m.get({.argsz = get_argsz - 1}); },
         -EINVAL},
        {"003 GET: argsz without the bitmap", [](M& m) { return m.get({.argsz = get_argsz}); }},
        {"003 GET: argsz with the bitmap",
         [](M& m) { return m.get({.argsz = get_argsz + sizeof(Words)}); }},

        // Is pgsize the smallest one? (003)
        {"003 GET: page size 0", [](M& m) { return m.get({.pgsize = 0}); }, -EINVAL},
        {"003 GET: page size 2 KiB", [](M& m) { return m.get({.pgsize = 2048}); }, -EINVAL},
        {"003 GET: page size 8 KiB", [](M& m) { return m.get({.pgsize = 8192}); }, -EINVAL},
        {"003 GET: page size 12 KiB", [](M& m) { return m.get({.pgsize = 3 * page}); }, -EINVAL},
        {"003 GET: page size 2 MiB", [](M& m) { return m.get({.pgsize = 2U << 20}); }, -EINVAL},
        {"003 GET: page size 2^63", [](M& m) { return m.get({.pgsize = std::uint64_t{1} << 63}); },
         -EINVAL},

        {"GET: an empty range", [](M& m) { return m.get({.pages = 0}); }, -EINVAL},
        {"GET: iova not aligned", [](M& m) { return m.get({.pages = 255, .iova_more = 512}); },
         -EINVAL},
        {"GET: size not aligned", [](M& m) { return m.get({.pages = 255, .size_more = 512}); },
         -EINVAL},
        {"GET: less than a page", [](M& m) { return m.get({.pages = 0, .size_more = 512}); },
         -EINVAL},
        {"GET: wraps", [](M& m) { return m.get({.pages = 2, .iova_more = 0 - base - page}); },
         -EINVAL},
        {"GET: ends with the address space",
         [](M& m) { return m.get({.pages = 1, .iova_more = 0 - base - page}); }, -EINVAL},
        {"GET: begins inside a mapping", [](M& m) { return m.get({.first = 1, .pages = 127}); },
         -EINVAL},
        {"GET: ends inside a mapping", [](M& m) { return m.get({.pages = 127}); }, -EINVAL},
        {"GET: inside a mapping", [](M& m) { return m.get({.first = 5, .pages = 9}); }, -EINVAL},
        {"GET: ends one page into a mapping", [](M& m) { return m.get({.pages = 201}); }, -EINVAL},
        {"GET: one mapping of two",
         [](M& m) { return fresh_get(m, 0, {.first = 100, .pages = 28}); }, 0,
         Words{bits(0, 27), 0, 0, 0}},
        {"GET: from a hole into a hole",
         [](M& m) { return fresh_get(m, 0, {.first = 128, .pages = 100}); }, 0,
         Words{0, bits(8, 10), 0, 0}},

        // Must the caller zero the bitmap? (003)
        {"003 GET: of a bitmap that is not zeroed, words of mappings are overwritten",
         [](M& m) { return fresh_get(m, ones, {.first = 100, .pages = 28}); }, 0,
         Words{bits(0, 27), ones, ones, ones}},
        {"003 GET: but for a word that a mapping begins inside of: bits are added there",
         [](M& m) { return fresh_get(m, 0xf0f0f0f0f0f0f0f0); }, 0,
         Words{ones, ones, 0xf0f0f0f0f0f0f0f0, 0xf0f0f0f0f0f0f7f0}},
        {"003 GET: and nothing is written where nothing is mapped",
         [](M& m) { return fresh_get(m, 0x5a5a, {.first = 128, .pages = 64}); }, 0,
         Words{0x5a5a, 0x5a5a, 0x5a5a, 0x5a5a}},

        {"GET: bitmap of no size", [](M& m) { return m.get({.bitmap_bytes = 0}); }, -EINVAL},
        {"GET: bitmap a word short", [](M& m) { return m.get({.bitmap_bytes = 24}); }, -EINVAL},
        {"GET: bitmap with the last word in part",
         [](M& m) { return m.get({.pages = 203, .bitmap_bytes = 26}); }, -EINVAL},
        {"GET: bitmap larger than needed",
         [](M& m) { return m.get({.first = 100, .pages = 28, .bitmap_bytes = 32}); }},
        {"GET: the largest bitmap", [](M& m) { return m.get({.bitmap_bytes = 1U << 28}); }},
        {"GET: one larger than that", [](M& m) { return m.get({.bitmap_bytes = (1U << 28) + 8}); },
         -EINVAL},

        {"bad pointer: argument", [](M& m) { return m.call(VFIO_IOMMU_DIRTY_PAGES, m.nowhere()); },
         -EFAULT},
        {"bad pointer: null argument", [](M& m) { return m.call(VFIO_IOMMU_DIRTY_PAGES, nullptr); },
         -EFAULT},
        {"bad pointer: bitmap", [](M& m) { return m.get({.data = m.nowhere()}); }, -EFAULT},
        {"bad pointer: bitmap of a range without mappings",
         [](M& m) { return m.get({.first = 128, .pages = 64, .data = m.nowhere()}); }},
        {"bad pointer: bitmap in the kernel",
         [](M& m) { return m.get({.data = M::in_the_kernel()}); }, -EINVAL},
        {"bad pointer: the pages are still dirty", [](M& m) { return fresh_get(m, 0); }, 0,
         all_mapped},

        // Mappings that come and go while tracking (001).
        {"001 MAP while tracking", [](M& m) { return m.map(203, 2); }},
        {"001 what it maps is dirty", [](M& m) { return fresh_get(m, 0); }, 0,
         Words{ones, ones, 0, bits(8, 12)}},
        {"001 UNMAP of it with its last bits",
         [](M& m) { return fresh_unmap(m, {.first = 203, .pages = 2}); }, 0, Words{3, 0, 0, 0}},
        {"UNMAP: argsz without the bitmap", [](M& m) { return refused_unmap(m, {.argsz = 24}); },
         -EINVAL},
        {"UNMAP: argsz a byte short", [](M& m) { return refused_unmap(m, {.argsz = 47}); },
         -EINVAL},
        {"UNMAP: argsz without the range", [](M& m) { return refused_unmap(m, {.argsz = 23}, 0); },
         -EINVAL},
        {"UNMAP: bitmap and all", [](M& m) { return refused_unmap(m, {}, unmap_get | unmap_all); },
         -EINVAL},
        {"UNMAP: a flag that is unknown", [](M& m) { return refused_unmap(m, {}, 8); }, -EINVAL},
        {"UNMAP: another page size", [](M& m) { return refused_unmap(m, {.pgsize = 8192}); },
         -EINVAL},
        {"UNMAP: bitmap a word short", [](M& m) { return refused_unmap(m, {.bitmap_bytes = 24}); },
         -EINVAL},
        {"UNMAP: iova not aligned",
         [](M& m) { return refused_unmap(m, {.pages = 255, .iova_more = 512}); }, -EINVAL},
        {"UNMAP: size not aligned",
         [](M& m) { return refused_unmap(m, {.pages = 255, .size_more = 512}); }, -EINVAL},
        {"UNMAP: begins inside a mapping",
         [](M& m) { return refused_unmap(m, {.first = 1, .pages = 127}); }, -EINVAL},
        {"UNMAP: ends inside a mapping", [](M& m) { return refused_unmap(m, {.pages = 127}); },
         -EINVAL},
        {"UNMAP: bad pointer", [](M& m) { return refused_unmap(m, {.data = m.nowhere()}); },
         -EFAULT},
        {"UNMAP: of nothing",
         [](M& m) {
             m.words.fill(7);
             const int result = m.unmap({.first = 128, .pages = 64});
             return m.unmapped() == 0 ? result : -EDOM;
         },
         0, Words{7, 7, 7, 7}},
        {"UNMAP: two mappings and a hole",
         [](M& m) {
             const int result = fresh_unmap(m, {.first = 100, .pages = 156});
             return m.unmapped() == 31 * page ? result : -EDOM;
         },
         0, Words{bits(0, 27), bits(36, 38), 0, 0}},
        {"UNMAP: they are gone", [](M& m) { return fresh_get(m, 0); }, 0,
         Words{ones, bits(0, 35), 0, 0}},

        {"003 STOP", [](M& m) { return m.stop(); }},
        {"003 STOP again", [](M& m) { return m.stop(); }},
        {"003 GET after STOP",
         [](M& m) {
             m.words.fill(0);
             return m.get({});
         },
         -EINVAL, Words{}},
        {"003 UNMAP with bitmap after STOP", [](M& m) { return m.unmap({.pages = 100}); }, -EINVAL},
        {"UNMAP: all, without a bitmap",
         [](M& m) {
             const int result = m.unmap({}, unmap_all);
             return m.unmapped() == 100 * page ? result : -EDOM;
         }},
        {"START without mappings", [](M& m) { return m.start(); }},
        {"GET without mappings", [](M& m) { return cleared_get(m); }, 0, Words{}},
        {"STOP at the end", [](M& m) { return m.stop(); }},
    };
}

} // namespace

Type1Report check_type1(const Type1Ioctl& ioctl) {
    Type1Report report;
    Machine machine(ioctl);
    for (const Row& row : table()) {
        report.rows++;
        const int result = row.call(machine);
        if (const auto line = difference(row.result, row.words, result, machine.words);
            !line.empty()) {
            report.differences.push_back(row.name + line);
        }
    }
    return report;
}

} // namespace pvdirty::conformance
