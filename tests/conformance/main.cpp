// SPDX-License-Identifier: MIT
/* Runs the table against the kernel: type1-conformance /dev/vfio/GROUP */
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>

#include <linux/vfio.h>

#include "conformance/type1.hpp"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s /dev/vfio/GROUP\n", argv[0]);
        return 2;
    }
    const int container = open("/dev/vfio/vfio", O_RDWR);
    int group = open(argv[1], O_RDWR);
    if (container < 0 || group < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) != 0 ||
        ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) {
        std::fprintf(stderr, "%s: no type1 container: %s\n", argv[1], std::strerror(errno));
        return 2;
    }
    const auto report = pvdirty::conformance::check_type1([&](unsigned long request, void* arg) {
        return ioctl(container, request, arg) < 0 ? -errno : 0;
    });
    for (const std::string& line : report.differences) {
        std::printf("DIFFERS %s\n", line.c_str());
    }
    std::printf("%zu rows, %zu differ\n", report.rows, report.differences.size());
    return report.rows != 0 && report.differences.empty() ? 0 : 1;
}
