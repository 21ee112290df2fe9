// SPDX-License-Identifier: MIT
/** Who sees the accesses of watch.h. */
#ifndef PVDIRTY_TESTS_GUEST_WATCH_HPP
#define PVDIRTY_TESTS_GUEST_WATCH_HPP

#include <cstdint>

namespace pvdirty::test {

/** Sees every access of the thread that made it, from its construction to its end. By default
 * each access is what it says. */
class Watcher {
public:
    Watcher() noexcept;
    Watcher(const Watcher&) = delete;
    Watcher& operator=(const Watcher&) = delete;
    virtual ~Watcher();

    virtual std::uint64_t guest_load(const void* where, unsigned size);
    virtual void guest_exchange(void* /*where*/) {}
    virtual void guest_exchanged(void* /*where*/, bool /*done*/) {}
    virtual void guest_rmb() {}
    virtual void guest_dma_rmb() {}
    virtual std::uint64_t host_load(const void* where, unsigned size);
    virtual void host_store(void* where, unsigned size, std::uint64_t value);
    virtual void host_exchange(void* /*where*/) {}
    virtual void host_exchanged(void* /*where*/) {}
    virtual void host_fence() {}

protected:
    /** Plain access to 1, 4 or 8 bytes. */
    static std::uint64_t read(const void* where, unsigned size) noexcept;
    static void write(void* where, unsigned size, std::uint64_t value) noexcept;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_WATCH_HPP
