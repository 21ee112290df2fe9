// SPDX-License-Identifier: MIT
/** Guest CPUs that stop between any two accesses, and memory as weak as the hardware's. */
#ifndef PVDIRTY_TESTS_GUEST_MACHINE_HPP
#define PVDIRTY_TESTS_GUEST_MACHINE_HPP

#include <array>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "guest/fiber.hpp"
#include "guest/watch.hpp"

namespace pvdirty::test {

/**
 * The guest's CPUs run functions step by step, a step being one access to the log. Loads of a
 * guest's CPU may be performed early, like arm64's: a stale one returns the oldest value that no
 * barrier and no earlier load of the same word forbids. The host's stores wait in a buffer until a
 * fence or an exchange, like x86's.
 */
class Machine final : public Watcher {
public:
    static constexpr unsigned cpus = 2;

    /** Finishes what the CPU does, then gives it something new. */
    void start(unsigned cpu, std::function<void()> function);
    /** So many accesses, fewer when its function ends before. */
    void step(unsigned cpu, unsigned accesses, bool stale);
    void finish(unsigned cpu);
    [[nodiscard]] bool idle() const noexcept;
    /** All CPUs stop for good, and memory may change in any other way then: a reset, a crash. */
    void abandon();

    /** Inside a function: its driver has seen a completion that a device wrote just now. */
    void sees_completion();
    /** Inside a function: a plain store to the log, a step of its own. */
    void store(std::uint32_t* where, std::uint32_t value);

    using Hook = std::function<void(const void*)>;
    /** Called before each access of the host, with nullptr before a fence. */
    void on_host_access(Hook hook) { on_host_access_ = std::move(hook); }
    /** Called after each write of the guest. */
    void on_guest_write(Hook hook) { on_guest_write_ = std::move(hook); }

private:
    /** Times count changes of memory. A load is performed at a time, and returns what was there. */
    struct Cpu {
        Fiber fiber;
        unsigned budget = 0;
        bool stale = false;
        std::uint64_t barrier = 0;   // later loads are performed at this time or after it
        std::uint64_t performed = 0; // the latest time at which a load was performed
        std::unordered_map<std::uintptr_t, std::uint64_t> loaded; // by word: the last load's time
    };
    using History = std::vector<std::pair<std::uint64_t, std::uint64_t>>; // time, value since then
    struct Buffered {
        void* where;
        unsigned size;
        std::uint64_t value;
    };

    [[nodiscard]] Cpu* current() noexcept;
    void pause();
    void about_to_change(const void* where);
    void changed(const void* where);
    void drain();
    void host_accesses(const void* where);
    void guest_wrote(const void* where);

    std::uint64_t guest_load(const void* where, unsigned size) override;
    void guest_exchange(void* where) override;
    void guest_exchanged(void* where, bool done) override;
    void guest_rmb() override;
    void guest_dma_rmb() override { guest_rmb(); }
    std::uint64_t host_load(const void* where, unsigned size) override;
    void host_store(void* where, unsigned size, std::uint64_t value) override;
    void host_exchange(void* where) override;
    void host_exchanged(void* where) override { changed(where); }
    void host_fence() override;

    std::array<Cpu, cpus> cpus_;
    std::uint64_t now_ = 0;
    std::unordered_map<std::uintptr_t, History> history_; // by the word of 8 bytes
    std::vector<Buffered> buffer_;                        // the oldest first
    Hook on_host_access_;
    Hook on_guest_write_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_MACHINE_HPP
