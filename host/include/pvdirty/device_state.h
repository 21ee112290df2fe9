/* SPDX-License-Identifier: MIT */
/*
 * The state of a VFIO device itself, saved and loaded in a migration: see
 * pvdirty/device_state.hpp for the order of the calls and what an error leaves,
 * host/device_state/FORMAT.md for the stream.
 *
 * Threads: all calls on one device must be serialised by the caller, except
 * pvd_device_state_lock() and pvd_device_state_unlock().
 */
#ifndef PVDIRTY_DEVICE_STATE_H
#define PVDIRTY_DEVICE_STATE_H

#include "pvdirty/pvdirty.h"

// NOLINTBEGIN(modernize-*): this header is C
#ifdef __cplusplus
extern "C" {
#endif

struct pvd_device_state; /* one VFIO device in a migration */

/**
 * Everything that is done to a device and to its data fds. Each behaves like
 * the system call of its name, but returns -errno when it fails. All members
 * are required. They must not call back into the library.
 */
struct pvd_device_calls {
    int (*ioctl)(void* opaque, int fd, unsigned long request, void* argument);
    int64_t (*pread)(void* opaque, int fd, void* out, size_t len, uint64_t offset);
    int64_t (*pwrite)(void* opaque, int fd, const void* in, size_t len, uint64_t offset);
    int64_t (*read)(void* opaque, int fd, void* out, size_t len);
    int64_t (*write)(void* opaque, int fd, const void* in, size_t len);
    /** Shared, readable and writable; NULL: refused. */
    void* (*mmap)(void* opaque, int fd, size_t len, uint64_t offset);
    void (*munmap)(void* opaque, void* address, size_t len);
    void (*close)(void* opaque, int fd);
};

/** Takes all of len bytes; false: the stream has failed. */
typedef bool pvd_stream_out(void* opaque, const uint8_t* bytes, size_t len);
/** Fills all of len bytes; false: the stream has ended before, or failed. */
typedef bool pvd_stream_in(void* opaque, uint8_t* bytes, size_t len);

/**
 * A device that can be migrated.
 * @device_fd: stays the caller's, and must stay open
 * @calls: copied; NULL: the system's own
 * @max_data_bytes: of device data in a stream; 0: 1 TiB
 * @why: here and below: one line when the call fails, "" otherwise; may be NULL
 * @returns NULL when it cannot; free with pvd_device_state_free()
 */
struct pvd_device_state* pvd_device_state_new(int device_fd, const struct pvd_device_calls* calls,
                                              void* opaque, uint64_t max_data_bytes, char* why,
                                              size_t why_len) PVD_NOEXCEPT;
/** As pvd_device_state_cleanup(), then frees it. */
void pvd_device_state_free(struct pvd_device_state* ds) PVD_NOEXCEPT;

/* ---- source ---------------------------------------------------------------- */

/** Bytes still to be saved: the device's own estimates. */
struct pvd_device_pending {
    uint64_t pre_copy;  /* can be had while the device runs */
    uint64_t stop_copy; /* with it stopped; UINT64_MAX: it cannot say */
};

/** The migration begins: a running device gathers its state, and runs on. */
bool pvd_device_save_setup(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                           char* why, size_t why_len) PVD_NOEXCEPT;
bool pvd_device_save_pending(struct pvd_device_state* ds, struct pvd_device_pending* pending,
                             char* why, size_t why_len) PVD_NOEXCEPT;
/**
 * Sends some of what there is.
 * @sent: bytes of device data; 0: nothing for now
 */
bool pvd_device_save_iterate(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                             uint64_t* sent, char* why, size_t why_len) PVD_NOEXCEPT;
/**
 * The device begins no DMA to other devices, and takes theirs, if it has such a
 * state. With the VM's CPUs stopped, on all devices before one of them stops;
 * not needed for one alone.
 */
bool pvd_device_quiesce(struct pvd_device_state* ds, char* why, size_t why_len) PVD_NOEXCEPT;
/**
 * The device stops. With the VM's CPUs stopped, before the last read of the
 * dirty bitmap; also whenever the VM is paused.
 */
bool pvd_device_stop(struct pvd_device_state* ds, char* why, size_t why_len) PVD_NOEXCEPT;
/**
 * Sends the rest, and the end.
 * @config: the VMM's own part (PCI config space, ...), up to 64 KiB
 */
bool pvd_device_save_complete(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                              const uint8_t* config, size_t config_len, char* why,
                              size_t why_len) PVD_NOEXCEPT;

/* ---- destination ----------------------------------------------------------- */

/**
 * Takes what one call of pvd_device_save_*() sent. The bytes are not trusted.
 * @whole: true with the last part
 * @returns false: the device has been reset, and is stopped
 */
bool pvd_device_load(struct pvd_device_state* ds, pvd_stream_in* in, void* opaque, bool* whole,
                     char* why, size_t why_len) PVD_NOEXCEPT;
/** The source's config, once the state is whole. Valid until the next call. */
const uint8_t* pvd_device_config(const struct pvd_device_state* ds, size_t* len) PVD_NOEXCEPT;

/* ---- both ------------------------------------------------------------------ */

/** Ends what was begun, whether it succeeded or not. */
bool pvd_device_state_cleanup(struct pvd_device_state* ds, char* why, size_t why_len) PVD_NOEXCEPT;
/** The first half of pvd_device_run(), on all devices of a VM before one of them runs. */
bool pvd_device_run_quiesced(struct pvd_device_state* ds, char* why, size_t why_len) PVD_NOEXCEPT;
/** The VM goes on here: the device runs. */
bool pvd_device_run(struct pvd_device_state* ds, char* why, size_t why_len) PVD_NOEXCEPT;
/** A reset has cost the device its state. */
bool pvd_device_was_reset(const struct pvd_device_state* ds) PVD_NOEXCEPT;
/** In between, no call on another thread uses the device: for reads of a dirty bitmap through it.
 */
void pvd_device_state_lock(struct pvd_device_state* ds) PVD_NOEXCEPT;
void pvd_device_state_unlock(struct pvd_device_state* ds) PVD_NOEXCEPT;

#ifdef __cplusplus
}
#endif

// NOLINTEND(modernize-*)
#endif /* PVDIRTY_DEVICE_STATE_H */
