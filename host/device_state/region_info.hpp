// SPDX-License-Identifier: MIT
/** Where a device's migration region is, and what of it may be mapped. */
#ifndef PVDIRTY_DEVICE_STATE_REGION_INFO_HPP
#define PVDIRTY_DEVICE_STATE_REGION_INFO_HPP

#include <cstdint>
#include <optional>
#include <vector>

#include "device_state/calls.hpp"

namespace pvdirty {

/** Bytes [offset, offset + size) of the region. */
struct RegionArea {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
};

struct RegionInfo {
    std::uint64_t offset = 0; /**< of the device's fd */
    std::uint64_t size = 0;
    std::vector<RegionArea> areas; /**< that may be mapped: ascending, disjoint, none empty */
};

/** @returns nothing: the device has none. What the kernel says is checked before it is used. */
Result<std::optional<RegionInfo>> find_migration_region(const DeviceFd& device);

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_REGION_INFO_HPP
