// SPDX-License-Identifier: MIT
/* Sources in the kernel, over models of it. A number in a name is the list post that the test
   answers: see host/tracking/README.md. */
#include <catch2/catch.hpp>

#include "conformance/machine.hpp"
#include "pvdirty/tracker.hpp"
#include "pvdirty/type1.hpp"
#include "unit/tracking/kernel_models.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::DirtySource;
using pvdirty::Ioctl;
using pvdirty::IovaRange;
using pvdirty::Mappings;
using pvdirty::Outcome;
using pvdirty::Tracker;
using pvdirty::iommufd::Hwpt;
using pvdirty::vfio::Container;
using pvdirty::vfio::DeviceLog;
using pvdirty::vfio::Type1DirtyPages;

namespace {

Numbers read(DirtySource& source, IovaRange range, std::string* cannot_say = nullptr) {
    const Bits bits(pages(0, 255));
    const auto answer = source.read_and_clear(range, bits.view);
    REQUIRE(answer);
    if (cannot_say != nullptr) {
        *cannot_say = answer->cannot_say;
    } else {
        CHECK(answer->cannot_say.empty());
    }
    return bits.set();
}

int read_error(DirtySource& source, IovaRange range, std::string* message = nullptr) {
    const Bits bits(pages(0, 255));
    const auto answer = source.read_and_clear(range, bits.view);
    if (!answer && message != nullptr) {
        *message = answer.error().message;
    }
    return answer ? 0 : answer.error().code;
}

Numbers unmap(DirtySource& source, IovaRange range) {
    const Bits bits(pages(0, 255));
    REQUIRE(source.unmap(range, &bits.view));
    return bits.set();
}

/** A container of the kernel that passes the table of tests/conformance. */
struct ContainerModel {
    TestSource dirty{"pinned"};
    Type1DirtyPages type1{dirty};
    std::vector<unsigned long> requests;
    int fail = 0;

    [[nodiscard]] Ioctl ioctl() {
        return [this](int fd, unsigned long request, void* arg) {
            CHECK(fd == 16);
            requests.push_back(request);
            return fail != 0 ? -fail : type1.ioctl(request, arg);
        };
    }
    void map(Container& source, IovaRange range) {
        vfio_iommu_type1_dma_map map{};
        map.argsz = sizeof(map);
        map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
        map.iova = range.first;
        map.size = range.size();
        REQUIRE(type1.ioctl(VFIO_IOMMU_MAP_DMA, &map) == 0);
        REQUIRE(source.map(range));
    }
};

} // namespace

TEST_CASE("container (003): its page size is what GET_INFO says", "[kernel]") {
    ContainerModel model;
    CHECK(Container::page_size_of(16, model.ioctl()) == kib4);
    Type1DirtyPages large(model.dirty, 65536);
    CHECK(Container::page_size_of(16, [&](int, unsigned long request, void* arg) {
              return large.ioctl(request, arg);
          }) == 65536);
    model.fail = ENODEV;
    CHECK(Container::page_size_of(16, model.ioctl()).error() == ENODEV);
    // Before Linux 5.8 there is no such capability, and before 5.4 none at all.
    CHECK(Container::page_size_of(16, [](int, unsigned long, void*) { return 0; }).error() ==
          ENOTSUP);
    CHECK(Container::page_size_of(16, [](int, unsigned long, void* arg) {
              vfio_iommu_type1_info info{};
              info.argsz = 32;
              info.flags = VFIO_IOMMU_INFO_CAPS;
              info.cap_offset = 24;
              std::memcpy(arg, &info, sizeof(info));
              return 0;
          }).error() == ENOTSUP);
}

TEST_CASE("container (003): starts and stops once; a read outside of that is EINVAL", "[kernel]") {
    ContainerModel model;
    Container source("container", 16, kib4, model.ioctl());
    model.map(source, pages(0, 99));
    CHECK(read_error(source, pages(0, 99)) == EINVAL);
    REQUIRE(source.start());
    REQUIRE(source.start());
    CHECK(model.requests.size() == 1);
    model.dirty.dirty = {1, 99};
    CHECK(read(source, pages(0, 255)) == Numbers{1, 99});
    REQUIRE(source.stop());
    REQUIRE(source.stop());
    CHECK(model.requests.size() == 3);
    CHECK(read_error(source, pages(0, 99)) == EINVAL);
}

TEST_CASE("container: of a mapping that is asked for in part, the rest is kept", "[kernel]") {
    ContainerModel model;
    Container source("container", 16, kib4, model.ioctl());
    model.map(source, pages(0, 99));
    model.map(source, pages(100, 127));
    REQUIRE(source.start());
    model.dirty.dirty = {1, 50, 99, 100};
    CHECK(read(source, pages(50, 99)) == Numbers{50, 99});
    model.dirty.dirty.insert(2);
    CHECK(read(source, pages(0, 1)) == Numbers{1});
    CHECK(read(source, pages(0, 255)) == Numbers{2, 100});
    CHECK(read(source, pages(0, 255)).empty());
    // What is kept belongs to one start.
    model.dirty.dirty = {60};
    CHECK(read(source, pages(0, 1)).empty());
    REQUIRE(source.stop());
    REQUIRE(source.start());
    CHECK(read(source, pages(0, 255)).empty());
}

TEST_CASE("container (001): unmapping returns the last bits, kept ones too", "[kernel]") {
    ContainerModel model;
    Container source("container", 16, kib4, model.ioctl());
    model.map(source, pages(0, 99));
    model.map(source, pages(100, 127));
    REQUIRE(source.start());
    model.dirty.dirty = {1, 50, 101};
    CHECK(read(source, pages(0, 1)) == Numbers{1});
    model.dirty.dirty.insert(2);
    const Bits bits(pages(0, 255));
    CHECK(source.unmap(pages(0, 98), &bits.view).error().code == EINVAL);
    CHECK(unmap(source, pages(0, 99)) == Numbers{2, 50});
    model.dirty.dirty.insert(3);
    CHECK(read(source, pages(0, 255)) == Numbers{101}); // 3 is nobody's any more
    model.map(source, pages(0, 9));                     // and there is room again
    REQUIRE(source.stop());
    REQUIRE(source.unmap(pages(0, 255), nullptr));
    CHECK(model.requests.back() == VFIO_IOMMU_UNMAP_DMA);
    model.map(source, pages(0, 127));
}

TEST_CASE("container (003): the kernel's errors come with the call's name", "[kernel]") {
    ContainerModel model;
    Container source("container", 16, kib4, model.ioctl());
    model.map(source, pages(0, 99));
    model.fail = ENOMEM;
    CHECK(source.start().error().message ==
          "VFIO_IOMMU_DIRTY_PAGES_FLAG_START: Cannot allocate memory");
    model.fail = 0;
    REQUIRE(source.start());
    model.fail = EFAULT;
    std::string message;
    CHECK(read_error(source, pages(0, 255), &message) == EFAULT);
    CHECK(message == "VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: Bad address");
    const Bits bits(pages(0, 255));
    CHECK(source.unmap(pages(0, 99), &bits.view).error().message ==
          "VFIO_IOMMU_UNMAP_DMA: Bad address");
    CHECK(source.stop().error().message == "VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: Bad address");
}

TEST_CASE("kernel sources: mappings that overlap are EEXIST, unaligned ones EINVAL", "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    REQUIRE(log.map(pages(10, 19)));
    CHECK(log.map(pages(19, 20)).error().code == EEXIST);
    CHECK(log.map(pages(0, 63)).error().code == EEXIST);
    CHECK(log.map({0, 100}).error().code == EINVAL);
    CHECK(log.map({8192, 4095}).error().code == EINVAL);
    REQUIRE(log.map(pages(20, 20)));
    CHECK(log.unmap(pages(15, 30), nullptr).error().code == EINVAL);
    CHECK(log.unmap({1, 4095}, nullptr).error().code == EINVAL);
    REQUIRE(log.unmap(pages(10, 20), nullptr));
    REQUIRE(log.map(pages(0, 63)));
}

TEST_CASE("kernel sources: mappings at both ends of the address space", "[kernel]") {
    Mappings mappings;
    const IovaRange low{0, 4095};
    const IovaRange high{UINT64_MAX - 4095, UINT64_MAX};
    CHECK(mappings.add(low));
    CHECK(mappings.add(high));
    CHECK_FALSE(mappings.add({}));
    CHECK(mappings.in({}) == std::vector{low, high});
    CHECK(mappings.areas() == std::vector{low, high});
    CHECK(mappings.in({4096, UINT64_MAX - 4096}).empty());
    CHECK(mappings.cut_by({100, UINT64_MAX}));
    CHECK_FALSE(mappings.cut_by({}));
    CHECK(mappings.areas({4095, UINT64_MAX - 4095}) ==
          std::vector{IovaRange{4095, 4095}, IovaRange{UINT64_MAX - 4095, UINT64_MAX - 4095}});
}

TEST_CASE("device log (000): logs what is mapped at the start, and reports once", "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    REQUIRE(log.map(pages(0, 9)));
    REQUIRE(log.map(pages(10, 99)));
    REQUIRE(log.map(pages(200, 202)));
    REQUIRE(log.start());
    CHECK(device.ranges == std::vector{pages(0, 99), pages(200, 202)});
    device.write(3);
    REQUIRE(log.start()); // a second START would be EINVAL in the kernel
    CHECK(device.calls == 1);
    for (const std::uint64_t page : {9, 10, 64, 202, 150}) {
        device.write(page);
    }
    CHECK(read(log, pages(9, 63)) == Numbers{9, 10});
    CHECK(read(log, pages(0, 255)) == Numbers{3, 64, 202});
    CHECK(read(log, pages(0, 255)).empty());
    REQUIRE(log.stop());
    CHECK_FALSE(device.active());
    const int calls = device.calls;
    REQUIRE(log.stop());
    CHECK(device.calls == calls);
    CHECK(read_error(log, pages(0, 255)) == EINVAL);
}

TEST_CASE("device log (003): in bitmaps of other page sizes", "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    REQUIRE(log.map(pages(0, 63)));
    REQUIRE(log.start());
    device.write(17);
    const Bits coarse(pages(0, 63), 16 * kib4);
    REQUIRE(log.read_and_clear(pages(0, 63), coarse.view));
    CHECK(coarse.set() == Numbers{1});
}

TEST_CASE("device log (001): of what is mapped after the start it cannot say", "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    std::string why;
    SECTION("beside what it logs") {
        REQUIRE(log.map(pages(10, 19)));
        REQUIRE(log.start());
        REQUIRE(log.map(pages(8, 9)));
        REQUIRE(log.map(pages(20, 21)));
        device.write(12);
        CHECK(read(log, pages(0, 255), &why) == Numbers{8, 9, 12, 20, 21});
        CHECK(why == "memory was mapped after its logging began");
        CHECK(read(log, pages(10, 19)).empty());
        CHECK(read(log, pages(0, 255), &why) == Numbers{8, 9, 20, 21});
        CHECK(unmap(log, pages(20, 21)) == Numbers{20, 21});
        REQUIRE(log.stop());
        REQUIRE(log.start()); // now it is told
        CHECK(read(log, pages(0, 255)).empty());
    }
    SECTION("when nothing was") {
        REQUIRE(log.start());
        CHECK(device.calls == 0);
        REQUIRE(log.map(pages(8, 9)));
        CHECK(read(log, pages(0, 255), &why) == Numbers{8, 9});
        CHECK_FALSE(why.empty());
        REQUIRE(log.stop());
        CHECK(device.calls == 0);
    }
}

TEST_CASE("device log (001): a device without one makes all that is mapped dirty", "[kernel]") {
    DeviceModel device;
    device.has_log = false;
    DeviceLog log("nic0", 17, device.ioctl());
    REQUIRE(log.map(pages(3, 5)));
    Tracker tracker;
    REQUIRE(tracker.add(log));
    CHECK(tracker.start().doubts.empty());
    for (int i = 0; i < 2; i++) {
        const Bits bits(pages(0, 63));
        const auto outcome = tracker.read_and_clear(pages(0, 63), bits.view);
        REQUIRE(outcome);
        CHECK(bits.set() == Numbers{3, 4, 5});
        CHECK(outcome->message() == "nic0: the device has no DMA log");
        CHECK_FALSE(outcome->all_dirty);
    }
}

TEST_CASE("device log: more ranges than the kernel takes become fewer, and none is left out",
          "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    for (std::uint64_t i = 0; i < 300; i++) {
        REQUIRE(log.map(pages(i * 10 + i % 7, i * 10 + i % 7)));
    }
    REQUIRE(log.start());
    CHECK(device.ranges.size() == 256);
    const Bits bits(pages(0, 3071));
    Numbers written;
    for (std::uint64_t i = 0; i < 300; i++) {
        device.write(i * 10 + i % 7);
        device.write(i * 10 + i % 7 + 1); // is not mapped, and not asked for
        written.insert(i * 10 + i % 7);
    }
    const auto answer = log.read_and_clear(pages(0, 3071), bits.view);
    REQUIRE(answer);
    CHECK(answer->cannot_say.empty());
    CHECK(bits.set() == written);
}

TEST_CASE("device log (003): the kernel's errors come with the call's name", "[kernel]") {
    DeviceModel device;
    DeviceLog log("nic0", 17, device.ioctl());
    REQUIRE(log.map(pages(0, 63)));
    device.fail[VFIO_DEVICE_FEATURE_DMA_LOGGING_START] = ENOTCONN;
    CHECK(log.start().error().code == ENOTCONN);
    device.fail.clear();
    REQUIRE(log.start());
    device.fail[VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT] = EIO;
    std::string message;
    CHECK(read_error(log, pages(0, 63), &message) == EIO);
    CHECK(message == "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Input/output error");
    device.fail[VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP] = EIO;
    CHECK(log.stop().error().message == "VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Input/output error");
}

TEST_CASE("hwpt (003): enabling clears, so it is done once", "[kernel]") {
    IommufdModel iommufd;
    Hwpt hwpt("iommu", 18, 5, kib4, iommufd.ioctl());
    iommufd.mapped.add(pages(0, 63));
    REQUIRE(hwpt.map(pages(0, 63)));
    iommufd.write(1);
    REQUIRE(hwpt.start());
    iommufd.write(2);
    REQUIRE(hwpt.start());
    CHECK(iommufd.enables == 1);
    CHECK(read(hwpt, pages(0, 63)) == Numbers{2});
    CHECK(read(hwpt, pages(0, 63)).empty());
    REQUIRE(hwpt.stop());
    CHECK_FALSE(iommufd.enabled());
    // The kernel would answer 0 and an empty bitmap here.
    CHECK(read_error(hwpt, pages(0, 63)) == EINVAL);
}

TEST_CASE("hwpt: a hole between mappings hides nothing behind it", "[kernel]") {
    IommufdModel iommufd;
    Hwpt hwpt("iommu", 18, 5, kib4, iommufd.ioctl());
    for (const IovaRange& range : {pages(0, 9), pages(10, 20), pages(30, 40)}) {
        iommufd.mapped.add(range);
        REQUIRE(hwpt.map(range));
    }
    REQUIRE(hwpt.start());
    for (const std::uint64_t page : {5, 10, 35}) {
        iommufd.write(page);
    }
    CHECK(read(hwpt, pages(0, 255)) == Numbers{5, 10, 35});
    CHECK(iommufd.get_flags.size() == 2); // mappings that touch are one
    // What the model does when it is asked for all at once, as the kernel does.
    iommufd.write(35);
    Bits bits(pages(0, 255));
    iommu_hwpt_get_dirty_bitmap get{};
    get.size = sizeof(get);
    get.hwpt_id = 5;
    get.length = 256 * kib4;
    get.page_size = kib4;
    get.data = reinterpret_cast<std::uintptr_t>(bits.words.data());
    CHECK(iommufd.ioctl()(18, IOMMU_HWPT_GET_DIRTY_BITMAP, &get) == 0);
    CHECK(bits.set().empty());
}

TEST_CASE("hwpt (001): unmapping returns the last bits, without clearing them", "[kernel]") {
    IommufdModel iommufd;
    Hwpt hwpt("iommu", 18, 5, kib4, iommufd.ioctl());
    iommufd.mapped.add(pages(0, 9));
    REQUIRE(hwpt.map(pages(0, 9)));
    REQUIRE(hwpt.start());
    iommufd.write(4);
    CHECK(unmap(hwpt, pages(0, 9)) == Numbers{4});
    CHECK(iommufd.get_flags == std::vector<std::uint32_t>{IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR});
    CHECK(read(hwpt, pages(0, 255)).empty());
}

TEST_CASE("hwpt (001): an IOMMU that does not track makes all that is mapped dirty", "[kernel]") {
    IommufdModel iommufd;
    iommufd.tracks = false;
    Hwpt hwpt("iommu", 18, 5, kib4, iommufd.ioctl());
    REQUIRE(hwpt.map(pages(3, 4)));
    REQUIRE(hwpt.start());
    std::string why;
    CHECK(read(hwpt, pages(0, 255), &why) == Numbers{3, 4});
    CHECK(why == "the IOMMU does not track dirty pages");
    CHECK(unmap(hwpt, pages(3, 4)) == Numbers{3, 4});
    REQUIRE(hwpt.stop());
}

TEST_CASE("hwpt (003): the kernel's errors come with the call's name", "[kernel]") {
    IommufdModel iommufd;
    Hwpt wrong("iommu", 18, 6, kib4, iommufd.ioctl());
    CHECK(wrong.start().error().code == ENOENT);
    Hwpt hwpt("iommu", 18, 5, kib4, iommufd.ioctl());
    REQUIRE(hwpt.map(pages(0, 9)));
    REQUIRE(hwpt.start());
    iommufd.fail_get = ENOMEM;
    std::string message;
    CHECK(read_error(hwpt, pages(0, 63), &message) == ENOMEM);
    CHECK(message == "IOMMU_HWPT_GET_DIRTY_BITMAP: Cannot allocate memory");
}
