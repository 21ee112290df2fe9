// SPDX-License-Identifier: MIT
/** What goes wrong with a model of a device, and when. */
#ifndef PVDIRTY_TESTS_DEVICE_FAULTS_HPP
#define PVDIRTY_TESTS_DEVICE_FAULTS_HPP

#include <cstdint>
#include <functional>

namespace pvdirty::test {

enum class Fault {
    none,
    fails,       // with EIO, and nothing is done
    fails_late,  // with EIO, and all is done: as when no fd was free for the kernel's answer
    breaks,      // with EIO, and the device is in its error state
    falls_short, // a transfer ends early, with what it has
    interrupted, // with EINTR, and nothing is done
};

/** Counts the accesses to a device, and spoils one of them. */
class Faults {
public:
    /** Access number `at`, from 0, goes wrong so; with `onwards` each later one fails too. */
    void plan(Fault fault, std::uint64_t at, bool onwards = false) {
        fault_ = fault;
        at_ = at;
        onwards_ = onwards;
        count_ = 0;
    }
    void none() { plan(Fault::none, UINT64_MAX); }
    /** Called before each access: other threads run at any moment. */
    void on_access(std::function<void()> hook) { hook_ = std::move(hook); }

    /** A model asks at each access. */
    Fault next() {
        if (hook_) {
            hook_();
        }
        const std::uint64_t now = count_++;
        return now == at_ ? fault_ : now > at_ && onwards_ ? Fault::fails : Fault::none;
    }
    [[nodiscard]] std::uint64_t accesses() const { return count_; }
    [[nodiscard]] bool happened() const { return count_ > at_; }

private:
    Fault fault_ = Fault::none;
    std::uint64_t at_ = UINT64_MAX;
    bool onwards_ = false;
    std::uint64_t count_ = 0;
    std::function<void()> hook_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_FAULTS_HPP
