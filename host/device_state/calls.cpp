// SPDX-License-Identifier: MIT
#include "device_state/calls.hpp"

#include <cerrno>
#include <system_error>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace pvdirty {

namespace {

template <class T>
T or_errno(T result) noexcept {
    return result < 0 ? -errno : result;
}

/* Calls some(bytes from here) until all are through. */
template <class Bytes, class Some>
Result<void> whole(Bytes bytes, const std::string& what, Some some) {
    std::size_t done = 0;
    while (done < bytes.size()) {
        const Bytes rest = bytes.subspan(done);
        const std::int64_t n = some(rest, done);
        if (n == -EINTR) {
            continue;
        }
        if (n < 0) {
            return failed(what, n);
        }
        if (n == 0 || static_cast<std::uint64_t>(n) > rest.size()) {
            return tl::unexpected(what + " ended after " + std::to_string(done) + " of " +
                                  std::to_string(bytes.size()) + " bytes");
        }
        done += static_cast<std::size_t>(n);
    }
    return {};
}

} // namespace

tl::unexpected<std::string> failed(const std::string& what, std::int64_t minus_errno) {
    return tl::unexpected(
        what + " failed: " + std::generic_category().message(static_cast<int>(-minus_errno)));
}

DeviceCalls system_calls() {
    return {
        .ioctl = [](int fd, unsigned long request,
                    void* argument) { return or_errno(::ioctl(fd, request, argument)); },
        .pread = [](int fd, void* out, std::size_t len, std::uint64_t offset) -> std::int64_t {
            return or_errno(::pread(fd, out, len, static_cast<off_t>(offset)));
        },
        .pwrite = [](int fd, const void* in, std::size_t len, std::uint64_t offset)
            -> std::int64_t { return or_errno(::pwrite(fd, in, len, static_cast<off_t>(offset))); },
        .read = [](int fd, void* out, std::size_t len) -> std::int64_t {
            return or_errno(::read(fd, out, len));
        },
        .write = [](int fd, const void* in, std::size_t len) -> std::int64_t {
            return or_errno(::write(fd, in, len));
        },
        .mmap = [](int fd, std::size_t len, std::uint64_t offset) -> void* {
            void* address = ::mmap(nullptr, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                   static_cast<off_t>(offset));
            return address == MAP_FAILED ? nullptr : address;
        },
        .munmap = [](void* address, std::size_t len) { ::munmap(address, len); },
        .close = [](int fd) { ::close(fd); },
    };
}

Result<void> DeviceFd::pread(std::span<std::uint8_t> bytes, std::uint64_t offset,
                             const std::string& what) const {
    return whole(bytes, what, [&](std::span<std::uint8_t> rest, std::size_t done) {
        return calls_.pread(fd_, rest.data(), rest.size(), offset + done);
    });
}

Result<void> DeviceFd::pwrite(std::span<const std::uint8_t> bytes, std::uint64_t offset,
                              const std::string& what) const {
    return whole(bytes, what, [&](std::span<const std::uint8_t> rest, std::size_t done) {
        return calls_.pwrite(fd_, rest.data(), rest.size(), offset + done);
    });
}

std::int64_t DeviceFd::read(std::span<std::uint8_t> bytes) const {
    std::int64_t n = -EINTR;
    while (n == -EINTR) {
        n = calls_.read(fd_, bytes.data(), bytes.size());
    }
    return n;
}

Result<void> DeviceFd::write(std::span<const std::uint8_t> bytes, const std::string& what) const {
    return whole(bytes, what, [&](std::span<const std::uint8_t> rest, std::size_t) {
        return calls_.write(fd_, rest.data(), rest.size());
    });
}

} // namespace pvdirty
