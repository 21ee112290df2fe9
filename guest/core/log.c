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

/* A level that is left as it is: its load comes before that of the next one. */
static inline void skip_level(void)
{
	pvd_rmb(); /* partner: the host's exchanges, root before leaf */
}

static inline void add_bits(u64 *word, u64 old, u64 mask)
{
	while ((old & mask) != mask) {
		if (pvd_try_cmpxchg(word, &old, old | mask))
			return;
	}
	skip_level();
}

/*
 * Set all bits of mask. A bit that is set already needs no store: the host
 * has yet to clear it, and will read the page after that. The exchange is a
 * full barrier, the skip orders this load before that of the next level.
 */
static inline void set_bits(__le64 *where, u64 mask)
{
	u64 *word = (__force u64 *)where;

	add_bits(word, pvd_read(word), mask);
}

/* The same for one bit, most often set already. */
static inline void set_bit_at(__le64 *map, u32 bit)
{
	u64 *word = (__force u64 *)&map[bit / 64];
	u64 old = pvd_read(word);

	if (likely(old >> (bit % 64) & 1))
		skip_level();
	else
		add_bits(word, old, 1ULL << (bit % 64));
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

/* Where a page is in its section. */
static inline u32 index_of(u64 pfn)
{
	return pfn & (PVDIRTY_WINDOW_PAGES - 1);
}

/*
 * The section of pages of one group, and the index of the last one that it
 * describes; false if it describes none. The log is marked incomplete unless it
 * describes all.
 */
static __always_inline bool find(struct pvd_log *log, u64 first, u64 last,
				 struct pvd_window **w, u32 *end)
{
	u64 number = first >> PVDIRTY_WINDOW_SHIFT;
	u32 npages = 0;

	*end = index_of(last);
	if (likely(number < log->nwindows)) {
		*w = &log->windows[number];
		/*
		 * Partner: grow_window() in logmem.c, which publishes npages
		 * last. All else of the window is read after this.
		 */
		npages = pvd_load_acquire(&(*w)->npages);
		if (likely(*end < npages))
			return true;
	}
	pvd_incomplete(log, PVDIRTY_I_OUTSIDE);
	if (first == last || index_of(first) >= npages)
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

static inline void mark_words(struct pvd_window *w, u32 i, u32 end)
{
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
}

/* Marks of pages of one group, from the leaf to the root. */
static inline void mark_group(struct pvd_log *log, struct pvd_window *w, u32 i,
			      u32 end)
{
	if (i == end)
		set_bit_at(w->marks, i);
	else
		mark_words(w, i, end);
	set_bit_at(w->summary->marks, i >> PVDIRTY_GROUP_SHIFT);
	set_bit_at(log->top->marks, w->slot);
}

/* Raise one counter; a counter that is full stays so, its page in flight. */
static inline void count_up(u8 *count)
{
	u8 old = pvd_read(count);

	while (likely(old != PVDIRTY_COUNT_STUCK)) {
		if (likely(pvd_try_cmpxchg(count, &old, (u8)(old + 1))))
			return;
	}
	pvd_rmb(); /* partner: the host's prune, summary before counters */
}

static inline void count_down(struct pvd_log *log, u8 *count)
{
	u8 old = pvd_read(count);

	while (likely(old != PVDIRTY_COUNT_STUCK)) {
		if (unlikely(!old)) {
			pvd_incomplete(log, PVDIRTY_I_UNDERFLOW);
			return;
		}
		if (likely(pvd_try_cmpxchg(count, &old, (u8)(old - 1))))
			return;
	}
}

/*
 * What is done with the pages of one group. The calls with a single page, which
 * most mappings have, are compiled apart, without loops.
 */
static __always_inline bool hold_group(struct pvd_log *log, u64 first, u64 last)
{
	u32 end, i = index_of(first), group = i >> PVDIRTY_GROUP_SHIFT;
	struct pvd_window *w;

	if (unlikely(!find(log, first, last, &w, &end)))
		return false;
	do
		count_up(&w->counts[i]);
	while (i++ < end);
	/*
	 * The host prunes a summary bit by clearing it and then reading the
	 * counters: it sees ours, or we see the bit cleared.
	 */
	set_bit_at(w->summary->counts, group);
	set_bit_at(log->top->counts, w->slot);
	return end == index_of(last);
}

static __always_inline void release_group(struct pvd_log *log, u64 first,
					  u64 last, bool logging)
{
	u32 end, i = index_of(first);
	struct pvd_window *w;

	if (unlikely(!find(log, first, last, &w, &end)))
		return;
	if (logging)
		mark_group(log, w, i, end);
	/* count_down()'s exchange is a full barrier: marked, then lowered. */
	do
		count_down(log, &w->counts[i]);
	while (i++ < end);
}

static __always_inline void mark_pages(struct pvd_log *log, u64 first, u64 last)
{
	u32 end, i = index_of(first);
	struct pvd_window *w;

	if (likely(find(log, first, last, &w, &end)))
		mark_group(log, w, i, end);
}

/*
 * Ranges are inclusive, and compared before the step: the top PFN must not
 * wrap.
 */
static noinline bool hold_groups(struct pvd_log *log, u64 first, u64 last)
{
	bool covered = true;
	u64 end;

	for (;; first = end + 1) {
		end = group_end(first, last);
		covered &= hold_group(log, first, end);
		if (end >= last)
			return covered;
	}
}

static noinline void release_groups(struct pvd_log *log, u64 first, u64 last,
				    bool logging)
{
	u64 end;

	for (;; first = end + 1) {
		end = group_end(first, last);
		release_group(log, first, end, logging);
		if (end >= last)
			return;
	}
}

static noinline void mark_groups(struct pvd_log *log, u64 first, u64 last)
{
	u64 end;

	for (;; first = end + 1) {
		end = group_end(first, last);
		mark_pages(log, first, end);
		if (end >= last)
			return;
	}
}

bool pvd_hold(struct pvd_log *log, u64 first, u64 last)
{
	if (likely(first == last))
		return hold_group(log, first, first);
	return hold_groups(log, first, last);
}

void pvd_mark(struct pvd_log *log, u64 first, u64 last)
{
	if (likely(first == last))
		mark_pages(log, first, first);
	else
		mark_groups(log, first, last);
}

void pvd_release(struct pvd_log *log, u64 first, u64 last)
{
	bool logging;

	/*
	 * The device's write comes before the load of logging: partner of the
	 * host's fence between publishing logging and reading RAM.
	 */
	pvd_dma_rmb();
	logging = pvd_logging(log);
	if (likely(first == last))
		release_group(log, first, first, logging);
	else
		release_groups(log, first, last, logging);
}
