// SPDX-License-Identifier: GPL-2.0
/*
 * The log's memory. One physically contiguous area holds the control page, the
 * root, the section table and the summaries; marks and counters are an area of
 * their own for each window of 1 GiB that has RAM. All of it is there before
 * the first device is covered and stays until the module goes, since counting
 * goes on whether or not the host listens.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/align.h>
#include <linux/cc_platform.h>
#include <linux/gfp.h>
#include <linux/ioport.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/pfn.h>
#include <linux/slab.h>

#include "pvdirty.h"

#define LOG_GFP (GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

static_assert(PAGE_SHIFT == PVDIRTY_PAGE_SHIFT);

/* For each range of RAM: how far does it reach into each window? */
struct ram_walk {
	struct pvd_window *windows; /* NULL: only find the end */
	u64 nwindows;
};

static int ram_range(struct resource *res, void *arg)
{
	u64 first = PHYS_PFN(res->start), last = PHYS_PFN(res->end);
	struct ram_walk *walk = arg;
	u64 window;

	if (!walk->windows) {
		walk->nwindows = max(walk->nwindows,
				     (last >> PVDIRTY_WINDOW_SHIFT) + 1);
		return 0;
	}
	for (window = first >> PVDIRTY_WINDOW_SHIFT;
	     window <= last >> PVDIRTY_WINDOW_SHIFT; window++) {
		u64 end = last - (window << PVDIRTY_WINDOW_SHIFT) + 1;

		/* Memory that was plugged since the first walk is outside. */
		if (window >= walk->nwindows)
			break;
		walk->windows[window].npages =
			max_t(u64, walk->windows[window].npages,
			      min_t(u64, end, PVDIRTY_WINDOW_PAGES));
	}
	return 0;
}

static void walk_ram(struct ram_walk *walk)
{
	walk_iomem_res_desc(IORES_DESC_NONE,
			    IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0,
			    U64_MAX, walk, ram_range);
}

static void free_windows(struct pvd_log *log)
{
	u64 i;

	for (i = 0; i < log->nwindows; i++) {
		struct pvd_window *w = &log->windows[i];

		if (w->marks)
			free_pages_exact(w->marks,
					 PVDIRTY_MARKS_BYTES(w->npages));
		if (w->counts)
			free_pages_exact(w->counts,
					 PVDIRTY_COUNTS_BYTES(w->npages));
	}
	kvfree(log->windows);
}

/* Windows with RAM: their number, and what marks and counters take. */
static u32 count_windows(const struct pvd_log *log, u64 *bytes)
{
	u32 n = 0;
	u64 i;

	for (i = 0; i < log->nwindows; i++) {
		u32 npages = log->windows[i].npages;

		if (!npages)
			continue;
		n++;
		*bytes += PVDIRTY_MARKS_BYTES(npages) +
			  PVDIRTY_COUNTS_BYTES(npages);
	}
	return n;
}

/* Fill the area at ctl, and point the windows into it. */
static int fill_log(struct pvd_log *log, void *area, u32 nsections)
{
	struct pvdirty_section *section = area + PVDIRTY_LOG_TABLE;
	struct pvdirty_summary *summary =
		area + PVDIRTY_LOG_SUMMARIES(nsections);
	struct pvdirty_log *ctl = area;
	u32 slot = 0;
	u64 i;

	for (i = 0; i < log->nwindows; i++) {
		struct pvd_window *w = &log->windows[i];

		if (!w->npages)
			continue;
		w->marks = alloc_pages_exact(PVDIRTY_MARKS_BYTES(w->npages),
					     LOG_GFP);
		w->counts = alloc_pages_exact(PVDIRTY_COUNTS_BYTES(w->npages),
					      LOG_GFP);
		if (!w->marks || !w->counts)
			return -ENOMEM;
		w->summary = &summary[slot];
		w->slot = slot;
		section[slot] = (struct pvdirty_section) {
			.base_pfn = cpu_to_le64(i << PVDIRTY_WINDOW_SHIFT),
			.npages = cpu_to_le32(w->npages),
			.marks = cpu_to_le64(virt_to_phys(w->marks)),
			.counts = cpu_to_le64(virt_to_phys(w->counts)),
		};
		slot++;
	}
	ctl->signature = cpu_to_le32(PVDIRTY_LOG_SIGNATURE);
	ctl->version = cpu_to_le16(PVDIRTY_VERSION);
	ctl->nsections = cpu_to_le32(nsections);
	log->top = area + PVDIRTY_LOG_TOP;
	log->ctl = ctl;
	return 0;
}

int pvd_log_alloc(void)
{
	struct ram_walk walk = {};
	struct pvd_log log = {};
	u32 nsections, pages;
	u64 bytes = 0;
	void *area;
	int ret;

	if (pvd_have_log())
		return 0;
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		pr_warn("guest memory is encrypted: the host cannot read a log, no device is tracked\n");
		return -EOPNOTSUPP;
	}

	walk_ram(&walk);
	log.nwindows = walk.nwindows;
	log.windows = kvcalloc(log.nwindows, sizeof(*log.windows), GFP_KERNEL);
	if (!log.windows) {
		pr_warn("no memory for the table of %llu windows, no device is tracked\n",
			log.nwindows);
		return -ENOMEM;
	}
	walk.windows = log.windows;
	walk_ram(&walk);

	nsections = count_windows(&log, &bytes);
	if (!nsections || nsections > PVDIRTY_MAX_SECTIONS) {
		pr_warn("%u GiB windows have RAM, the log describes 1 to %u: no device is tracked\n",
			nsections, PVDIRTY_MAX_SECTIONS);
		ret = -E2BIG;
		goto out_windows;
	}
	pages = PVDIRTY_LOG_PAGES(nsections);
	bytes += (u64)pages << PVDIRTY_PAGE_SHIFT;
	ret = -ENOMEM;
	area = alloc_pages_exact((size_t)pages << PVDIRTY_PAGE_SHIFT, LOG_GFP);
	if (area)
		ret = fill_log(&log, area, nsections);
	if (ret) {
		pr_warn("no memory for the log of %llu KiB, no device is tracked\n",
			bytes >> 10);
		goto out_area;
	}

	pvdirty.log = log;
	pvdirty.log_pages = pages;
	pr_info("log of %llu KiB for %u GiB windows of RAM\n", bytes >> 10,
		nsections);
	return 0;

out_area:
	if (area)
		free_pages_exact(area, (size_t)pages << PVDIRTY_PAGE_SHIFT);
out_windows:
	free_windows(&log);
	return ret;
}

void pvd_log_free(void)
{
	if (!pvd_have_log())
		return;
	free_windows(&pvdirty.log);
	free_pages_exact(pvdirty.log.ctl,
			 (size_t)pvdirty.log_pages << PVDIRTY_PAGE_SHIFT);
	pvdirty.log = (struct pvd_log) {};
}

phys_addr_t pvd_log_phys(void)
{
	return virt_to_phys(pvdirty.log.ctl);
}

u64 pvd_log_in_flight(void)
{
	u64 i, n = 0;

	for (i = 0; i < pvdirty.log.nwindows; i++) {
		const struct pvd_window *w = &pvdirty.log.windows[i];
		u32 page;

		if (!w->marks)
			continue;
		for (page = 0; page < w->npages; page++)
			n += !!pvd_read(&w->counts[page]);
		cond_resched();
	}
	return n;
}
