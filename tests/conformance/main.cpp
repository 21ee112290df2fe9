// SPDX-License-Identifier: MIT
/*
 * Runs the tables against the kernel: type1-conformance [--lacks-a-page] /dev/vfio/GROUP
 *
 * With --lacks-a-page, the control, the window's first page is missing in each bitmap.
 */
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>

#include <linux/vfio.h>

#include "conformance/container.hpp"
#include "conformance/machine.hpp"

namespace {

/** A GET of the kernel has succeeded: takes the window's first page out of its bitmap. */
void drop_first_page(const void* arg) {
    vfio_iommu_type1_dirty_bitmap_get get{};
    std::memcpy(&get, static_cast<const std::byte*>(arg) + sizeof(vfio_iommu_type1_dirty_bitmap),
                sizeof(get));
    if (get.iova == pvdirty::conformance::base) {
        *get.bitmap.data &= ~std::uint64_t{1};
    }
}

bool is_get(unsigned long request, const void* arg) {
    if (request != VFIO_IOMMU_DIRTY_PAGES) {
        return false;
    }
    vfio_iommu_type1_dirty_bitmap dirty{};
    std::memcpy(&dirty, arg, sizeof(dirty));
    return dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
}

} // namespace

int main(int argc, char** argv) {
    const bool lacks_a_page = argc == 3 && std::strcmp(argv[1], "--lacks-a-page") == 0;
    if (argc != 2 && !lacks_a_page) {
        std::fprintf(stderr, "usage: %s [--lacks-a-page] /dev/vfio/GROUP\n", argv[0]);
        return 2;
    }
    const char* path = argv[argc - 1];
    const int container = open("/dev/vfio/vfio", O_RDWR);
    int group = open(path, O_RDWR);
    if (container < 0 || group < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) != 0 ||
        ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) {
        std::fprintf(stderr, "%s: no type1 container: %s\n", path, std::strerror(errno));
        return 2;
    }
    const auto kernel = [&](unsigned long request, void* arg) {
        const int result = ioctl(container, request, arg) < 0 ? -errno : 0;
        if (lacks_a_page && result == 0 && is_get(request, arg)) {
            drop_first_page(arg);
        }
        return result;
    };
    auto report = pvdirty::conformance::check_type1(kernel);
    const auto ours = pvdirty::conformance::check_container(kernel);
    report.rows += ours.rows;
    report.differences.insert(report.differences.end(), ours.differences.begin(),
                              ours.differences.end());
    for (const std::string& line : report.differences) {
        std::printf("DIFFERS %s\n", line.c_str());
    }
    std::printf("%zu rows, %zu differ\n", report.rows, report.differences.size());
    return report.rows != 0 && report.differences.empty() ? 0 : 1;
}
