// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Marking and counting of ranges of pages, and what the log says of itself. The
 * order of the steps and their partners are explained in page.h.
 */
#include "log.h"
#include "page.h"

static void add_bits(u64 *word, u64 mask, u64 old)
{
	while ((old & mask) != mask) {
		if (pvd_try_cmpxchg(word, &old, old | mask))
			return;
	}
	pvd_skip_level();
}

void pvd_add_bits(__le64 *where, u64 mask, u64 old)
{
	add_bits((__force u64 *)where, mask, old);
}

void pvd_add_bit(__le64 *map, u32 bit, u64 old)
{
	add_bits((__force u64 *)&map[bit / 64], 1ULL << (bit % 64), old);
}

void pvd_incomplete(struct pvd_log *log, u32 why)
{
	u32 *word = (__force u32 *)&log->ctl->incomplete;
	u32 bit = 1U << why;
	u32 old = pvd_read(word);

	while (!(old & bit)) {
		if (pvd_try_cmpxchg(word, &old, old | bit))
			return;
	}
}

void pvd_gap(struct pvd_log *log)
{
	u32 *gaps = (__force u32 *)&log->ctl->gaps;
	u32 old = pvd_read(gaps);

	while (!pvd_try_cmpxchg(gaps, &old, old + 1))
		;
}

/*
 * The section of pages of one group, and the index of the last one that it
 * describes; false if it describes none. The log is marked incomplete unless it
 * describes all.
 */
static __always_inline bool find(struct pvd_log *log, u64 first, u64 last,
				 struct pvd_window **w, u32 *end)
{
	u32 npages = 0;

	*end = pvd_index_of(last);
	if (likely(pvd_find(log, first, w))) {
		npages = pvd_load_acquire(&(*w)->npages);
		if (likely(*end < npages))
			return true;
	}
	pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
	if (!npages)
		return false;
	*end = npages - 1;
	return true;
}

/* Last page of [pfn, last] in the same group as pfn. */
static inline u64 group_end(u64 pfn, u64 last)
{
	u64 end = pfn | (PVDIRTY_GROUP_PAGES - 1);

	return end < last ? end : last;
}

static void set_bits(__le64 *where, u64 mask)
{
	u64 *word = (__force u64 *)where;

	add_bits(word, mask, pvd_read(word));
}

/* Marks of pages of one group, from the leaf to the root. */
static void mark_group(struct pvd_window *w, u32 i, u32 end)
{
	u32 first = i;

	while (i <= end) {
		u32 stop = i | 63;
		u64 mask = ~0ULL << (i % 64);

		if (stop > end) {
			stop = end;
			mask &= ~0ULL >> (63 - end % 64);
		}
		set_bits(&w->marks[i / 64], mask);
		i = stop + 1;
	}
	pvd_mark_above(w, first);
}

/* Returns whether a section describes all pages of the group. */
static bool hold_group(struct pvd_log *log, u64 first, u64 last)
{
	u32 end, i = pvd_index_of(first), group = i;
	struct pvd_window *w;

	if (unlikely(!find(log, first, last, &w, &end)))
		return false;
	do
		pvd_count_up(&w->counts[i]);
	while (i++ < end);
	pvd_count_above(w, group);
	return end == pvd_index_of(last);
}

static void release_group(struct pvd_log *log, u64 first, u64 last,
			  bool logging)
{
	u32 end, i = pvd_index_of(first);
	struct pvd_window *w;

	if (unlikely(!find(log, first, last, &w, &end)))
		return;
	if (logging)
		mark_group(w, i, end);
	/* Its exchange is a full barrier: marked, then lowered. */
	do
		pvd_count_down(log, &w->counts[i]);
	while (i++ < end);
}

/*
 * Ranges are inclusive, and compared before the step: the top PFN must not
 * wrap.
 */
bool pvd_hold(struct pvd_log *log, u64 first, u64 last)
{
	bool covered = true;
	u64 end;

	if (likely(first == last) && likely(pvd_page_hold(log, first)))
		return true;
	for (;; first = end + 1) {
		end = group_end(first, last);
		covered &= hold_group(log, first, end);
		if (end >= last)
			return covered;
	}
}

void pvd_mark(struct pvd_log *log, u64 first, u64 last)
{
	u64 end;

	if (likely(first == last) && likely(pvd_page_mark(log, first)))
		return;
	for (;; first = end + 1) {
		struct pvd_window *w;
		u32 end_index;

		end = group_end(first, last);
		if (likely(find(log, first, end, &w, &end_index)))
			mark_group(w, pvd_index_of(first), end_index);
		if (end >= last)
			return;
	}
}

void pvd_release(struct pvd_log *log, u64 first, u64 last)
{
	bool logging;
	u64 end;

	if (likely(first == last) && likely(pvd_page_release(log, first)))
		return;
	logging = pvd_logging_now(log);
	for (;; first = end + 1) {
		end = group_end(first, last);
		release_group(log, first, end, logging);
		if (end >= last)
			return;
	}
}
