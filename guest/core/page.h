/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Marking and counting of a single page, which is what most mappings have:
 * inlined. There are calls only to set bits, and loops only while another CPU
 * is in the way. log.c does ranges with the same steps, and says what the log
 * has missed; a page that no section has comes there too.
 *
 * Two trees of the same shape lie in guest RAM. Leaves are bits (marks) or
 * bytes (counters), then one bit for each group of pages in the section's
 * summary, then one bit for each section in the root.
 *
 * The partner of everything here is host/log/log.cpp: it clears marks from the
 * root to the leaf and then reads the page; the guest sets them from the leaf
 * to the root. So whichever level the host has passed, the guest either comes
 * before it (and the host finds the leaf) or sees a cleared bit and sets it
 * again. This holds only if every level is looked at each time, in that order.
 */
#ifndef PVDIRTY_CORE_PAGE_H
#define PVDIRTY_CORE_PAGE_H

#include "log.h"

/* A level that is left as it is: its load comes before that of the next one. */
static __always_inline void pvd_skip_level(void)
{
	pvd_rmb(); /* partner: the host's exchanges, root before leaf */
}

/* Set bits of a word that was old and lacks some. */
pvd_aside void pvd_add_bits(__le64 *where, u64 mask, u64 old);

/* The same for one bit of a map. */
pvd_aside void pvd_add_bit(__le64 *map, u32 bit, u64 old);

/*
 * Most often a bit is set already. That needs no store: the host has yet to
 * clear it, and will read the page after that. The exchange is a full barrier,
 * the skip orders this load before that of the next level.
 */
static __always_inline void pvd_set_bit_at(__le64 *map, u32 bit)
{
	u64 old = pvd_read((__force u64 *)&map[bit / 64]);

	if (likely(old >> (bit % 64) & 1))
		pvd_skip_level();
	else
		pvd_add_bit(map, bit, old);
}

/* The same with the word and the mask of the bit. */
static __always_inline void pvd_set_bit_in(__le64 *where, u64 mask)
{
	u64 old = pvd_read((__force u64 *)where);

	if (likely(old & mask))
		pvd_skip_level();
	else
		pvd_add_bits(where, mask, old);
}

/* Where a page is in its section. */
static __always_inline u32 pvd_index_of(u64 pfn)
{
	return pfn & (PVDIRTY_WINDOW_PAGES - 1);
}

/* Does a section describe the page? Then that of this window. */
static __always_inline bool pvd_find(struct pvd_log *log, u64 pfn,
				     struct pvd_window **w)
{
	u64 number = pfn >> PVDIRTY_WINDOW_SHIFT;

	if (unlikely(number >= log->nwindows))
		return false;
	*w = &log->windows[number];
	/*
	 * Partner: grow_window() in logmem.c, which publishes npages last. All
	 * else of the window is read after this.
	 */
	return likely(pvd_index_of(pfn) < pvd_load_acquire(&(*w)->npages));
}

/* The levels above marks of one group. */
static __always_inline void pvd_mark_above(struct pvd_window *w, u32 i)
{
	pvd_set_bit_at(w->summary->marks, i >> PVDIRTY_GROUP_SHIFT);
	pvd_set_bit_in(w->top_marks, w->top_bit);
}

/*
 * The levels above counters of one group. The host prunes a bit by clearing it
 * and then reading what is below: it sees ours, or we see the bit cleared.
 */
static __always_inline void pvd_count_above(struct pvd_window *w, u32 i)
{
	pvd_set_bit_at(w->summary->counts, i >> PVDIRTY_GROUP_SHIFT);
	pvd_set_bit_in(w->top_counts, w->top_bit);
}

/* Raise one counter; a counter that is full stays so, its page in flight. */
static __always_inline void pvd_count_up(u8 *count)
{
	u8 old = pvd_read(count);

	while (likely(old != PVDIRTY_COUNT_STUCK)) {
		if (likely(pvd_try_cmpxchg(count, &old, (u8)(old + 1))))
			return;
	}
	pvd_rmb(); /* partner: the host's prune, summary before counters */
}

static __always_inline void pvd_count_down(struct pvd_log *log, u8 *count)
{
	u8 less, old = pvd_read(count);

	do {
		less = old - 1;
		/* One comparison finds both, 0 and full. */
		if (unlikely(less >= PVDIRTY_COUNT_STUCK - 1)) {
			if (!old)
				pvd_incomplete(log, PVDIRTY_I_UNDERFLOW);
			return;
		}
	} while (unlikely(!pvd_try_cmpxchg(count, &old, less)));
}

/*
 * The device's write comes before the load of logging: partner of the host's
 * fence between publishing logging and reading RAM.
 */
static __always_inline bool pvd_logging_now(const struct pvd_log *log)
{
	pvd_dma_rmb();
	return pvd_logging(log);
}

/* pvd_hold() of one page, but false and nothing else if no section has it. */
static __always_inline bool pvd_page_hold(struct pvd_log *log, u64 pfn)
{
	u32 i = pvd_index_of(pfn);
	struct pvd_window *w;

	if (unlikely(!pvd_find(log, pfn, &w)))
		return false;
	pvd_count_up(&w->counts[i]);
	pvd_count_above(w, i);
	return true;
}

/* pvd_mark() of one page; likewise. */
static __always_inline bool pvd_page_mark(struct pvd_log *log, u64 pfn)
{
	u32 i = pvd_index_of(pfn);
	struct pvd_window *w;

	if (unlikely(!pvd_find(log, pfn, &w)))
		return false;
	pvd_set_bit_at(w->marks, i);
	pvd_mark_above(w, i);
	return true;
}

/* pvd_release() of one page; likewise. */
static __always_inline bool pvd_page_release(struct pvd_log *log, u64 pfn)
{
	u32 i = pvd_index_of(pfn);
	struct pvd_window *w;

	if (unlikely(!pvd_find(log, pfn, &w)))
		return false;
	if (pvd_logging_now(log)) {
		pvd_set_bit_at(w->marks, i);
		pvd_mark_above(w, i);
	}
	/* Its exchange is a full barrier: marked, then lowered. */
	pvd_count_down(log, &w->counts[i]);
	return true;
}

#endif /* PVDIRTY_CORE_PAGE_H */
