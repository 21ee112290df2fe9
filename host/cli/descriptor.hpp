// SPDX-License-Identifier: MIT
/** A file descriptor with an owner. */
#ifndef PVDIRTY_CLI_DESCRIPTOR_HPP
#define PVDIRTY_CLI_DESCRIPTOR_HPP

#include <utility>

#include <unistd.h>

namespace pvdirty::cli {

/** Closes its descriptor when it goes; -1 is none. */
class Descriptor {
public:
    explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) {
            ::close(fd_);
        }
    }

    [[nodiscard]] int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }

private:
    int fd_;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_DESCRIPTOR_HPP
