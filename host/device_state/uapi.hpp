// SPDX-License-Identifier: MIT
/**
 * What <linux/vfio.h> does not have in every version: the migration region, which Linux 5.18
 * removed, and what came to the migration states with Linux 6.2.
 */
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

inline constexpr std::uint32_t region_type_migration = 3;
inline constexpr std::uint32_t region_subtype_migration = 1;

/** Linux 6.2: a device whose state can be read while it runs. */
inline constexpr std::uint64_t migration_pre_copy = 1 << 2;
inline constexpr std::uint32_t state_pre_copy = 6;

/** VFIO_MIG_GET_PRECOPY_INFO, on the data fd. */
struct PrecopyInfo {
    std::uint32_t argsz;
    std::uint32_t flags;
    std::uint64_t initial_bytes;
    std::uint64_t dirty_bytes;
};
inline constexpr unsigned long get_precopy_info = _IO(VFIO_TYPE, VFIO_BASE + 21);

/** Linux 6.2: an estimate, in any state. */
struct MigDataSize {
    std::uint64_t stop_copy_length;
};
inline constexpr std::uint32_t feature_mig_data_size = 9;

#ifdef VFIO_MIGRATION_PRE_COPY
static_assert(migration_pre_copy == VFIO_MIGRATION_PRE_COPY &&
              state_pre_copy == VFIO_DEVICE_STATE_PRE_COPY &&
              get_precopy_info == VFIO_MIG_GET_PRECOPY_INFO &&
              sizeof(PrecopyInfo) == sizeof(vfio_precopy_info) &&
              offsetof(PrecopyInfo, dirty_bytes) == offsetof(vfio_precopy_info, dirty_bytes));
#endif
#ifdef VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
static_assert(feature_mig_data_size == VFIO_DEVICE_FEATURE_MIG_DATA_SIZE &&
              sizeof(MigDataSize) == sizeof(vfio_device_feature_mig_data_size));
#endif

} // namespace pvdirty::uapi

#endif // PVDIRTY_DEVICE_STATE_UAPI_HPP
