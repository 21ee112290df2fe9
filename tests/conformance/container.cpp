// SPDX-License-Identifier: MIT
/*
 * A number in a row's name is the list post that the row answers (host/tracking/README.md). All
 * that is mapped is dirty at every read here; what a source keeps of a mapping that is asked for
 * in part shows in unit tests.
 */
#include "conformance/container.hpp"

#include <cerrno>
#include <optional>

#include "conformance/machine.hpp"
#include "pvdirty/kernel_sources.hpp"

namespace pvdirty::conformance {

namespace {

IovaRange pages(std::uint64_t first, std::uint64_t number) {
    return *IovaRange::of(base + first * page, number * page);
}

class Scene {
public:
    explicit Scene(const Type1Ioctl& ioctl)
        : machine(ioctl),
          source("container", -1, page, [this](int, unsigned long request, void* arg) {
              calls++;
              return machine.call(request, arg);
          }) {}

    int page_size() {
        const auto size =
            vfio::Container::page_size_of(-1, [this](int, unsigned long request, void* arg) {
                return machine.call(request, arg);
            });
        return size ? static_cast<int>(*size) : -size.error();
    }
    int map(std::uint64_t first, std::uint64_t number) {
        const int result = machine.map(first, number);
        return result != 0 ? result : code(source.map(pages(first, number)));
    }
    /* Of pages of the window, into a bitmap of all of it that is filled like this. */
    int read(std::uint64_t first, std::uint64_t number, std::uint64_t fill = 0,
             std::uint64_t page_size = page) {
        machine.words.fill(fill);
        const auto bitmap = DirtyBitmap::over(pages(0, window_pages), page_size, machine.words);
        return code(source.read_and_clear(pages(first, number), *bitmap));
    }
    int read_all() { return read(0, window_pages); }
    int unmap(std::uint64_t first, std::uint64_t number) {
        machine.words.fill(0);
        const auto bitmap = DirtyBitmap::over(pages(0, window_pages), page, machine.words);
        return code(source.unmap(pages(first, number), &*bitmap));
    }
    /* A call that needs none to the kernel. */
    [[nodiscard]] int without_a_call(const std::function<int()>& call) const {
        const unsigned before = calls;
        const int result = call();
        return calls == before ? result : -EDOM;
    }
    int start() { return code(source.start()); }
    int stop() { return code(source.stop()); }

    Machine machine;
    unsigned calls = 0;
    vfio::Container source;

private:
    template <class T>
    static int code(const tl::expected<T, SourceError>& result) {
        return result ? 0 : -result.error().code;
    }
};

struct Row {
    const char* name;
    std::function<int(Scene&)> call;
    int result = 0;
    std::optional<Words> words{}; ///< in the bitmap afterwards
};

using S = Scene;

std::vector<Row> table() {
    return {
        {"003 its page size", [](S& s) { return s.page_size(); }, page},
        {"mappings",
         [](S& s) {
             const int result = s.map(0, 100);
             return result != 0 ? result : s.map(200, 3);
         }},
        {"003 a read before start", [](S& s) { return s.read_all(); }, -EINVAL, Words{}},
        {"003 start", [](S& s) { return s.start(); }},
        {"003 start again", [](S& s) { return s.without_a_call([&] { return s.start(); }); }},
        {"a read", [](S& s) { return s.read_all(); }, 0, Words{ones, bits(0, 35), 0, bits(8, 10)}},
        {"a read again", [](S& s) { return s.read_all(); }, 0,
         Words{ones, bits(0, 35), 0, bits(8, 10)}},
        {"003 a read sets bits, and clears none",
         [](S& s) { return s.read(0, window_pages, bits(40, 50)); }, 0,
         Words{ones, bits(0, 35) | bits(40, 50), bits(40, 50), bits(8, 10) | bits(40, 50)}},
        {"a read of a part", [](S& s) { return s.read(60, 10); }, 0,
         Words{bits(60, 63), bits(0, 5), 0, 0}},
        {"a read of a part and a hole", [](S& s) { return s.read(90, 111); }, 0,
         Words{0, bits(26, 35), 0, bits(8, 8)}},
        {"a read of a hole",
         [](S& s) { return s.without_a_call([&] { return s.read(100, 100); }); }, 0, Words{}},
        {"003 a read in pages of 8 KiB", [](S& s) { return s.read(0, window_pages, 0, 2 * page); },
         0, Words{bits(0, 49), bits(36, 37), 0, 0}},
        {"001 a mapping that comes", [](S& s) { return s.map(203, 2); }},
        {"001 it is dirty", [](S& s) { return s.read(200, 56); }, 0, Words{0, 0, 0, bits(8, 12)}},
        {"001 it goes, with its last bits", [](S& s) { return s.unmap(203, 2); }, 0,
         Words{0, 0, 0, bits(11, 12)}},
        {"001 it is gone", [](S& s) { return s.map(203, 2); }},
        {"unmapping cuts no mapping", [](S& s) { return s.unmap(1, 203); }, -EINVAL, Words{}},
        {"001 unmapping a range", [](S& s) { return s.unmap(128, 128); }, 0,
         Words{0, 0, 0, bits(8, 12)}},
        {"003 stop", [](S& s) { return s.stop(); }},
        {"003 stop again", [](S& s) { return s.without_a_call([&] { return s.stop(); }); }},
        {"003 a read after stop", [](S& s) { return s.read_all(); }, -EINVAL, Words{}},
        {"003 the kernel has stopped", [](S& s) { return s.machine.get({}); }, -EINVAL},
        {"tracking anew", [](S& s) { return s.start(); }},
        {"a read of that", [](S& s) { return s.read_all(); }, 0, Words{ones, bits(0, 35), 0, 0}},
        {"the end",
         [](S& s) {
             const int result = s.stop();
             return result != 0 ? result : s.unmap(0, window_pages);
         },
         0, Words{}},
        {"nothing is mapped",
         [](S& s) {
             const int result = s.machine.unmap({}, VFIO_DMA_UNMAP_FLAG_ALL);
             return s.machine.unmapped() == 0 ? result : -EDOM;
         }},
    };
}

} // namespace

Type1Report check_container(const Type1Ioctl& ioctl) {
    Type1Report report;
    Scene scene(ioctl);
    for (const Row& row : table()) {
        report.rows++;
        const int result = row.call(scene);
        if (const auto line = difference(row.result, row.words, result, scene.machine.words);
            !line.empty()) {
            report.differences.push_back(std::string("container: ") + row.name + line);
        }
    }
    return report;
}

} // namespace pvdirty::conformance
