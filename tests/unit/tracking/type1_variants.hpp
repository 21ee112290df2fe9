// SPDX-License-Identifier: MIT
/** Type1 containers that are broken in one way each, and the row of the table that finds it. */
#ifndef PVDIRTY_TESTS_UNIT_TRACKING_TYPE1_VARIANTS_HPP
#define PVDIRTY_TESTS_UNIT_TRACKING_TYPE1_VARIANTS_HPP

#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include <linux/vfio.h>

#include "pvdirty/type1.hpp"
#include "tracking/user_memory.hpp"
#include "tracking/vfio_arguments.hpp"

namespace pvdirty::test {

/** An ioctl of the table, taken apart: a variant changes it, or what comes of it. */
struct Type1Call {
    vfio::Type1DirtyPages& container;
    unsigned long request;
    void* arg;
    bool tracking; ///< before the call
    /** The kernel's structures without the flexible arrays at their ends. */
    struct {
        std::uint32_t argsz;
        std::uint32_t flags;
    } dirty{};
    vfio_iommu_type1_dirty_bitmap_get get{};
    struct {
        std::uint32_t argsz;
        std::uint32_t flags;
        std::uint64_t iova;
        std::uint64_t size;
    } unmap{};

    Type1Call(vfio::Type1DirtyPages& container, unsigned long request, void* arg, bool tracking)
        : container(container), request(request), arg(arg), tracking(tracking) {
        if (request == VFIO_IOMMU_DIRTY_PAGES && copy_from_user(&dirty, arg, sizeof(dirty)) &&
            is_get() && dirty.argsz >= sizeof(dirty) + sizeof(get)) {
            copy_from_user(&get, static_cast<std::byte*>(arg) + sizeof(dirty), sizeof(get));
        }
        if (request == VFIO_IOMMU_UNMAP_DMA) {
            copy_from_user(&unmap, arg, sizeof(unmap));
        }
    }

    [[nodiscard]] bool is(std::uint32_t flags) const {
        return request == VFIO_IOMMU_DIRTY_PAGES && dirty.flags == flags;
    }
    [[nodiscard]] bool is_get() const { return is(VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP); }
    /** As it came. */
    [[nodiscard]] int right() const { return container.ioctl(request, arg); }
    /** With dirty and get as they are now. */
    [[nodiscard]] int changed() const {
        vfio::Arguments arguments(dirty, get);
        return container.ioctl(request, arguments.data());
    }
    /** The right result, but for one that is allowed to be 0 instead. */
    [[nodiscard]] int forgiven(bool when) const {
        const int result = right();
        return when && result == -EINVAL ? 0 : result;
    }
    /** The four words of the table's bitmap; none for bad pointers. */
    [[nodiscard]] std::array<std::uint64_t, 4> words() const {
        std::array<std::uint64_t, 4> words{};
        copy_from_user(words.data(), get.bitmap.data, sizeof(words));
        return words;
    }
    void set_words(const std::array<std::uint64_t, 4>& words) const {
        copy_to_user(get.bitmap.data, words.data(), sizeof(words));
    }
};

struct Type1Variant {
    const char* name;
    const char* row; ///< that finds it
    std::function<int(Type1Call&)> call;
};

inline std::vector<Type1Variant> type1_variants() {
    constexpr std::uint32_t start = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
    constexpr std::uint32_t stop = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
    return {
        {"an empty bitmap before START", "003 GET before START",
         [](Type1Call& call) { return call.forgiven(call.is_get() && !call.tracking); }},
        {"the same after STOP", "003 GET after STOP",
         [](Type1Call& call) { return call.forgiven(call.is_get() && !call.tracking); }},
        {"START only once", "003 START again",
         [](Type1Call& call) { return call.is(start) && call.tracking ? -EINVAL : call.right(); }},
        {"STOP only when started", "003 STOP before START",
         [](Type1Call& call) { return call.is(stop) && !call.tracking ? -EINVAL : call.right(); }},
        {"the first of several flags", "003 START|STOP",
         [](Type1Call& call) {
             if (call.request != VFIO_IOMMU_DIRTY_PAGES || call.dirty.flags == 0) {
                 return call.right();
             }
             call.dirty.flags &= ~call.dirty.flags + 1;
             return call.is_get() ? call.right() : call.changed();
         }},
        {"unknown flags are ignored", "003 START with it",
         [](Type1Call& call) {
             if (call.request != VFIO_IOMMU_DIRTY_PAGES || call.is_get() || call.dirty.argsz < 8) {
                 return call.right();
             }
             call.dirty.flags &= 7;
             return call.changed();
         }},
        {"argsz includes the bitmap", "003 GET: argsz without the bitmap",
         [](Type1Call& call) {
             return call.is_get() && call.dirty.argsz < 48 + call.get.bitmap.size ? -EINVAL
                                                                                  : call.right();
         }},
        {"argsz is not looked at", "003 argsz without flags",
         [](Type1Call& call) {
             if (call.request != VFIO_IOMMU_DIRTY_PAGES || call.is_get() || call.arg == nullptr) {
                 return call.right();
             }
             call.dirty.argsz = 8;
             return call.dirty.flags != 0 ? call.changed() : call.right();
         }},
        {"any page size", "003 GET: page size 8 KiB",
         [](Type1Call& call) { return call.forgiven(call.get.bitmap.pgsize != 4096); }},
        {"a short bitmap", "GET: bitmap a word short",
         [](Type1Call& call) { return call.forgiven(call.get.bitmap.size == 24); }},
        {"a range that wraps", "GET: wraps",
         [](Type1Call& call) {
             return call.forgiven(call.get.iova + call.get.size < call.get.iova);
         }},
        {"parts of mappings", "GET: begins inside a mapping",
         [](Type1Call& call) { return call.forgiven(call.is_get() && call.tracking); }},
        {"clears the caller's bitmap first", "003 GET: and nothing is written where nothing is",
         [](Type1Call& call) {
             if (call.is_get() && call.get.bitmap.size == sizeof(call.words())) {
                 call.set_words({});
             }
             return call.right();
         }},
        {"only sets bits", "003 GET: of a bitmap that is not zeroed",
         [](Type1Call& call) {
             const auto before = call.words();
             const int result = call.right();
             if (call.is_get() && result == 0) {
                 auto after = call.words();
                 for (std::size_t i = 0; i < after.size(); i++) {
                     after[i] |= before[i];
                 }
                 call.set_words(after);
             }
             return result;
         }},
        {"one bit off", "003 GET:",
         [](Type1Call& call) {
             const int result = call.right();
             if (call.is_get() && result == 0) {
                 auto words = call.words();
                 words[0] <<= 1;
                 call.set_words(words);
             }
             return result;
         }},
        {"UNMAP without its bits", "001 UNMAP of it with its last bits",
         [](Type1Call& call) {
             if (call.request == VFIO_IOMMU_UNMAP_DMA && call.unmap.argsz == 48 &&
                 call.unmap.flags == VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP && call.tracking) {
                 call.unmap.flags = 0;
                 return call.container.ioctl(VFIO_IOMMU_UNMAP_DMA, &call.unmap);
             }
             return call.right();
         }},
        {"UNMAP says what it was asked for", "UNMAP: two mappings and a hole",
         [](Type1Call& call) {
             const int result = call.right();
             if (call.request == VFIO_IOMMU_UNMAP_DMA && result == 0) {
                 copy_to_user(call.arg, &call.unmap, sizeof(call.unmap));
             }
             return result;
         }},
        {"one errno for all", "bad pointer: bitmap",
         [](Type1Call& call) { return call.right() != 0 ? -EINVAL : 0; }},
    };
}

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_TRACKING_TYPE1_VARIANTS_HPP
