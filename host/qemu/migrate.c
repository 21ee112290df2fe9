/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The migration around the log: sessions begin and end with the migration
 * state, since the global dirty log may run before and after it; a migration
 * that would be wrong is refused at its start (blocker, setup), while it runs
 * (pending) or at its end (pre_save).
 *
 * The plug-in has a setup section of its own in the stream, so that a
 * destination that lacks a feature says so before the RAM is sent.
 */
#include "qemu/osdep.h"
#include "migration/blocker.h"
#include "migration/migration.h"
#include "migration/misc.h"
#include "migration/qemu-file.h"
#include "migration/qemu-file-types.h"
#include "migration/register.h"
#include "oracle.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "sysemu/runstate.h"
#include "vm.h"

#define STREAM_NAME "pvdirty"
#define STREAM_VERSION 2

/* How long a round of pending may wait: each is a full sync under the BQL. */
#define HOLD_US 100000

static Error *blocker;
static bool session_over;    /* migrated away; ends when the VM runs again */
static bool failed;          /* this migration, by us; said why */
static uint64_t ram_bytes;   /* atomic: for the migration thread */

void pvdirty_migrate_set_ram_bytes(uint64_t bytes)
{
    qatomic_set(&ram_bytes, bytes);
}

/* The VM is stopped for the last time, whatever it did before. */
bool pvdirty_migrate_final(void)
{
    return runstate_check(RUN_STATE_FINISH_MIGRATE);
}

static bool tolerated(void)
{
    return pvdirty_vm.blind || pvdirty_vm.policy == PVDIRTY_ALL_DIRTY;
}

/* One line that says why a migration must not start, or NULL. */
static char *why_refused(void)
{
    char why[256];

    if (tolerated() ||
        pvd_domain_complete(pvdirty_vm.domain, why, sizeof(why))) {
        return NULL;
    }
    return g_strdup_printf("pvdirty: the guest does not track all DMA: %s; "
                           "load its pvdirty module before the drivers, or "
                           "unplug the device", why);
}

void pvdirty_migrate_refresh(void)
{
    g_autofree char *why = why_refused();
    Error *busy = NULL;

    if (blocker && why && !strcmp(why, error_get_pretty(blocker))) {
        return;
    }
    if (blocker) {
        migrate_del_blocker(blocker);
        error_free(blocker);
        blocker = NULL;
    }
    if (!why) {
        return;
    }
    error_setg(&blocker, "%s", why);
    if (migrate_add_blocker_internal(blocker, &busy) < 0) {
        /* A migration is running; the session latches what happened. */
        error_free(busy);
        error_free(blocker);
        blocker = NULL;
    }
}

/* ---- the session ---- */

static void state_changed(Notifier *n, void *data)
{
    MigrationState *s = data;

    if (migration_in_setup(s)) {
        /* The previous session may wait for the VM to run again. */
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
        session_over = false;
        pvdirty_vm.answered_all_dirty = 0;
        pvdirty_vm.last_pass_pages = 0;
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, true);
        if (pvdirty_oracle_enabled()) {
            pvdirty_oracle_session();
        }
    } else if (migration_has_finished(s)) {
        /* RAM must stay as it was sent while the VM is stopped. */
        session_over = true;
    } else if (migration_has_failed(s)) {
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
        pvdirty_vm_refresh();
    }
}

static Notifier state_notifier = { .notify = state_changed };

static void run_state_changed(void *opaque, bool running, RunState state)
{
    if (running && session_over) {
        session_over = false;
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
    }
}

/* ---- the stream ---- */

static void fail(const char *why)
{
    Error *err = NULL;

    if (failed) {
        return;
    }
    failed = true;
    error_setg(&err, "%s", why);
    migrate_set_error(migrate_get_current(), err);
    error_report_err(err);
}

static const char *wrong_kind(void)
{
    if (runstate_check(RUN_STATE_SAVE_VM)) {
        return "savevm";
    }
    if (migrate_background_snapshot()) {
        return "a background snapshot";
    }
    if (migrate_colo_enabled()) {
        return "COLO";
    }
    return migrate_postcopy_ram() ? "post-copy" : NULL;
}

/* True if a device below a port may write RAM behind the dirty log. */
static bool has_covered_device(void)
{
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        PCIBus *bus = pci_bridge_get_sec_bus(PCI_BRIDGE(p));

        for (int i = 0; i < ARRAY_SIZE(bus->devices); i++) {
            if (bus->devices[i]) {
                return true;
            }
        }
    }
    return false;
}

static int save_setup(QEMUFile *f, void *opaque)
{
    bool locked = qemu_mutex_iothread_locked();
    uint8_t state[PVD_STREAM_STATE_LEN];
    g_autofree char *why = NULL;

    if (!locked) {
        qemu_mutex_lock_iothread();
    }
    failed = false;
    if (has_covered_device() && wrong_kind()) {
        why = g_strdup_printf("pvdirty: %s cannot be right with a device "
                              "below a port; unplug it first", wrong_kind());
    } else {
        why = why_refused();
    }
    if (why) {
        fail(why);
    }
    pvd_stream_save(pvdirty_vm.domain, state);
    if (!locked) {
        qemu_mutex_unlock_iothread();
    }
    qemu_put_buffer(f, state, sizeof(state));
    return why ? -EPERM : 0;
}

static int load_state(QEMUFile *f, void *opaque, int version_id)
{
    uint8_t state[PVD_STREAM_STATE_LEN];
    size_t len = qemu_get_buffer(f, state, sizeof(state));
    char why[256];

    if (!pvd_stream_load(pvdirty_vm.domain, state, len, why, sizeof(why))) {
        error_report("pvdirty: %s", why);
        return -EINVAL;
    }
    return 0;
}

/*
 * What only the final pass will add counts as pending, or the migration would
 * stop the VM for longer than it promised. Migration thread, no BQL.
 */
static void save_live_pending(QEMUFile *f, void *opaque, uint64_t threshold,
                              uint64_t *precopy_only, uint64_t *compatible,
                              uint64_t *postcopy_only)
{
    uint64_t pages = pvd_domain_pending(pvdirty_vm.domain);
    uint64_t total = qatomic_read(&ram_bytes);
    uint64_t limit = pvdirty_vm.final_limit ? pvdirty_vm.final_limit
                                            : total / 2;
    uint64_t bytes;

    if (pages == UINT64_MAX) {
        if (qatomic_read(&pvdirty_vm.blind)) {
            return;
        }
        if (pvdirty_vm.policy == PVDIRTY_ALL_DIRTY &&
            !pvdirty_vm.final_limit) {
            /*
             * As asked for: if it counted, only a downtime limit that all of
             * RAM fits in would let the migration end.
             */
            return;
        }
        bytes = total;
    } else {
        bytes = pages << PVDIRTY_PAGE_SHIFT;
    }
    if (bytes > limit) {
        g_autofree char *why = NULL;

        qemu_mutex_lock_iothread();
        why = pages == UINT64_MAX
                  ? g_strdup_printf("pvdirty: the guest no longer tracks all "
                                    "DMA: %s",
                                    pvd_domain_latched(pvdirty_vm.domain))
                  : g_strdup_printf("pvdirty: %" PRIu64 " MiB are in flight, "
                                    "more than the limit of %" PRIu64 " MiB",
                                    bytes >> 20, limit >> 20);
        fail(why);
        qemu_mutex_unlock_iothread();
        qemu_file_set_error(f, -EPERM);
        /* No reason to stop the VM in this round. */
        *precopy_only += MAX(bytes, threshold);
        return;
    }
    *precopy_only += bytes;
    if (bytes >= threshold) {
        g_usleep(HOLD_US);
    }
}

static SaveVMHandlers stream_ops = {
    .save_setup = save_setup,
    .save_live_pending = save_live_pending,
    .load_state = load_state,
};

/*
 * The port's own state goes last. Whatever is being saved then must have had
 * its final pass with the VM stopped, or pages in flight are missing from it.
 */
int pvdirty_migrate_pre_save(PVDirtyPort *p)
{
    if (has_covered_device() && !pvdirty_vm.blind &&
        (!pvdirty_migrate_final() || migration_in_postcopy())) {
        fail("pvdirty: only a pre-copy migration can be right with a device "
             "below a port; unplug it first");
        return -EPERM;
    }
    pvd_port_save(p->port, p->state);
    return 0;
}

void pvdirty_migrate_init(void)
{
    register_savevm_live(STREAM_NAME, 0, STREAM_VERSION, &stream_ops, NULL);
    add_migration_state_change_notifier(&state_notifier);
    qemu_add_vm_change_state_handler(run_state_changed, NULL);
}
