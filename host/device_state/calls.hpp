// SPDX-License-Identifier: MIT
/** Device calls as the protocols make them: in whole, and with words for what fails. */
#ifndef PVDIRTY_DEVICE_STATE_CALLS_HPP
#define PVDIRTY_DEVICE_STATE_CALLS_HPP

#include <cstdint>
#include <span>
#include <string>

#include <tl/expected.hpp>

#include "pvdirty/device_state.hpp"

namespace pvdirty {

template <class T>
using Result = tl::expected<T, std::string>;

/** "what failed: why", from -errno. */
tl::unexpected<std::string> failed(const std::string& what, std::int64_t minus_errno);

/** A device's fd, or a data fd. Short transfers go on, and so do interrupted ones. */
class DeviceFd {
public:
    DeviceFd(const DeviceCalls& calls, int fd) noexcept : calls_(calls), fd_(fd) {}

    [[nodiscard]] int number() const noexcept { return fd_; }
    /** @returns -errno, or what the call says */
    int ioctl(unsigned long request, void* argument) const {
        return calls_.ioctl(fd_, request, argument);
    }
    /** All of these bytes, in as few calls as the kernel allows. */
    [[nodiscard]] Result<void> pread(std::span<std::uint8_t> bytes, std::uint64_t offset,
                                     const std::string& what) const;
    [[nodiscard]] Result<void> pwrite(std::span<const std::uint8_t> bytes, std::uint64_t offset,
                                      const std::string& what) const;
    /** Once, up to so many bytes. @returns -errno, or bytes */
    [[nodiscard]] std::int64_t read(std::span<std::uint8_t> bytes) const;
    [[nodiscard]] Result<void> write(std::span<const std::uint8_t> bytes,
                                     const std::string& what) const;

private:
    const DeviceCalls& calls_;
    int fd_;
};

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_CALLS_HPP
