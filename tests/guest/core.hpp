// SPDX-License-Identifier: MIT
/** The kernel module's own marking and counting, compiled for user space. */
#ifndef PVDIRTY_TESTS_GUEST_CORE_HPP
#define PVDIRTY_TESTS_GUEST_CORE_HPP

// The guest's pvd_logging() and the host's C API share a name, and here a translation unit.
#define pvd_logging pvd_guest_logging
extern "C" {
#include "guest/core/log.h"
}
#undef pvd_logging

#endif // PVDIRTY_TESTS_GUEST_CORE_HPP
