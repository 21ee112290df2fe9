// SPDX-License-Identifier: MIT
/**
 * What a type1 container of VFIO answers to calls that concern dirty pages, as a table: each row is
 * a call, and what Linux 6.12 returns for it. It runs against anything that takes the ioctls.
 */
#ifndef PVDIRTY_TESTS_CONFORMANCE_TYPE1_HPP
#define PVDIRTY_TESTS_CONFORMANCE_TYPE1_HPP

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace pvdirty::conformance {

/** An ioctl of the container: 0, or -errno. */
using Type1Ioctl = std::function<int(unsigned long request, void* arg)>;

/** Rows that ran, and in one line each what was different. */
struct Type1Report {
    std::size_t rows = 0;
    std::vector<std::string> differences;
};

/**
 * Runs all rows.
 * @param ioctl of a container (VFIO_TYPE1v2_IOMMU, pages of 4 KiB) that has nothing mapped and is
 *              not tracking, and in which all that is mapped is dirty at every read: in the kernel
 *              one with a device that pins nothing by itself. It is left so
 */
Type1Report check_type1(const Type1Ioctl& ioctl);

} // namespace pvdirty::conformance

#endif // PVDIRTY_TESTS_CONFORMANCE_TYPE1_HPP
