// SPDX-License-Identifier: MIT
/* iommufd::Hwpt over the kernel's iommufd, with its mock IOMMU. */
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include <linux/iommufd.h>

#include "pvdirty/kernel_sources.hpp"
#include "pvdirty/tracker.hpp"
#include "unit/tracking/test_source.hpp"
#include "vfio/kernel_faults.hpp"
#include "vfio/mock_iommu.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Ioctl;
using pvdirty::IovaRange;
using pvdirty::Tracker;
using pvdirty::iommufd::Hwpt;

namespace {

constexpr std::uint64_t max_seeds = 8;
/* Two mappings that touch, a hole, and one more. */
const std::vector<IovaRange> mappings = {MockIommu::pages(0, 99), MockIommu::pages(100, 255),
                                         MockIommu::pages(300, 306)};
/* All of them, in whole pages of every size that is read. */
const IovaRange window = MockIommu::pages(0, 319);

Ioctl kernel(MockIommu& iommu) {
    return [&iommu](int, unsigned long request, void* arg) { return iommu.call(request, arg); };
}

/* A mock IOMMU and a source over it, with the mappings. */
struct Scene {
    MockIommu iommu;
    Hwpt source;

    explicit Scene(const std::function<Ioctl(MockIommu&)>& ioctl = kernel, bool tracks = true,
                   std::uint64_t page_size = io_page)
        : iommu(tracks), source("mock", iommu.fd(), iommu.hwpt(), page_size, ioctl(iommu)) {
        for (const IovaRange& mapping : mappings) {
            iommu.map(mapping);
            REQUIRE(source.map(mapping));
        }
    }
};

/* IO pages of mappings: the ends of each, and others. */
Numbers some_pages(unsigned seed) {
    std::mt19937 random(seed);
    Numbers addresses;
    for (const IovaRange& mapping : mappings) {
        addresses.insert({mapping.first, mapping.last - (io_page - 1)});
        const auto last = mapping.size() / io_page - 1;
        for (int i = 0; i < 12; i++) {
            addresses.insert(mapping.first + io_page * (random() % last));
        }
    }
    return addresses;
}

Numbers in_pages_of(std::uint64_t page_size, const Numbers& addresses,
                    IovaRange range = IovaRange{}) {
    Numbers numbers;
    for (const std::uint64_t address : addresses) {
        if (range.contains({address, address})) {
            numbers.insert(address / page_size);
        }
    }
    return numbers;
}

/* What the source reports of a range, in pages of the bitmap; an error is a page of its own. */
Numbers read(Hwpt& source, std::uint64_t page_size, IovaRange range = window) {
    const Bits bits(window, page_size);
    const auto answer = source.read_and_clear(range, bits.view);
    return answer && answer->cannot_say.empty() ? bits.set() : Numbers{UINT64_MAX};
}

/*
 * Devices write, and the source is read: in whole and in part, in pages of many sizes.
 * @returns what it reported wrong, or nullptr
 */
const char* wrong(const std::function<Ioctl(MockIommu&)>& ioctl,
                  std::uint64_t page_size = io_page) {
    Scene scene(ioctl, true, page_size);
    if (!scene.source.start()) {
        return "start";
    }
    for (unsigned seed = 0; seed < max_seeds; seed++) {
        for (const std::uint64_t size : {io_page, kib4, 4 * kib4, 16 * kib4}) {
            if (size < page_size) {
                continue; // bits would be spread: tests/property has that
            }
            const Numbers written = some_pages(seed);
            if (scene.iommu.write(written) != written.size()) {
                return "the mock IOMMU";
            }
            if (!scene.source.start()) {
                return "start again";
            }
            const IovaRange part = MockIommu::pages(16, 111);
            const IovaRange rest[] = {MockIommu::pages(0, 15), MockIommu::pages(112, 319)};
            if (size == kib4 &&
                read(scene.source, size, part) != in_pages_of(size, written, part)) {
                return "a part";
            }
            if (size == kib4) {
                Numbers expected = in_pages_of(size, written, rest[0]);
                expected.merge(in_pages_of(size, written, rest[1]));
                if (read(scene.source, size) != expected) {
                    return "the rest";
                }
            } else if (read(scene.source, size) != in_pages_of(size, written)) {
                return "what was written";
            }
            if (!read(scene.source, size).empty()) {
                return "read twice";
            }
        }
    }
    return scene.source.stop() ? nullptr : "stop";
}

} // namespace

TEST_CASE("hwpt: the kernel's bits are reported once, in pages of any size", "[hwpt]") {
    CHECK(wrong(kernel) == nullptr);
    CHECK(wrong(kernel, kib4) == nullptr); // larger than the IOMMU's
}

TEST_CASE("hwpt: a source that is wrong is found", "[hwpt]") {
    using Variant = std::function<int(MockIommu&, unsigned long, void*)>;
    const std::pair<const char*, Variant> variants[] = {
        {"loses the first page",
         [](MockIommu& iommu, unsigned long request, void* arg) {
             const int result = iommu.call(request, arg);
             if (request == IOMMU_HWPT_GET_DIRTY_BITMAP) {
                 iommu_hwpt_get_dirty_bitmap get{};
                 std::memcpy(&get, arg, sizeof(get));
                 // NOLINTNEXTLINE(performance-no-int-to-ptr): as the kernel has it
                 *reinterpret_cast<std::uint64_t*>(get.data) &= ~std::uint64_t{1};
             }
             return result;
         }},
        {"never clears",
         [](MockIommu& iommu, unsigned long request, void* arg) {
             if (request == IOMMU_HWPT_GET_DIRTY_BITMAP) {
                 static_cast<iommu_hwpt_get_dirty_bitmap*>(arg)->flags =
                     IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
             }
             return iommu.call(request, arg);
         }},
        {"reads twice",
         [](MockIommu& iommu, unsigned long request, void* arg) {
             if (request == IOMMU_HWPT_GET_DIRTY_BITMAP) {
                 std::vector<std::uint64_t> lost(64);
                 iommu_hwpt_get_dirty_bitmap get{};
                 std::memcpy(&get, arg, sizeof(get));
                 get.data = reinterpret_cast<std::uintptr_t>(lost.data());
                 iommu.call(request, &get);
             }
             return iommu.call(request, arg);
         }},
        {"does not track",
         [](MockIommu& iommu, unsigned long request, void* arg) {
             return request == IOMMU_HWPT_SET_DIRTY_TRACKING ? 0 : iommu.call(request, arg);
         }},
    };
    for (const auto& [name, variant] : variants) {
        CAPTURE(name);
        const char* found = nullptr;
        try {
            found = wrong([&variant = variant](MockIommu& iommu) {
                return [&](int, unsigned long request, void* arg) {
                    return variant(iommu, request, arg);
                };
            });
        } catch (const std::runtime_error&) { // the mock IOMMU does not take it
            found = "refused";
        }
        CHECK(found != nullptr);
    }
}

TEST_CASE("hwpt (003): enabling clears in the kernel, so the source does it once", "[hwpt]") {
    Scene scene;
    REQUIRE(scene.source.start());
    const Numbers written = some_pages(1);
    REQUIRE(scene.iommu.write(written) == written.size());
    REQUIRE(scene.source.start());
    CHECK(read(scene.source, io_page) == in_pages_of(io_page, written));
    scene.iommu.write(written);
    iommu_hwpt_set_dirty_tracking set{};
    set.size = sizeof(set);
    set.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE;
    set.hwpt_id = scene.iommu.hwpt();
    REQUIRE(scene.iommu.call(IOMMU_HWPT_SET_DIRTY_TRACKING, &set) == 0);
    CHECK(read(scene.source, io_page).empty());
}

TEST_CASE("hwpt (003): a read before start or after stop is EINVAL, and tracking starts anew",
          "[hwpt]") {
    Scene scene;
    const Bits bits(window);
    CHECK(scene.source.read_and_clear(window, bits.view).error().code == EINVAL);
    REQUIRE(scene.source.start());
    const Numbers written = some_pages(2);
    scene.iommu.write(written);
    REQUIRE(scene.source.stop());
    CHECK(scene.source.read_and_clear(window, bits.view).error().code == EINVAL);
    REQUIRE(scene.source.start());
    CHECK(read(scene.source, io_page).empty());
    scene.iommu.write(written);
    CHECK(read(scene.source, io_page) == in_pages_of(io_page, written));
}

TEST_CASE("hwpt (001): an IOMMU without tracking in the kernel makes all that is mapped dirty",
          "[hwpt]") {
    Scene scene(kernel, false);
    REQUIRE(scene.source.start());
    const Bits bits(window);
    const auto answer = scene.source.read_and_clear(window, bits.view);
    REQUIRE(answer);
    CHECK(answer->cannot_say == "the IOMMU does not track dirty pages");
    CHECK(bits.view.count() == 263);
    REQUIRE(scene.source.stop());
}

TEST_CASE("hwpt (001): a mapping that goes leaves its last bits, and one that comes is tracked",
          "[hwpt]") {
    Scene scene;
    REQUIRE(scene.source.start());
    const Numbers written = some_pages(3);
    scene.iommu.write(written);
    const Bits last(window, io_page);
    REQUIRE(scene.source.unmap(mappings[0], &last.view));
    CHECK(last.set() == in_pages_of(io_page, written, mappings[0]));
    scene.iommu.unmap(mappings[0]);
    const IovaRange tail{mappings[1].first, window.last};
    CHECK(read(scene.source, io_page) == in_pages_of(io_page, written, tail));
    const IovaRange later = MockIommu::pages(10, 19);
    scene.iommu.map(later);
    REQUIRE(scene.source.map(later));
    scene.iommu.write({later.first, later.last - (io_page - 1)});
    CHECK(read(scene.source, io_page) == Numbers{later.first / io_page, later.last / io_page});
}

TEST_CASE("hwpt: a fault anywhere in the kernel is an error, or changes nothing", "[hwpt]") {
    KernelFaults faults;
    unsigned told = 0;
    const auto ioctl = [&](MockIommu& iommu) {
        return [&](int, unsigned long request, void* arg) {
            return faults.around([&] { return iommu.call(request, arg); });
        };
    };
    const unsigned met = faults.everywhere([&] {
        Scene scene(ioctl);
        const auto started = scene.source.start();
        if (!started) {
            told++;
            return;
        }
        const Numbers written = some_pages(4);
        REQUIRE(scene.iommu.write(written) == written.size());
        const Bits bits(window, io_page);
        const auto answer = scene.source.read_and_clear(window, bits.view);
        if (answer) {
            CHECK(bits.set() == in_pages_of(io_page, written));
        }
        const auto stopped = scene.source.stop();
        told += !answer || !stopped ? 1 : 0;
    });
    CHECK(told > 0);
    CHECK(met >= told);
    WARN(met << " faults, " << told << " of them told");
}

TEST_CASE("hwpt: the tracker combines IOMMUs, and answers all dirty after a fault", "[hwpt]") {
    KernelFaults faults;
    faults.none();
    Scene tracks([&](MockIommu& iommu) {
        return [&](int, unsigned long request, void* arg) {
            return faults.around([&] { return iommu.call(request, arg); });
        };
    });
    Scene second;
    Tracker tracker;
    REQUIRE(tracker.add(tracks.source));
    REQUIRE(tracker.add(second.source));
    CHECK(tracker.start().doubts.empty());
    tracks.iommu.write({mappings[0].first});
    second.iommu.write({mappings[2].first, mappings[0].first + io_page});
    const Bits bits(window, io_page);
    auto outcome = tracker.read_and_clear(window, bits.view);
    REQUIRE(outcome);
    CHECK(outcome->doubts.empty());
    CHECK(bits.set() == Numbers{mappings[0].first / io_page, mappings[0].first / io_page + 1,
                                mappings[2].first / io_page});

    Scene cannot(kernel, false);
    outcome = tracker.add(cannot.source);
    REQUIRE(outcome);
    const Bits once(window);
    REQUIRE(tracker.read_and_clear(window, once.view)); // it has just joined
    CHECK(once.view.count() == 320);
    const Bits mapped(window);
    outcome = tracker.read_and_clear(window, mapped.view);
    REQUIRE(outcome);
    CHECK_FALSE(outcome->all_dirty);
    REQUIRE(outcome->doubts.size() == 1);
    CHECK(outcome->doubts[0].reason == "the IOMMU does not track dirty pages");
    CHECK(mapped.view.count() == 263);
    REQUIRE(tracker.remove(cannot.source, &mapped.view));

    faults.plan(0, 1);
    const Bits all(window);
    outcome = tracker.read_and_clear(window, all.view);
    REQUIRE(faults.happened());
    REQUIRE(outcome);
    CHECK(outcome->all_dirty);
    CHECK(all.view.count() == 320);
}
