// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Marking and counting: two trees of the same shape in guest RAM. Leaves are
 * bits (marks) or bytes (counters), then one bit for each group of pages in
 * the section's summary, then one bit for each section in the root.
 *
 * The partner of everything here is host/log/log.cpp: it clears marks from the
 * root to the leaf and then reads the page; the guest sets them from the leaf
 * to the root. So whichever level the host has passed, the guest either comes
 * before it (and the host finds the leaf) or sees a cleared bit and sets it
 * again. This holds only if every level is looked at each time, in that order.
 */
#include "log.h"

/*
 * Set all bits of mask. A bit that is set already needs no store: the host
 * has yet to clear it, and will read the page after that. The exchange is a
 * full barrier, the skip orders this load before that of the next level.
 */
static inline void set_bits(__le64 *where, u64 mask)
{
	u64 *word = (__force u64 *)where;
	u64 old = pvd_read(word);

	while ((old & mask) != mask) {
		u64 was = pvd_cmpxchg(word, old, old | mask);

		if (was == old)
			return;
		old = was;
	}
	pvd_rmb(); /* partner: the host's exchanges, root before leaf */
}

static inline void set_bits32(__le32 *where, u32 mask)
{
	u32 *word = (__force u32 *)where;
	u32 old = pvd_read(word);

	while ((old & mask) != mask) {
		u32 was = pvd_cmpxchg(word, old, old | mask);

		if (was == old)
			return;
		old = was;
	}
}

static inline void set_bit_at(__le64 *map, u32 bit)
{
	set_bits(&map[bit / 64], 1ULL << (bit % 64));
}

void pvd_incomplete(struct pvd_log *log, u32 why)
{
	set_bits32(&log->ctl->incomplete, 1U << why);
}

void pvd_gap(struct pvd_log *log)
{
	u32 *gaps = (__force u32 *)&log->ctl->gaps;
	u32 old = pvd_read(gaps);
	u32 was;

	while ((was = pvd_cmpxchg(gaps, old, old + 1)) != old)
		old = was;
}

/* The section of a page, or NULL with the log marked incomplete. */
static inline struct pvd_window *window_of(struct pvd_log *log, u64 pfn)
{
	u64 index = pfn >> PVDIRTY_WINDOW_SHIFT;
	struct pvd_window *w;

	if (index < log->nwindows) {
		w = &log->windows[index];
		/*
		 * Partner: grow_window() in logmem.c, which publishes marks
		 * last. All else of the window is read after this.
		 */
		if (pvd_load_acquire(&w->marks) &&
		    (pfn & (PVDIRTY_WINDOW_PAGES - 1)) < w->npages)
			return w;
	}
	pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
	return NULL;
}

/* Last page of [pfn, last] in the same group as pfn. */
static inline u64 group_end(u64 pfn, u64 last)
{
	u64 end = pfn | (PVDIRTY_GROUP_PAGES - 1);

	return end < last ? end : last;
}

/* Marks of pages that lie in one group. */
static inline void mark_group(struct pvd_log *log, u64 pfn, u64 last)
{
	struct pvd_window *w = window_of(log, pfn);
	u32 i = pfn & (PVDIRTY_WINDOW_PAGES - 1);
	u32 end = last & (PVDIRTY_WINDOW_PAGES - 1);
	u32 group = i >> PVDIRTY_GROUP_SHIFT;

	if (!w)
		return;
	if (end >= w->npages) {
		pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
		end = w->npages - 1;
	}
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
	set_bit_at(w->summary->marks, group);
	set_bit_at(log->top->marks, w->slot);
}

void pvd_mark(struct pvd_log *log, u64 first, u64 last)
{
	u64 end;

	/* Inclusive, and compared before the step: the top PFN must not wrap. */
	for (;; first = end + 1) {
		end = group_end(first, last);
		mark_group(log, first, end);
		if (end >= last)
			break;
	}
}

/* Raise one counter; a counter that is full stays so, its page in flight. */
static inline void count_up(u8 *count)
{
	u8 old = pvd_read(count);

	while (old != PVDIRTY_COUNT_STUCK) {
		u8 was = pvd_cmpxchg(count, old, (u8)(old + 1));

		if (was == old)
			return;
		old = was;
	}
	pvd_rmb(); /* partner: the host's prune, summary before counters */
}

static inline void count_down(struct pvd_log *log, u8 *count)
{
	u8 old = pvd_read(count);

	while (old != PVDIRTY_COUNT_STUCK) {
		u8 was;

		if (!old) {
			pvd_incomplete(log, PVDIRTY_I_UNDERFLOW);
			return;
		}
		was = pvd_cmpxchg(count, old, (u8)(old - 1));
		if (was == old)
			return;
		old = was;
	}
}

bool pvd_hold(struct pvd_log *log, u64 first, u64 last)
{
	bool covered = true;
	u64 pfn, end;

	for (pfn = first;; pfn = end + 1) {
		struct pvd_window *w = window_of(log, pfn);

		end = group_end(pfn, last);
		if (w) {
			u32 i = pfn & (PVDIRTY_WINDOW_PAGES - 1);
			u32 stop = end & (PVDIRTY_WINDOW_PAGES - 1);
			u32 group = i >> PVDIRTY_GROUP_SHIFT;

			if (stop >= w->npages) {
				pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
				stop = w->npages - 1;
				covered = false;
			}
			for (; i <= stop; i++)
				count_up(&w->counts[i]);
			/*
			 * The host prunes a summary bit by clearing it and
			 * then reading the counters: it sees ours, or we see
			 * the bit cleared.
			 */
			set_bit_at(w->summary->counts, group);
			set_bit_at(log->top->counts, w->slot);
		} else {
			covered = false;
		}
		if (end >= last)
			return covered;
	}
}

static inline void drop(struct pvd_log *log, u64 first, u64 last)
{
	u64 pfn, end;

	for (pfn = first;; pfn = end + 1) {
		struct pvd_window *w = window_of(log, pfn);

		end = group_end(pfn, last);
		if (w) {
			u32 i = pfn & (PVDIRTY_WINDOW_PAGES - 1);
			u32 stop = end & (PVDIRTY_WINDOW_PAGES - 1);

			if (stop >= w->npages) {
				pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
				stop = w->npages - 1;
			}
			for (; i <= stop; i++)
				count_down(log, &w->counts[i]);
		}
		if (end >= last)
			break;
	}
}

void pvd_release(struct pvd_log *log, u64 first, u64 last)
{
	/*
	 * The device's write comes before the load of logging: partner of the
	 * host's fence between publishing logging and reading RAM.
	 */
	pvd_dma_rmb();
	if (pvd_logging(log))
		pvd_mark(log, first, last);
	/* count_down()'s exchange is a full barrier: marked, then lowered. */
	drop(log, first, last);
}
