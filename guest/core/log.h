/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Marking and counting in the log, the guest's half of the protocol. The same
 * lines run in the kernel and in the tests; see shared/SPEC.md for the proof.
 *
 * Pages are named by PFN (4 KiB, guest-physical). All functions may be called
 * from any context and from any number of CPUs at once, while the host
 * harvests; none allocates, sleeps, loops on another CPU or fails. What cannot
 * be recorded is said in pvdirty_log.incomplete.
 */
#ifndef PVDIRTY_CORE_LOG_H
#define PVDIRTY_CORE_LOG_H

#include "prim.h"
#include "pvdirty_abi.h"

/**
 * struct pvd_window - how the guest reaches the section of one window.
 * @marks: marks of the section, words in little-endian order
 * @counts: in-flight counters of the section
 * @summary: summary of the section
 * @top_marks: word of the root's marks that the section has a bit in
 * @top_counts: the same of the root's counters
 * @top_bit: that bit, in both
 * @npages: pages described; 0: no section
 * @slot: index of the section in the table
 * @pad: 64 bytes make an entry of a table a cache line, and its index a shift
 */
struct pvd_window {
	__le64 *marks;
	u8 *counts;
	struct pvdirty_summary *summary;
	__le64 *top_marks;
	__le64 *top_counts;
	u64 top_bit;
	u32 npages;
	u32 slot;
	u64 pad;
};

/**
 * struct pvd_log - the log as the guest sees it.
 * @ctl: control page, shared with the host
 * @top: root page, shared with the host
 * @windows: indexed by PFN >> PVDIRTY_WINDOW_SHIFT
 * @nwindows: entries in @windows
 */
struct pvd_log {
	struct pvdirty_log *ctl;
	struct pvdirty_top *top;
	struct pvd_window *windows;
	u64 nwindows;
};

/* Give a window the section with this index, and its bit in the root. */
static inline void pvd_window_set_slot(struct pvd_window *w,
				       struct pvdirty_top *top, u32 slot)
{
	w->slot = slot;
	w->top_marks = &top->marks[slot / 64];
	w->top_counts = &top->counts[slot / 64];
	w->top_bit = 1ULL << (slot % 64);
}

/* True while the host wants marks. */
static inline bool pvd_logging(const struct pvd_log *log)
{
	return pvd_read(&log->ctl->logging) != 0;
}

/**
 * pvd_incomplete() - say that the log cannot be relied on.
 * @log: the log
 * @why: PVDIRTY_I_*
 */
pvd_aside void pvd_incomplete(struct pvd_log *log, u32 why);

/**
 * pvd_gap() - say that a device is about to be no longer tracked.
 * @log: the log
 */
void pvd_gap(struct pvd_log *log);

/**
 * pvd_hold() - count pages in flight, before the driver gets their address.
 * @log: the log
 * @first: first PFN
 * @last: last PFN, not below @first
 *
 * Return: false if no section covers one of them; the log is incomplete then.
 */
bool pvd_hold(struct pvd_log *log, u64 first, u64 last);

/**
 * pvd_mark() - record that a device may have written these pages.
 * @log: the log
 * @first: first PFN
 * @last: last PFN, not below @first
 *
 * Only for pages that stay held (sync_for_cpu); it does not look at logging.
 */
void pvd_mark(struct pvd_log *log, u64 first, u64 last);

/**
 * pvd_release() - mark if the host is logging, then count out of flight.
 * @log: the log
 * @first: first PFN
 * @last: last PFN, not below @first
 */
void pvd_release(struct pvd_log *log, u64 first, u64 last);

#endif /* PVDIRTY_CORE_LOG_H */
