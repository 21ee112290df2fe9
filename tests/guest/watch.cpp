// SPDX-License-Identifier: MIT
#include "guest/watch.hpp"

#include <cstdlib>
#include <cstring>

#include "guest/watch.h"

namespace pvdirty::test {

namespace {

thread_local Watcher* watcher = nullptr;

/* Accesses that nobody watches would prove nothing. */
Watcher& present() {
    if (watcher == nullptr) {
        std::abort();
    }
    return *watcher;
}

} // namespace

Watcher::Watcher() noexcept {
    watcher = this;
}

Watcher::~Watcher() {
    watcher = nullptr;
}

std::uint64_t Watcher::read(const void* where, unsigned size) noexcept {
    std::uint64_t value = 0;
    std::memcpy(&value, where, size); // little-endian, like the core in user space
    return value;
}

void Watcher::write(void* where, unsigned size, std::uint64_t value) noexcept {
    std::memcpy(where, &value, size);
}

std::uint64_t Watcher::guest_load(const void* where, unsigned size) {
    return read(where, size);
}

std::uint64_t Watcher::host_load(const void* where, unsigned size) {
    return read(where, size);
}

void Watcher::host_store(void* where, unsigned size, std::uint64_t value) {
    write(where, size, value);
}

} // namespace pvdirty::test

using pvdirty::test::present;

__u64 watch_guest_load(const void* where, unsigned size) {
    return present().guest_load(where, size);
}
void watch_guest_exchange(void* where) {
    present().guest_exchange(where);
}
void watch_guest_exchanged(void* where, bool done) {
    present().guest_exchanged(where, done);
}
void watch_guest_rmb() {
    present().guest_rmb();
}
void watch_guest_dma_rmb() {
    present().guest_dma_rmb();
}
__u64 watch_host_load(const void* where, unsigned size) {
    return present().host_load(where, size);
}
void watch_host_store(void* where, unsigned size, __u64 value) {
    present().host_store(where, size, value);
}
void watch_host_exchange(void* where) {
    present().host_exchange(where);
}
void watch_host_exchanged(void* where) {
    present().host_exchanged(where);
}
void watch_host_fence() {
    present().host_fence();
}
