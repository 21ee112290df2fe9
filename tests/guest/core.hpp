// SPDX-License-Identifier: MIT
/** The kernel module's own marking and counting, compiled for user space. */
#ifndef PVDIRTY_TESTS_GUEST_CORE_HPP
#define PVDIRTY_TESTS_GUEST_CORE_HPP

extern "C" {
#include "guest/core/log.h"
}

#endif // PVDIRTY_TESTS_GUEST_CORE_HPP
