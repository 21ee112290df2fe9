// SPDX-License-Identifier: MIT
#include "vfio/vfio_file.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace pvdirty::test {

namespace {

int open_device(const std::string& device) {
    const std::filesystem::directory_iterator entries(device + "/vfio-dev");
    const std::string path = "/dev/vfio/devices/" + entries->path().filename().string();
    return open(path.c_str(), O_RDWR | O_CLOEXEC);
}

} // namespace

VfioFile::VfioFile(const std::string& device)
    : iommufd_(open("/dev/iommu", O_RDWR | O_CLOEXEC)), fd_(open_device(device)) {
    vfio_device_bind_iommufd bind{};
    bind.argsz = sizeof(bind);
    bind.iommufd = iommufd_;
    if (fd_ < 0 || ioctl(fd_, VFIO_DEVICE_BIND_IOMMUFD, &bind) < 0) {
        fail("opening " + device);
    }
}

VfioFile::~VfioFile() {
    close(fd_);
    close(iommufd_);
}

void fail(const std::string& what) {
    throw std::runtime_error(what + ": " + std::strerror(errno));
}

} // namespace pvdirty::test
