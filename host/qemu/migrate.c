/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The migration around the log: sessions begin and end with the migration
 * state, since the global dirty log may run before and after it. The library's
 * policy says what may be; here its answers become QEMU's: a migration that
 * would be wrong is refused at its start (blocker, setup), while it runs
 * (pending) or at its end (final sync, pre_save).
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
#include "migration/ram.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "oracle.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "sysemu/runstate.h"
#include "vm.h"

#define STREAM_NAME "pvdirty"
/* A test builds a plug-in with an older one, to see it refused. */
#ifndef PVDIRTY_STREAM_VERSION
#define PVDIRTY_STREAM_VERSION 3
#endif

/* How long a round of pending may wait: each is a full sync under the BQL. */
#define HOLD_US 100000

#define MESSAGE_LEN 512

static Error *blocker;
static enum {
    SESSION_NONE,
    SESSION_ON,
    SESSION_OVER, /* migrated away; ends when the VM runs again */
} session;
static bool failed;          /* this migration, by us; said why */
static QEMUFile *stream;     /* between save_setup and save_cleanup */

/* Atomic: shared with the migration thread. */
static uint64_t ram_bytes;
static uint64_t synced_bytes; /* that were dirty after the last sync */
static PVDirtyRest rest;

void pvdirty_migrate_set_ram_bytes(uint64_t bytes)
{
    qatomic_set(&ram_bytes, bytes);
}

/*
 * The VM is stopped for the last time, whatever it did before, and this is the
 * migration's own work. Displays and rate measurements sync then too: before
 * the final pass (pause-before-switchover), and while the destination loads,
 * when it is too late to fail.
 */
bool pvdirty_migrate_final(void)
{
    return runstate_check(RUN_STATE_FINISH_MIGRATE) &&
           qemu_thread_is_self(&migrate_get_current()->thread);
}

void pvdirty_migrate_refresh(void)
{
    Error *next = NULL, *busy = NULL;
    char why[MESSAGE_LEN];

    if (!pvd_may_migrate(pvdirty_vm.domain, &pvdirty_vm.policy, why,
                         sizeof(why))) {
        error_setg(&next, "pvdirty: %s", why);
    }
    if (blocker && next &&
        !strcmp(error_get_pretty(next), error_get_pretty(blocker))) {
        error_free(next);
        return;
    }
    if (blocker) {
        migrate_del_blocker(blocker);
        error_free(blocker);
        blocker = NULL;
    }
    if (!next) {
        return;
    }
    if (migrate_add_blocker_internal(next, &busy) < 0) {
        /* A migration is running; the session latches what happened. */
        error_free(busy);
        error_free(next);
        return;
    }
    blocker = next;
}

/* ---- how far it is ---- */

void pvdirty_migrate_synced(void)
{
    if (session != SESSION_ON ||
        !qemu_thread_is_self(&migrate_get_current()->thread)) {
        return;
    }
    qatomic_set(&synced_bytes, ram_bytes_remaining());
    if (pvdirty_migrate_final()) {
        pvdirty_vm.last_pass_pages = ram_bytes_remaining() >>
                                     PVDIRTY_PAGE_SHIFT;
    }
}

static void set_rest(const struct pvd_round *round, uint64_t threshold)
{
    uint64_t bytes = qatomic_read(&synced_bytes) + round->pending_bytes;

    qatomic_set(&rest.bytes, bytes);
    qatomic_set(&rest.threshold, threshold);
    qatomic_set(&rest.converged, bytes < threshold);
    qatomic_set(&rest.holding, round->awaits_device);
}

static void reset_rest(void)
{
    static const struct pvd_round none;

    qatomic_set(&synced_bytes, UINT64_MAX / 2); /* none yet */
    set_rest(&none, 0);
}

/* The migration is over, and its thread gone: nothing is waited for. */
static void end_rest(void)
{
    qatomic_set(&rest.holding, false);
    qatomic_set(&rest.converged, false);
}

PVDirtyRest pvdirty_migrate_rest(void)
{
    return (PVDirtyRest) {
        .holding = qatomic_read(&rest.holding),
        .converged = qatomic_read(&rest.converged),
        .bytes = qatomic_read(&rest.bytes),
        .threshold = qatomic_read(&rest.threshold),
    };
}

/* ---- the session ---- */

/*
 * A background snapshot that is refused at its setup goes on for a while in
 * QEMU, which then leaves the VM paused. Its own resume is for one that starts.
 */
static void resume_after_refusal(const MigrationState *s)
{
    if (failed && migrate_background_snapshot() && s->vm_was_running &&
        runstate_check(RUN_STATE_PAUSED)) {
        vm_start();
    }
}

static void state_changed(Notifier *n, void *data)
{
    MigrationState *s = data;

    if (migration_in_setup(s)) {
        /* The previous session may wait for the VM to run again. */
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
        session = SESSION_ON;
        failed = false;
        pvdirty_vm.answered_all_dirty = 0;
        pvdirty_vm.last_pass_pages = 0;
        reset_rest();
        pvdirty_devices_let_go(true);
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, true);
        if (pvdirty_oracle_enabled()) {
            pvdirty_oracle_session();
        }
    } else if (migration_has_finished(s)) {
        /* RAM must stay as it was sent while the VM is stopped. */
        session = SESSION_OVER;
        end_rest();
        pvdirty_devices_let_go(false);
    } else if (migration_has_failed(s)) {
        session = SESSION_NONE;
        end_rest();
        pvdirty_devices_let_go(false);
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
        pvdirty_vm_refresh();
        resume_after_refusal(s);
    }
}

static Notifier state_notifier = { .notify = state_changed };

static void run_state_changed(void *opaque, bool running, RunState state)
{
    if (running && session == SESSION_OVER) {
        session = SESSION_NONE;
        pvd_logging(pvdirty_vm.domain, PVD_LOGGER_SESSION, false);
    }
}

/* ---- the stream ---- */

#define PLACE_LEN 256 /* as QEMU's own names of sections */

/* Where a port is, and of which kind: what QEMU will look for at the end. */
static void get_place(PVDirtyPort *p, char place[PLACE_LEN])
{
    g_autofree char *path = vmstate_if_get_id(VMSTATE_IF(p->pci));

    snprintf(place, PLACE_LEN, "%s/%s", path,
             qdev_get_vmsd(DEVICE(p->pci))->name);
}

static void put_places(QEMUFile *f)
{
    char place[PLACE_LEN];
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        get_place(p, place);
        qemu_put_counted_string(f, place);
    }
}

static bool have_port_at(const char *place)
{
    char ours[PLACE_LEN];
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        get_place(p, ours);
        if (!strcmp(ours, place)) {
            return true;
        }
    }
    return false;
}

/* There are as many ports here as at the source: its record has said so. */
static bool check_places(QEMUFile *f)
{
    char place[PLACE_LEN];
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        if (!qemu_get_counted_string(f, place)) {
            error_report("pvdirty: the stream does not say where the source's "
                         "ports are");
            return false;
        }
        if (!have_port_at(place)) {
            error_report("pvdirty: the source has a port %s, this VM has none "
                         "there; start it with the same devices", place);
            return false;
        }
    }
    return true;
}

/* Says why, and makes sure that the stream is never complete. Under the BQL. */
static void fail(const char *why)
{
    Error *err = NULL;

    if (stream) {
        qemu_file_set_error(stream, -EPERM);
    }
    if (failed) {
        return;
    }
    failed = true;
    error_setg(&err, "pvdirty: %s", why);
    migrate_set_error(migrate_get_current(), err);
    error_report_err(err);
}

/* A snapshot has no session, and no run state of its own if the VM is paused. */
static enum pvd_migration kind_of_migration(void)
{
    if (session != SESSION_ON) {
        return PVD_SAVEVM;
    }
    if (migrate_background_snapshot()) {
        return PVD_BACKGROUND_SNAPSHOT;
    }
    if (migrate_colo_enabled()) {
        return PVD_COLO;
    }
    return migrate_postcopy_ram() ? PVD_POST_COPY : PVD_PRE_COPY;
}

static int save_setup(QEMUFile *f, void *opaque)
{
    bool locked = qemu_mutex_iothread_locked();
    uint8_t state[PVD_STREAM_STATE_LEN];
    char message[MESSAGE_LEN];
    bool may;

    if (!locked) {
        qemu_mutex_lock_iothread();
    }
    failed = false;
    stream = f;
    may = pvd_may_start(pvdirty_vm.domain, &pvdirty_vm.policy,
                        kind_of_migration(), ram_bytes, message,
                        sizeof(message));
    if (!may) {
        fail(message);
    } else if (*message) {
        warn_report("pvdirty: %s", message);
    }
    pvd_stream_save(pvdirty_vm.domain, state);
    qemu_put_buffer(f, state, sizeof(state));
    put_places(f);
    if (!locked) {
        qemu_mutex_unlock_iothread();
    }
    return may ? 0 : -EPERM;
}

/* Under the BQL. */
static void save_cleanup(void *opaque)
{
    stream = NULL;
}

static int load_state(QEMUFile *f, void *opaque, int version_id)
{
    uint8_t state[PVD_STREAM_STATE_LEN];
    char why[MESSAGE_LEN];
    size_t len;

    /* QEMU itself refuses newer ones. */
    if (version_id != PVDIRTY_STREAM_VERSION) {
        error_report("pvdirty: the source's plug-in writes version %d of the "
                     "stream, this one reads %d", version_id,
                     PVDIRTY_STREAM_VERSION);
        return -EINVAL;
    }
    len = qemu_get_buffer(f, state, sizeof(state));
    if (!pvd_stream_load(pvdirty_vm.domain, state, len, why, sizeof(why))) {
        error_report("pvdirty: %s", why);
        return -EINVAL;
    }
    return check_places(f) ? 0 : -EINVAL;
}

/*
 * What only the final pass will add counts as pending, or the migration would
 * stop the VM for longer than it promised. Migration thread, no BQL.
 */
static void save_live_pending(QEMUFile *f, void *opaque, uint64_t threshold,
                              uint64_t *precopy_only, uint64_t *compatible,
                              uint64_t *postcopy_only)
{
    struct pvd_policy policy = {
        .on_incomplete = pvdirty_vm.policy.on_incomplete,
        .final_limit = pvdirty_vm.policy.final_limit,
        .blind = qatomic_read(&pvdirty_vm.policy.blind),
    };
    uint64_t ram = qatomic_read(&ram_bytes);
    struct pvd_round round = pvd_check_round(pvdirty_vm.domain, &policy, ram,
                                             threshold);
    char why[MESSAGE_LEN];

    set_rest(&round, threshold);
    *precopy_only += round.pending_bytes;
    if (round.awaits_device) {
        *precopy_only += MAX(threshold, 1);
    }
    if (round.fail) {
        qemu_mutex_lock_iothread();
        pvd_why_failing(pvdirty_vm.domain, &policy, ram, why, sizeof(why));
        if (*why) {
            fail(why);
        }
        qemu_mutex_unlock_iothread();
        /* No reason to stop the VM in this round. */
        *precopy_only += MAX(threshold, 1);
    } else if (round.hold) {
        g_usleep(HOLD_US);
    }
}

bool pvdirty_migrate_all_dirty(void)
{
    char message[MESSAGE_LEN];

    switch (pvd_check_final_pass(pvdirty_vm.domain, &pvdirty_vm.policy,
                                 ram_bytes, message, sizeof(message))) {
    case PVD_FINAL_REPORTED:
        return false;
    case PVD_FINAL_ALL_DIRTY:
        warn_report("pvdirty: %s", message);
        return true;
    case PVD_FINAL_FAIL:
        break;
    }
    fail(message);
    return !stream; /* nothing is sent any more, if there is one */
}

static SaveVMHandlers stream_ops = {
    .save_setup = save_setup,
    .save_cleanup = save_cleanup,
    .save_live_pending = save_live_pending,
    .load_state = load_state,
};

/*
 * The port's own state goes last. Whatever is being saved then must have had
 * its final pass with the VM stopped, or pages in flight are missing from it.
 */
int pvdirty_migrate_pre_save(PVDirtyPort *p)
{
    bool final = pvdirty_migrate_final() && !migration_in_postcopy();
    char why[MESSAGE_LEN];

    if (!pvd_may_save(pvdirty_vm.domain, &pvdirty_vm.policy, ram_bytes, final,
                      why, sizeof(why))) {
        fail(why);
        return -EPERM;
    }
    pvd_port_save(p->port, p->state);
    return 0;
}

void pvdirty_migrate_init(void)
{
    register_savevm_live(STREAM_NAME, 0, PVDIRTY_STREAM_VERSION, &stream_ops,
                         NULL);
    add_migration_state_change_notifier(&state_notifier);
    qemu_add_vm_change_state_handler(run_state_changed, NULL);
}
