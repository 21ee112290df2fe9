// SPDX-License-Identifier: MIT
/** A function that can be left in the middle and gone on with later. */
#ifndef PVDIRTY_TESTS_GUEST_FIBER_HPP
#define PVDIRTY_TESTS_GUEST_FIBER_HPP

#include <cstddef>
#include <functional>
#include <vector>

#include <ucontext.h>

namespace pvdirty::test {

/** One thread's; not for code that throws. */
class Fiber {
public:
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber() = default;

    [[nodiscard]] bool idle() const noexcept { return !function_; }
    /** Is its function running at this moment? */
    [[nodiscard]] bool inside() const noexcept { return inside_; }
    /** Takes a function, which begins at the next resume(). Only while idle. */
    void start(std::function<void()> function);
    /** Runs up to the next leave(), or to the end. Only while not idle. */
    void resume();
    /** Called inside: back to who resumed it. */
    void leave();
    /** Forgets the function wherever it is; destructors in it do not run. */
    void abandon() { function_ = nullptr; }

private:
    static void enter();

    std::function<void()> function_;
    std::vector<std::byte> stack_ = std::vector<std::byte>(std::size_t{128} << 10);
    ucontext_t outer_{};
    ucontext_t inner_{};
    bool inside_ = false;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_FIBER_HPP
