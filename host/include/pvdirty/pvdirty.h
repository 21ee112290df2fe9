/* SPDX-License-Identifier: MIT */
/*
 * libpvdirty for VMMs in any language: the ports' capability, the log and the
 * session. It knows no VMM: guest RAM, device names and messages come through
 * struct pvd_vmm_ops.
 *
 * Threads: all calls on one domain and its ports must be serialised by the
 * caller (QEMU: the BQL), except pvd_domain_pending() and pvd_check_round(), which
 * may be called from any thread. Nothing here waits for the guest, and nothing allocates by
 * a size the guest chose beyond PVDIRTY_MAX_SECTIONS table entries.
 */
#ifndef PVDIRTY_PVDIRTY_H
#define PVDIRTY_PVDIRTY_H

// NOLINTBEGIN(modernize-*): this header is C
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define PVD_NOEXCEPT noexcept /* exhausted memory ends the process */
#else
#define PVD_NOEXCEPT
#endif

struct pvd_domain; /* all ports of a VM, their common log, the session */
struct pvd_port;   /* one emulated bridge */
struct pvd_device; /* one covered PCI function, bridges excepted */

/** A host view of guest RAM that stays valid until it is released. */
struct pvd_ram {
    void* host;   /* address of the first byte, NULL: refused */
    void* region; /* the VMM's handle for the region that holds it */
};

/**
 * What the library needs of the VMM. All members are required. They are called
 * inside library calls, on the caller's thread, and must not call back into
 * the library, except where said.
 */
struct pvd_vmm_ops {
    /**
     * Host view of [gpa, gpa + len), which must lie in one region of
     * writable, migratable guest RAM; host is NULL otherwise. The region
     * stays mapped until ram_release().
     */
    struct pvd_ram (*ram_hold)(void* opaque, uint64_t gpa, uint64_t len);
    void (*ram_release)(void* opaque, struct pvd_ram ram);
    /** The host wrote to guest RAM: it is dirty like after any write. */
    void (*ram_written)(void* opaque, uint64_t gpa, uint64_t len);
    /**
     * PCI routing id (bus << 8 | devfn) that the guest now uses for a
     * covered device, or -1 while it has not been enumerated.
     */
    int (*device_rid)(void* opaque, void* device_opaque);
};

/**
 * New domain.
 * @id: what the ports' capabilities show as domain id
 * @returns never NULL; free with pvd_domain_free() after its ports
 */
struct pvd_domain* pvd_domain_new(const struct pvd_vmm_ops* ops, void* opaque,
                                  uint32_t id) PVD_NOEXCEPT;
void pvd_domain_free(struct pvd_domain* d) PVD_NOEXCEPT;

/**
 * From now on, a log with more sections is refused. What one harvest costs
 * grows with them, so there should not be more than windows of 1 GiB in which
 * this VM can have RAM, now or after hot-plug. Without this call:
 * PVDIRTY_MAX_SECTIONS.
 */
void pvd_domain_limit_sections(struct pvd_domain* d, uint32_t sections) PVD_NOEXCEPT;

/* ---- ports and their capability ------------------------------------------ */

/**
 * New port.
 * @name: for messages, copied
 * @host_features: 1u << PVDIRTY_F_*
 */
struct pvd_port* pvd_port_new(struct pvd_domain* d, const char* name,
                              uint32_t host_features) PVD_NOEXCEPT;
/**
 * Unplugs the port: it leaves the log. Its devices are unplugged, and each is
 * still there until its own pvd_device_remove().
 */
void pvd_port_free(struct pvd_port* p) PVD_NOEXCEPT;

/**
 * The capability as the guest reads it: PVDIRTY_CAP_LEN bytes of struct
 * pvdirty_cap whose cap_vndr and cap_next are 0 (they are the VMM's). Changed
 * by any call on any port of the domain.
 */
const uint8_t* pvd_port_config(const struct pvd_port* p) PVD_NOEXCEPT;

/**
 * The guest writes to the capability.
 * @offset: from the start of the capability
 * @len: 1, 2 or 4 bytes
 * Any value of any argument is safe; what the format does not allow is ignored
 * or answered in the error register.
 */
void pvd_port_config_write(struct pvd_port* p, uint32_t offset, uint32_t value,
                           uint32_t len) PVD_NOEXCEPT;

/** Has the guest registered the port, and does the host still take it so? */
bool pvd_port_registered(const struct pvd_port* p) PVD_NOEXCEPT;

/** System or bus reset: the port unregisters. */
void pvd_port_reset(struct pvd_port* p) PVD_NOEXCEPT;

/**
 * The guest enumerates the port (BAR sizing). If the port is registered, a new
 * kernel is running that knows nothing of it: the domain's registration is
 * dropped. A port that is not registered is new to the guest, and nothing
 * happens.
 */
void pvd_port_enumerated(struct pvd_port* p) PVD_NOEXCEPT;

/**
 * A PCI function, not a bridge, appeared below a port, at any depth.
 * @name: for messages, copied
 * @opaque: handed to device_rid()
 */
struct pvd_device* pvd_device_add(struct pvd_port* p, const char* name, void* opaque) PVD_NOEXCEPT;
/**
 * The device has left its bus, and is no longer covered. The VMM may still have
 * guest RAM mapped for it, until pvd_device_remove().
 */
void pvd_device_unplugged(struct pvd_device* dev) PVD_NOEXCEPT;
/** Nothing is left of the device; pvd_device_unplugged() is implied. Frees it. */
void pvd_device_remove(struct pvd_device* dev) PVD_NOEXCEPT;
/**
 * The VMM cannot save the device's state (true at first: it can). Without
 * pvd_device_hold(), no migration starts before it is removed.
 */
void pvd_device_set_migratable(struct pvd_device* dev, bool migratable) PVD_NOEXCEPT;
/**
 * A migration is not to end before the device is removed: rounds say hold, and
 * one that ends nevertheless fails.
 */
void pvd_device_hold(struct pvd_device* dev, bool hold) PVD_NOEXCEPT;

/** Guest RAM goes away; the log is dropped if it lies in it. */
void pvd_ram_removed(struct pvd_domain* d, uint64_t gpa, uint64_t len) PVD_NOEXCEPT;

/* ---- completeness --------------------------------------------------------- */

/**
 * Is every covered device tracked completely, now? True as well when there is
 * no covered device.
 * @why: filled with one line that names the device and the reason when not;
 *       may be NULL
 */
bool pvd_domain_complete(struct pvd_domain* d, char* why, size_t why_len) PVD_NOEXCEPT;

/** The same for one device, which must be plugged in. */
bool pvd_device_tracked(const struct pvd_device* dev, char* why, size_t why_len) PVD_NOEXCEPT;

/* ---- logging and sessions ------------------------------------------------- */

/** Who wants marks. The guest sees logging while anybody does. */
enum pvd_logger {
    PVD_LOGGER_DIRTY_LOG, /* the VMM's global dirty log */
    PVD_LOGGER_SESSION,   /* a migration, from setup to its end */
};

/**
 * Starts or stops logging for one user; starting what is started, or stopping
 * what is stopped, does nothing. On return from a start, logging is published
 * and fenced: any RAM read from now on is of use to the first pass. The first
 * start also discards marks left over from before, and evaluates completeness
 * anew, like every start of a session, which zeroes the session's statistics
 * too.
 */
void pvd_logging(struct pvd_domain* d, enum pvd_logger who, bool on) PVD_NOEXCEPT;

/**
 * The VM starts to run here (again): what the log says of logging is brought
 * in line with who wants marks on this host. Needed after an incoming
 * migration, harmless otherwise.
 */
void pvd_domain_running(struct pvd_domain* d) PVD_NOEXCEPT;

/** Words of 64 pages in what a harvest hands over at once. */
#define PVD_GROUP_WORDS 8

/**
 * Where a harvest puts pages: a group of 512 per call, aligned.
 * @masks: PVD_GROUP_WORDS words, not all 0; bit n of word i is page
 *         first_pfn + 64 * i + n. Valid during the call.
 */
typedef void pvd_pages_fn(void* opaque, uint64_t first_pfn, const uint64_t* masks);

struct pvd_sink {
    pvd_pages_fn* in_flight; /* may be NULL: not wanted */
    pvd_pages_fn* marked;    /* may be NULL: harvested and dropped */
    void* opaque;
};

struct pvd_harvest_result {
    uint64_t pages_marked;    /* taken by this harvest */
    uint64_t pages_in_flight; /* at this harvest */
    bool all_dirty;           /* latched: the final pass must send all RAM */
};

/**
 * Reads the in-flight counters, *then* exchanges all marks for zero. After it
 * returns, the marked pages may be read. Also latches incompleteness.
 * Without a registered log it reports no pages, and all_dirty if any covered
 * device is present.
 */
struct pvd_harvest_result pvd_harvest(struct pvd_domain* d,
                                      const struct pvd_sink* sink) PVD_NOEXCEPT;

/** Is this page in flight now (or unknown)? */
bool pvd_page_in_flight(struct pvd_domain* d, uint64_t pfn) PVD_NOEXCEPT;

/**
 * Pages that only the final pass will add, as of the last harvest: those in
 * flight, or UINT64_MAX once all is dirty. From any thread.
 */
uint64_t pvd_domain_pending(const struct pvd_domain* d) PVD_NOEXCEPT;

struct pvd_stats {
    bool registered;
    bool logging;
    uint64_t log_addr;
    uint64_t log_pages;
    uint64_t sections;
    uint64_t harvests;           /* of the current or last session */
    uint64_t pages_marked;       /* sum over its harvests */
    uint64_t pages_in_flight;    /* at its last harvest */
    uint64_t answered_all_dirty; /* harvests that answered so */
};
void pvd_domain_stats(const struct pvd_domain* d, struct pvd_stats* out) PVD_NOEXCEPT;

/**
 * Why all is dirty: the first thing that was latched in this session, or "".
 * Valid until the next call on the domain.
 */
const char* pvd_domain_latched(const struct pvd_domain* d) PVD_NOEXCEPT;

/* ---- policy: may a migration start, go on, end --------------------------- */

/** What happens while a covered device is not tracked completely. */
enum pvd_on_incomplete {
    PVD_REFUSE,    /* a migration does not start, or fails */
    PVD_ALL_DIRTY, /* it goes on, and all RAM is sent once the VM is stopped */
};

/** The operator's choice. */
struct pvd_policy {
    enum pvd_on_incomplete on_incomplete;
    uint64_t final_limit; /* bytes that the final pass may add; 0: half of RAM
                             in flight, and no limit for accepted "all dirty" */
    bool blind;           /* tests only: incomplete is clean, DATA IS LOST */
};

/** How the VM is saved. With a covered device, only pre-copy can be right. */
enum pvd_migration {
    PVD_PRE_COPY,
    PVD_POST_COPY,
    PVD_SAVEVM,
    PVD_BACKGROUND_SNAPSHOT,
    PVD_COLO,
};

/**
 * May a migration start now, as far as is known before one is asked for?
 * @message: one line, why not; "" otherwise
 */
bool pvd_may_migrate(const struct pvd_domain* d, const struct pvd_policy* policy, char* message,
                     size_t len) PVD_NOEXCEPT;

/**
 * May this migration start? To be asked once more when its session has started
 * (PVD_LOGGER_SESSION): what is latched since counts too.
 * @ram_bytes: guest RAM, here and below
 * @message: why not; or, when it may, a warning for the operator, or ""
 */
bool pvd_may_start(const struct pvd_domain* d, const struct pvd_policy* policy,
                   enum pvd_migration kind, uint64_t ram_bytes, char* message,
                   size_t len) PVD_NOEXCEPT;

/** A round of a running migration. */
struct pvd_round {
    uint64_t pending_bytes; /* that only the final pass will add */
    bool fail;              /* the migration must fail: pvd_why_failing() */
    bool hold;              /* no end in this round, and wait before the next */
    bool awaits_device;     /* hold: a device of pvd_device_hold() is there */
};

/**
 * What the final pass will add, as of the last harvest. From any thread.
 * @threshold: bytes that the VMM would send with the VM stopped
 */
struct pvd_round pvd_check_round(const struct pvd_domain* d, const struct pvd_policy* policy,
                                 uint64_t ram_bytes, uint64_t threshold) PVD_NOEXCEPT;

/** Why a round said fail; "" when the next would not. Serialised, unlike it. */
void pvd_why_failing(const struct pvd_domain* d, const struct pvd_policy* policy,
                     uint64_t ram_bytes, char* message, size_t len) PVD_NOEXCEPT;

/** What the final pass has to send. */
enum pvd_final_pass {
    PVD_FINAL_REPORTED,  /* marks and pages in flight */
    PVD_FINAL_ALL_DIRTY, /* all RAM */
    PVD_FINAL_FAIL,      /* nothing: the migration must fail */
};

/**
 * To be asked with the VM stopped for good, after the harvest of the final
 * pass: what happened between the last round and the stop counts here.
 * @message: one line, unless PVD_FINAL_REPORTED
 */
enum pvd_final_pass pvd_check_final_pass(const struct pvd_domain* d,
                                         const struct pvd_policy* policy, uint64_t ram_bytes,
                                         char* message, size_t len) PVD_NOEXCEPT;

/**
 * May the state of a port be saved now?
 * @final: the VM is stopped for good, and a pre-copy's final pass has been sent
 * @message: why not, or ""
 */
bool pvd_may_save(const struct pvd_domain* d, const struct pvd_policy* policy, uint64_t ram_bytes,
                  bool final, char* message, size_t len) PVD_NOEXCEPT;

/* ---- the domain's record at the head of a migration stream ---------------- */

/** Bytes of the record; fixed for a version of the library. */
#define PVD_STREAM_STATE_LEN 32

/** Source: the wire version, the number of ports and the features their guest uses. */
void pvd_stream_save(const struct pvd_domain* d, uint8_t out[PVD_STREAM_STATE_LEN]) PVD_NOEXCEPT;

/**
 * Destination: does this VM suit what pvd_stream_save() wrote? Of use before RAM
 * is taken; pvd_port_load() has the exact check of each port. The bytes are
 * not trusted, any length is safe, and nothing is changed.
 * @why: one line, when it fails
 * @returns false: garbage, an unknown version, another wire version, other
 *          ports, or features that none of the ports offers; the migration
 *          must fail
 */
bool pvd_stream_load(const struct pvd_domain* d, const uint8_t* in, size_t len, char* why,
                     size_t why_len) PVD_NOEXCEPT;

/* ---- the port's state in a migration stream ------------------------------- */

/** Bytes of one saved port; fixed for a version of the library. */
#define PVD_PORT_STATE_LEN 64

/** Saves a port: registers and its part in the registration, no RAM. */
void pvd_port_save(const struct pvd_port* p, uint8_t out[PVD_PORT_STATE_LEN]) PVD_NOEXCEPT;

/**
 * Loads what pvd_port_save() wrote, on a host that may offer other features.
 * Guest RAM must have been loaded before. The bytes are not trusted. The log
 * is read anew; a log that is refused now leaves the port unregistered, which
 * is "all dirty", and is no error.
 * @why: one line, when it fails
 * @returns false: unknown version, or the guest uses a feature that this port
 *          does not offer. The port is reset then.
 */
bool pvd_port_load(struct pvd_port* p, const uint8_t* in, size_t len, char* why,
                   size_t why_len) PVD_NOEXCEPT;

#ifdef __cplusplus
}
#endif

// NOLINTEND(modernize-*)

#include "pvdirty/device_state.h" /* the state of a VFIO device itself */

#endif /* PVDIRTY_PVDIRTY_H */
