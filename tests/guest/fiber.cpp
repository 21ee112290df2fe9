// SPDX-License-Identifier: MIT
#include "guest/fiber.hpp"

#include <cstdint>
#include <utility>

namespace pvdirty::test {

/* makecontext() hands over ints only. */
void Fiber::enter(unsigned low, unsigned high) {
    auto* fiber = reinterpret_cast<Fiber*>(std::uintptr_t{high} << 32 | low);
    fiber->function_();
    fiber->function_ = nullptr;
}

void Fiber::start(std::function<void()> function) {
    function_ = std::move(function);
    ::getcontext(&inner_);
    inner_.uc_stack.ss_sp = stack_.data();
    inner_.uc_stack.ss_size = stack_.size();
    inner_.uc_link = &outer_;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    ::makecontext(&inner_, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self),
                  static_cast<unsigned>(self >> 32));
}

void Fiber::resume() {
    inside_ = true;
    ::swapcontext(&outer_, &inner_);
    inside_ = false;
}

void Fiber::leave() {
    ::swapcontext(&inner_, &outer_);
}

} // namespace pvdirty::test
