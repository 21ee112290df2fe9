// SPDX-License-Identifier: MIT
#include "guest/ram.hpp"

#include <new>

#include <sys/mman.h>

#include "pvdirty/pages.hpp"

namespace pvdirty::test {

namespace {

std::byte* map(std::uint64_t size) {
    void* host = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        throw std::bad_alloc();
    }
    return static_cast<std::byte*>(host);
}

} // namespace

Ram::Ram(std::uint64_t gpa, std::uint64_t size) : gpa_(gpa), size_(size), host_(map(size)) {}

Ram::~Ram() {
    ::munmap(host_, size_);
}

HeldRam Ram::hold(std::uint64_t gpa, std::uint64_t len) noexcept {
    if (gpa < gpa_ || len > size_ || gpa - gpa_ > size_ - len) {
        return {};
    }
    holds_++;
    return {at<std::byte>(gpa) + skew_, this};
}

void Ram::release(HeldRam ram) noexcept {
    holds_ -= ram.region == this ? 1 : 0;
}

void Ram::written(std::uint64_t gpa, std::uint64_t len) noexcept {
    written_calls_++;
    if (on_written_) {
        on_written_();
    }
    if (len == 0 || gpa < gpa_ || len > size_ || gpa - gpa_ > size_ - len) {
        written_outside_ = true;
        return;
    }
    const PageRange pages = *pages_of(gpa, len);
    for (std::uint64_t page = pages.first; page <= pages.last; page++) {
        written_.insert(page);
    }
}

} // namespace pvdirty::test
