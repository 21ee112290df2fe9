// SPDX-License-Identifier: MIT
/** A VFIO device's own file, /dev/vfio/devices/vfioN. */
#ifndef PVDIRTY_TESTS_VFIO_VFIO_FILE_HPP
#define PVDIRTY_TESTS_VFIO_VFIO_FILE_HPP

#include <string>

namespace pvdirty::test {

/** Open, and bound to an iommufd of its own. */
class VfioFile {
public:
    /** @param device its directory in sysfs */
    explicit VfioFile(const std::string& device);
    VfioFile(const VfioFile&) = delete;
    VfioFile& operator=(const VfioFile&) = delete;
    ~VfioFile();

    [[nodiscard]] int fd() const noexcept { return fd_; }

private:
    int iommufd_;
    int fd_;
};

/** "what: errno's text". */
[[noreturn]] void fail(const std::string& what);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_VFIO_VFIO_FILE_HPP
