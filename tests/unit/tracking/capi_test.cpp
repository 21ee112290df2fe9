// SPDX-License-Identifier: MIT
/* The C API of sources and tracker: that each call arrives, and what crosses the boundary. */
#include <catch2/catch.hpp>

#include <array>

#include "pvdirty/tracking.h"
#include "pvdirty/type1.hpp"
#include "unit/tracking/kernel_models.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Ioctl;

namespace {

using Message = std::array<char, 120>;

int call(void* opaque, int fd, unsigned long request, void* arg) {
    return (*static_cast<Ioctl*>(opaque))(fd, request, arg);
}

/** A bitmap of 64 pages of 4 KiB. */
struct CBits {
    std::array<std::uint64_t, 1> words{};
    pvd_bitmap bitmap{0, 64 * kib4, kib4, words.data(), words.size()};
};

std::string text(const Message& message) {
    return message.data();
}

} // namespace

TEST_CASE("C API: a tracker with a device log, an IOMMU and a device that nobody tracks",
          "[capi]") {
    DeviceModel device;
    IommufdModel iommufd;
    Ioctl device_ioctl = device.ioctl();
    Ioctl iommufd_ioctl = iommufd.ioctl();
    pvd_source* log = pvd_source_device_log("nic0", {17, call, &device_ioctl});
    pvd_source* hwpt = pvd_source_hwpt("iommu", {18, call, &iommufd_ioctl}, 5, kib4);
    pvd_source* mdev = pvd_source_everything("mdev0", "nobody tracks it", 40 * kib4, 42 * kib4 - 1);
    CHECK(pvd_source_map(log, 0, 32 * kib4) == 0);
    CHECK(pvd_source_map(log, 0, kib4) == -EEXIST);
    CHECK(pvd_source_map(log, 0, 0) == -EINVAL);
    CHECK(pvd_source_map(log, kib4, UINT64_MAX) == -EOVERFLOW);
    CHECK(pvd_source_map(hwpt, 0, 64 * kib4) == 0);
    iommufd.mapped.add(pages(0, 63));

    Message message{};
    pvd_tracker* tracker = pvd_tracker_new();
    CHECK(pvd_tracker_add(tracker, log, message.data(), message.size()) == PVD_REPORT_EXACT);
    CHECK(pvd_tracker_add(tracker, log, message.data(), message.size()) == -EEXIST);
    CHECK(text(message) == "the tracker has it already");
    CHECK(pvd_tracker_add(tracker, hwpt, nullptr, 0) == PVD_REPORT_EXACT);
    CHECK(pvd_tracker_page_size(tracker) == kib4);

    const CBits bits;
    CHECK(pvd_tracker_read(tracker, 0, 64 * kib4, &bits.bitmap, message.data(), message.size()) ==
          -EINVAL);
    CHECK(text(message) == "dirty pages are not tracked");
    CHECK(pvd_tracker_start(tracker, message.data(), message.size()) == PVD_REPORT_EXACT);
    CHECK(text(message).empty());
    device.write(1);
    iommufd.write(50);
    CHECK(pvd_tracker_read(tracker, 0, 32 * kib4, &bits.bitmap, message.data(), message.size()) ==
          PVD_REPORT_EXACT);
    CHECK(bits.words[0] == 2);
    CHECK(pvd_tracker_read(tracker, 0, 0, &bits.bitmap, nullptr, 0) == -EINVAL);
    CHECK(pvd_tracker_read(tracker, kib4, UINT64_MAX, &bits.bitmap, nullptr, 0) == -EOVERFLOW);
    pvd_bitmap wrong = bits.bitmap;
    wrong.nwords = 0;
    CHECK(pvd_tracker_read(tracker, 0, kib4, &wrong, message.data(), message.size()) == -EINVAL);
    CHECK(text(message) == "no bitmap");

    CHECK(pvd_tracker_add(tracker, mdev, message.data(), message.size()) == PVD_REPORT_DOUBT);
    CHECK(text(message) == "mdev0: joined while pages were tracked");
    CHECK(pvd_tracker_remove(tracker, mdev, &wrong, nullptr, 0) == -EINVAL);
    const CBits last;
    CHECK(pvd_tracker_remove(tracker, mdev, &last.bitmap, message.data(), message.size()) ==
          PVD_REPORT_DOUBT);
    CHECK(text(message) == "mdev0: nobody tracks it");
    CHECK(last.words[0] == std::uint64_t{3} << 40);
    CHECK(pvd_tracker_remove(tracker, mdev, nullptr, nullptr, 0) == -ENOENT);
    const CBits all; // what it may have written before it joined is still owed
    CHECK(pvd_tracker_read(tracker, 0, 64 * kib4, &all.bitmap, nullptr, 0) == PVD_REPORT_DOUBT);
    CHECK(all.words[0] == UINT64_MAX);

    device.write(9);
    const CBits unmapped;
    CHECK(pvd_source_unmap(log, 0, 0, &unmapped.bitmap, nullptr, 0) == -EINVAL);
    CHECK(pvd_source_unmap(log, 0, 32 * kib4, &wrong, nullptr, 0) == -EINVAL);
    CHECK(pvd_source_unmap(log, 0, kib4, &unmapped.bitmap, message.data(), message.size()) ==
          -EINVAL);
    CHECK(text(message) == "the range cuts a mapping in two");
    CHECK(pvd_source_unmap(log, 0, 32 * kib4, &unmapped.bitmap, nullptr, 0) == PVD_REPORT_EXACT);
    CHECK(unmapped.words[0] == 1U << 9);
    CHECK(pvd_source_unmap(hwpt, 0, 64 * kib4, nullptr, nullptr, 0) == PVD_REPORT_EXACT);

    CHECK(pvd_source_map(hwpt, 0, 64 * kib4) == 0);
    iommufd.fail_get = EIO;
    CHECK(pvd_tracker_read(tracker, 0, 64 * kib4, &all.bitmap, message.data(), message.size()) ==
          PVD_REPORT_ALL);
    CHECK(text(message) == "iommu: IOMMU_HWPT_GET_DIRTY_BITMAP: Input/output error");
    CHECK(pvd_tracker_stop(tracker, message.data(), message.size()) == PVD_REPORT_EXACT);
    CHECK_FALSE(device.active());
    CHECK_FALSE(iommufd.enabled());
    pvd_tracker_free(tracker);
    for (pvd_source* source : {log, hwpt, mdev}) {
        pvd_source_free(source);
    }
}

TEST_CASE("C API: type1 on top of a source, and a container on top of that", "[capi]") {
    pvd_source* everything = pvd_source_everything("all", "nobody tracks", 0, UINT64_MAX);
    pvd_type1* type1 = pvd_type1_new(everything, kib4);
    Ioctl ioctl = [type1](int, unsigned long request, void* arg) {
        return pvd_type1_ioctl(type1, request, arg);
    };
    std::uint64_t page_size = 0;
    CHECK(pvd_container_page_size({16, call, &ioctl}, &page_size) == 0);
    CHECK(page_size == kib4);
    CHECK(pvd_container_page_size({-1, nullptr, nullptr}, &page_size) == -EBADF); // the kernel's
    CHECK(pvd_type1_ioctl(type1, 0, nullptr) == -ENOTTY);

    pvd_source* container = pvd_source_container("container", {16, call, &ioctl}, page_size);
    vfio_iommu_type1_dma_map map{};
    map.argsz = sizeof(map);
    map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    map.size = 3 * kib4;
    CHECK(pvd_type1_ioctl(type1, VFIO_IOMMU_MAP_DMA, &map) == 0);
    CHECK(pvd_source_map(container, 0, 3 * kib4) == 0);
    pvd_tracker* tracker = pvd_tracker_new();
    CHECK(pvd_tracker_add(tracker, container, nullptr, 0) == PVD_REPORT_EXACT);
    CHECK(pvd_tracker_start(tracker, nullptr, 0) == PVD_REPORT_EXACT);
    const CBits bits;
    CHECK(pvd_tracker_read(tracker, 0, 64 * kib4, &bits.bitmap, nullptr, 0) == PVD_REPORT_EXACT);
    CHECK(bits.words[0] == 7);
    pvd_tracker_free(tracker);
    pvd_source_free(container);
    pvd_type1_free(type1);
    pvd_source_free(everything);
}

TEST_CASE("C API: a guest's marks", "[capi]") {
    const pvd_vmm_ops ops{
        .ram_hold = [](void*, uint64_t, uint64_t) { return pvd_ram{}; },
        .ram_release = [](void*, pvd_ram) {},
        .ram_written = [](void*, uint64_t, uint64_t) {},
        .device_rid = [](void*, void*) { return -1; },
    };
    pvd_domain* domain = pvd_domain_new(&ops, nullptr, 1);
    pvd_port* port = pvd_port_new(domain, "rp0", 0);
    pvd_device* device = pvd_device_add(port, "net0", nullptr);
    pvd_source* marks = pvd_source_guest_marks("guest", domain);
    pvd_tracker* tracker = pvd_tracker_new();
    pvd_tracker_add(tracker, marks, nullptr, 0);
    pvd_tracker_start(tracker, nullptr, 0);
    Message message{};
    const CBits bits;
    CHECK(pvd_tracker_read(tracker, 0, kib4, &bits.bitmap, message.data(), message.size()) ==
          PVD_REPORT_DOUBT);
    CHECK(text(message) == "guest: net0 (below rp0): the guest has not registered the port");
    CHECK(bits.words[0] == 1);
    pvd_stats stats{};
    pvd_domain_stats(domain, &stats);
    CHECK(stats.logging);
    pvd_tracker_stop(tracker, nullptr, 0);
    pvd_tracker_free(tracker);
    pvd_source_free(marks);
    pvd_device_remove(device);
    pvd_port_free(port);
    pvd_domain_free(domain);
}

TEST_CASE("C API: bitmaps are converted between page sizes", "[capi]") {
    std::array<std::uint64_t, 1> fine{0x8001};
    std::array<std::uint64_t, 1> coarse{4};
    const pvd_bitmap from{0, 64 * kib4, kib4, fine.data(), 1};
    pvd_bitmap to{0, 64 * kib4, 8 * kib4, coarse.data(), 1};
    CHECK(pvd_bitmap_convert(&to, &from) == 0);
    CHECK(coarse[0] == 7);
    to.page_size = 3;
    CHECK(pvd_bitmap_convert(&to, &from) == -EINVAL);
    CHECK(pvd_bitmap_convert(&from, &to) == -EINVAL);
    to.size = 0;
    CHECK(pvd_bitmap_convert(&from, &to) == -EINVAL);
}
