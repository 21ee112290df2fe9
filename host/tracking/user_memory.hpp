// SPDX-License-Identifier: MIT
/** The caller's memory as the kernel would access it: a bad address is an error, not a signal. */
#ifndef PVDIRTY_TRACKING_USER_MEMORY_HPP
#define PVDIRTY_TRACKING_USER_MEMORY_HPP

#include <cstddef>
#include <cstdint>

namespace pvdirty {

/** @returns false: not all of it could be copied */
bool copy_from_user(void* to, const void* from, std::size_t len) noexcept;
bool copy_to_user(void* to, const void* from, std::size_t len) noexcept;

/** Can [address, address + len) be user memory at all? The kernel has the upper half. */
constexpr bool access_ok(std::uintptr_t address, std::uint64_t len) noexcept {
    constexpr std::uintptr_t limit = UINTPTR_MAX / 2 + 1;
    return len <= limit && address <= limit - len;
}

} // namespace pvdirty

#endif // PVDIRTY_TRACKING_USER_MEMORY_HPP
