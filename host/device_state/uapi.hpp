// SPDX-License-Identifier: MIT
/** The migration region, which <linux/vfio.h> no longer has: Linux 5.18 removed it. */
#ifndef PVDIRTY_DEVICE_STATE_UAPI_HPP
#define PVDIRTY_DEVICE_STATE_UAPI_HPP

#include <cstddef>
#include <cstdint>

#include <linux/vfio.h>

namespace pvdirty::uapi {

/** At the start of a migration region (Linux 5.8 to 5.17); each field is accessed as a whole. */
struct MigrationInfo {
    std::uint32_t device_state;
    std::uint32_t reserved;
    std::uint64_t pending_bytes;
    std::uint64_t data_offset; /**< of the region */
    std::uint64_t data_size;
};
static_assert(sizeof(MigrationInfo) == 32 && offsetof(MigrationInfo, pending_bytes) == 8);

/** MigrationInfo::device_state: bits, of which those above must be kept. */
enum : std::uint32_t {
    region_stopped = 0,
    region_running = 1,
    region_saving = 2,
    region_resuming = 4,
    region_error = region_saving | region_resuming,
    region_state_mask = 7,
};

} // namespace pvdirty::uapi

#endif // PVDIRTY_DEVICE_STATE_UAPI_HPP
