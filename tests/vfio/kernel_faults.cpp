// SPDX-License-Identifier: MIT
#include "vfio/kernel_faults.hpp"

#include <array>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#include <fcntl.h>
#include <unistd.h>

namespace pvdirty::test {

namespace {

void set(const std::string& file, const char* value) {
    std::ofstream out("/sys/kernel/debug/" + file);
    out << value << std::flush;
    if (!out) {
        throw std::runtime_error("cannot write " + file);
    }
}

} // namespace

KernelFaults::KernelFaults() : fd_(open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC)) {
    if (fd_ < 0) {
        throw std::runtime_error("this kernel injects no faults");
    }
    for (const std::string kind :
         {"failslab", "fail_page_alloc", "fail_usercopy", "fail_iommufd"}) {
        set(kind + "/verbose", "0");
    }
    // Most allocations may wait.
    set("failslab/ignore-gfp-wait", "N");
    set("fail_page_alloc/ignore-gfp-wait", "N");
}

KernelFaults::~KernelFaults() {
    close(fd_);
}

void KernelFaults::plan(std::uint64_t call, unsigned place) {
    call_ = call;
    place_ = place;
    calls_ = 0;
    happened_ = false;
    held_ = false;
}

void KernelFaults::arm() const {
    const std::string number = std::to_string(place_);
    if (pwrite(fd_, number.data(), number.size(), 0) < 0) {
        std::abort();
    }
}

/* What is left of the count is 0 when the fault has happened. Else these calls may meet it. */
void KernelFaults::disarm() {
    std::array<char, 16> left{};
    happened_ = pread(fd_, left.data(), left.size(), 0) > 0 && left[0] == '0';
    while (pwrite(fd_, "0", 1, 0) < 0) {
    }
}

DeviceCalls faulty(KernelFaults& faults) {
    DeviceCalls calls = system_calls();
    calls.ioctl = [&faults](int fd, unsigned long request, void* argument) {
        return faults.around([&] { return system_calls().ioctl(fd, request, argument); });
    };
    calls.read = [&faults](int fd, void* out, std::size_t len) {
        return faults.around([&] { return system_calls().read(fd, out, len); });
    };
    calls.write = [&faults](int fd, const void* in, std::size_t len) {
        return faults.around([&] { return system_calls().write(fd, in, len); });
    };
    return calls;
}

} // namespace pvdirty::test
