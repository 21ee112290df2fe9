/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The oracle of the test port: which pages devices wrote, by QEMU's own
 * account, and whether the guest reported each of them. Under the BQL.
 */
#ifndef PVDIRTY_QEMU_ORACLE_H
#define PVDIRTY_QEMU_ORACLE_H

#include "exec/hwaddr.h"
#include "pvdirty/pvdirty.h"

/* Counts of distinct pages, of the current or last session. */
typedef struct PVDirtyOracleStats {
    uint64_t written;    /* by devices */
    uint64_t marked;     /* by the guest */
    uint64_t uncovered;  /* written, but not reported at some harvest */
    uint64_t overmarked; /* marked, but never written */
} PVDirtyOracleStats;

/* On with the first port that has x-test-untracked. */
void pvdirty_oracle_enable(void);
bool pvdirty_oracle_enabled(void);

/* Some RAM is out of its sight: no run counts as covered from now on. */
void pvdirty_oracle_spoil(void);

/* Guest RAM may reach higher than before. */
void pvdirty_oracle_resize(void);

/*
 * A session starts: what was written before is of no interest.
 * After logging was published.
 */
void pvdirty_oracle_session(void);

/* A device gets this page to write to. */
void pvdirty_oracle_handed(hwaddr gpa);

/* Was it ever? Then QEMU has finished a write to it. */
bool pvdirty_oracle_was_handed(hwaddr gpa);
void pvdirty_oracle_written(hwaddr gpa);

/*
 * pvd_harvest(), audited; x-test-drop-marks and x-test-drop-in-flight suppress
 * here what the guest reports, before anybody sees it.
 */
struct pvd_harvest_result pvdirty_oracle_harvest(const struct pvd_sink *sink);

PVDirtyOracleStats pvdirty_oracle_stats(void);

/* True if a device wrote this page in the session, or could: it holds it. */
bool pvdirty_oracle_may_have_written(hwaddr gpa);

#endif /* PVDIRTY_QEMU_ORACLE_H */
