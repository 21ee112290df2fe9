// SPDX-License-Identifier: MIT
#include "guest/fiber.hpp"

#include <utility>

namespace pvdirty::test {

namespace {

thread_local Fiber* begins = nullptr; // makecontext() hands over no pointer

} // namespace

void Fiber::enter() {
    Fiber* fiber = begins;
    fiber->function_();
    fiber->function_ = nullptr;
}

void Fiber::start(std::function<void()> function) {
    function_ = std::move(function);
    ::getcontext(&inner_);
    inner_.uc_stack.ss_sp = stack_.data();
    inner_.uc_stack.ss_size = stack_.size();
    inner_.uc_link = &outer_;
    ::makecontext(&inner_, enter, 0);
}

void Fiber::resume() {
    begins = this;
    inside_ = true;
    ::swapcontext(&outer_, &inner_);
    inside_ = false;
}

void Fiber::leave() {
    ::swapcontext(&inner_, &outer_);
}

} // namespace pvdirty::test
