// SPDX-License-Identifier: MIT
/** Included before the library's sources, whose GuestWord then has this in place of atomic_ref. */
#ifndef PVDIRTY_TESTS_GUEST_WATCHED_WORD_HPP
#define PVDIRTY_TESTS_GUEST_WATCHED_WORD_HPP

#include <atomic>

#include "guest/watch.h"

namespace pvdirty::test {

template <class T>
class WatchedRef {
public:
    explicit WatchedRef(T& word) noexcept : word_(word) {}

    T load(std::memory_order /*order*/) const noexcept {
        return static_cast<T>(watch_host_load(&word_, sizeof(T)));
    }
    void store(T value, std::memory_order /*order*/) noexcept {
        watch_host_store(&word_, sizeof(T), value);
    }
    T exchange(T value, std::memory_order order) noexcept {
        return locked([=](std::atomic_ref<T> word) { return word.exchange(value, order); });
    }
    T fetch_or(T bits, std::memory_order order) noexcept {
        return locked([=](std::atomic_ref<T> word) { return word.fetch_or(bits, order); });
    }
    T fetch_and(T bits, std::memory_order order) noexcept {
        return locked([=](std::atomic_ref<T> word) { return word.fetch_and(bits, order); });
    }

private:
    template <class Function>
    T locked(Function function) noexcept {
        watch_host_exchange(&word_);
        const T was = function(std::atomic_ref<T>(word_));
        watch_host_exchanged(&word_);
        return was;
    }

    T& word_;
};

} // namespace pvdirty::test

#define PVDIRTY_ATOMIC_REF pvdirty::test::WatchedRef
#define PVDIRTY_FULL_FENCE() watch_host_fence()

#endif // PVDIRTY_TESTS_GUEST_WATCHED_WORD_HPP
