// SPDX-License-Identifier: MIT
/** Faults that the kernel injects into its own work: Documentation/fault-injection of Linux. */
#ifndef PVDIRTY_TESTS_VFIO_KERNEL_FAULTS_HPP
#define PVDIRTY_TESTS_VFIO_KERNEL_FAULTS_HPP

#include <cstdint>
#include <utility>

#include "pvdirty/device_state.hpp"

namespace pvdirty::test {

/**
 * Counts system calls, and has one of them meet a fault: the n-th place in it where the kernel may
 * fail (an allocation, a copy from or to the caller, a test point of iommufd) does.
 */
class KernelFaults {
public:
    KernelFaults();
    KernelFaults(const KernelFaults&) = delete;
    KernelFaults& operator=(const KernelFaults&) = delete;
    ~KernelFaults();

    /** System call number `call`, from 0, meets one at its place `place`, from 1. */
    void plan(std::uint64_t call, unsigned place);
    void none() { plan(UINT64_MAX, 1); }
    /** Calls are not counted, and meet none, from here to resume(). A new plan resumes. */
    void hold() noexcept { held_ = true; }
    void resume() noexcept { held_ = false; }
    /** Of the plan. */
    [[nodiscard]] bool happened() const noexcept { return happened_; }
    /** Since the plan. */
    [[nodiscard]] std::uint64_t calls() const noexcept { return calls_; }

    /** Makes a system call under the plan. */
    template <class Call>
    auto around(Call&& call) {
        const bool armed = !held_ && calls_++ == call_;
        if (armed) {
            arm();
        }
        const auto result = std::forward<Call>(call)();
        if (armed) {
            disarm();
        }
        return result;
    }

    /**
     * One plan for each place of each call, until there are no more.
     * @param run is one run under the plan
     * @returns plans that met their fault
     */
    template <class Run>
    unsigned everywhere(Run&& run) {
        unsigned met = 0;
        for (std::uint64_t call = 0;; call++) {
            for (unsigned place = 1;; place++) {
                plan(call, place);
                run();
                if (!happened_) {
                    break;
                }
                met++;
            }
            if (calls_ <= call) {
                none();
                return met;
            }
        }
    }

private:
    void arm() const;
    void disarm();

    int fd_; // /proc/thread-self/fail-nth
    std::uint64_t call_ = UINT64_MAX;
    unsigned place_ = 1;
    std::uint64_t calls_ = 0;
    bool happened_ = false;
    bool held_ = false;
};

/** The system's calls to a device under its plan; maps and closes apart. */
DeviceCalls faulty(KernelFaults& faults);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_VFIO_KERNEL_FAULTS_HPP
