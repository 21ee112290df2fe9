// SPDX-License-Identifier: MIT
/** What vfio::Container is to answer over a type1 container, the kernel's or one like it. */
#ifndef PVDIRTY_TESTS_CONFORMANCE_CONTAINER_HPP
#define PVDIRTY_TESTS_CONFORMANCE_CONTAINER_HPP

#include "conformance/type1.hpp"

namespace pvdirty::conformance {

/**
 * Runs all rows.
 * @param ioctl of a container as check_type1() wants it, and leaves it
 */
Type1Report check_container(const Type1Ioctl& ioctl);

} // namespace pvdirty::conformance

#endif // PVDIRTY_TESTS_CONFORMANCE_CONTAINER_HPP
