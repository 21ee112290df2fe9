// SPDX-License-Identifier: GPL-2.0
/*
 * The log's memory. One physically contiguous area holds the control page, the
 * root, the section table and the summaries; marks and counters are an area of
 * their own for each window of 1 GiB that has RAM. All of it is there before
 * the first device is covered and stays until the module goes, since counting
 * goes on whether or not the host listens.
 *
 * A window that memory may be plugged into later has its section and summary
 * from the start, so that nothing moves that is in use. Until it has memory its
 * section describes one page, with marks and counters in a stub.
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

#include "alloc.h"
#include "pvdirty.h"

#define LOG_GFP (GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

static_assert(PAGE_SHIFT == PVDIRTY_PAGE_SHIFT);

/*
 * The stub of a section that describes one page: marks, then counters. What is
 * allocated with the size of a power of two is aligned to it.
 */
#define STUB_PAGES 1
#define STUB_COUNTS PVDIRTY_MARKS_BYTES(STUB_PAGES)
#define STUB_BYTES 1024

static_assert(STUB_COUNTS + PVDIRTY_COUNTS_BYTES(STUB_PAGES) <= STUB_BYTES);

/* In pvd_window.slot, until the log is filled: memory may be plugged there. */
#define SLOT_PLUGGABLE U32_MAX

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

/*
 * A range that memory may be plugged into; windows with RAM are whole then. It
 * may be any that the firmware tells, so the table has no place for what lies
 * beyond as many windows as a log can have.
 */
static void pluggable_range(u64 first, u64 last, void *arg)
{
	struct ram_walk *walk = arg;
	u64 i = first >> PVDIRTY_WINDOW_SHIFT;
	u64 end = min_t(u64, last >> PVDIRTY_WINDOW_SHIFT,
			PVDIRTY_MAX_SECTIONS - 1);

	if (!walk->windows) {
		if (i <= end)
			walk->nwindows = max(walk->nwindows, end + 1);
		return;
	}
	for (; i <= end; i++) {
		struct pvd_window *w = &walk->windows[i];

		w->slot = SLOT_PLUGGABLE;
		if (w->npages)
			w->npages = PVDIRTY_WINDOW_PAGES;
	}
}

static void walk_ram(struct ram_walk *walk)
{
	walk_iomem_res_desc(IORES_DESC_NONE,
			    IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0,
			    U64_MAX, walk, ram_range);
	pvd_memplug_ranges(pluggable_range, walk);
}

static void *alloc_area(size_t bytes)
{
	return pvd_alloc(alloc_pages_exact(bytes, LOG_GFP));
}

static int alloc_window(struct pvd_window *w, u32 npages)
{
	w->marks = alloc_area(PVDIRTY_MARKS_BYTES(npages));
	w->counts = alloc_area(PVDIRTY_COUNTS_BYTES(npages));
	w->npages = npages;
	return w->marks && w->counts ? 0 : -ENOMEM;
}

static void free_window(struct pvd_window *w)
{
	if (w->marks)
		free_pages_exact(w->marks, PVDIRTY_MARKS_BYTES(w->npages));
	if (w->counts)
		free_pages_exact(w->counts, PVDIRTY_COUNTS_BYTES(w->npages));
	w->marks = NULL;
	w->counts = NULL;
	w->npages = 0;
}

/* The section of a window, in a log that is filled. */
static struct pvdirty_section *section_of(const struct pvd_log *log,
					  const struct pvd_window *w)
{
	return (void *)log->ctl + PVDIRTY_LOG_TABLE +
	       w->slot * sizeof(struct pvdirty_section);
}

/* The stub of a window without memory. */
static void *stub_of(const struct pvd_log *log, const struct pvd_window *w)
{
	return phys_to_virt(le64_to_cpu(section_of(log, w)->marks));
}

/* Can memory be plugged there, and was not yet? */
static bool is_stub(const struct pvd_window *w)
{
	return w->summary && !w->marks;
}

static void free_windows(struct pvd_log *log)
{
	u64 i;

	for (i = 0; i < log->nwindows; i++) {
		struct pvd_window *w = &log->windows[i];

		if (is_stub(w))
			kfree(stub_of(log, w));
		else
			free_window(w);
	}
	kvfree(log->windows);
}

/* Does the window get a section? Before the log is filled. */
static bool has_section(const struct pvd_window *w)
{
	return w->npages || w->slot == SLOT_PLUGGABLE;
}

/* Windows that get a section: their number, and what their areas take. */
static u32 count_windows(const struct pvd_log *log, u64 *bytes)
{
	u32 n = 0;
	u64 i;

	for (i = 0; i < log->nwindows; i++) {
		const struct pvd_window *w = &log->windows[i];

		if (!has_section(w))
			continue;
		n++;
		*bytes += w->npages ? PVDIRTY_MARKS_BYTES(w->npages) +
				      PVDIRTY_COUNTS_BYTES(w->npages) :
				      STUB_BYTES;
	}
	return n;
}

static void write_section(struct pvdirty_section *section, u64 window,
			  u32 npages, void *marks, void *counts)
{
	*section = (struct pvdirty_section) {
		.base_pfn = cpu_to_le64(window << PVDIRTY_WINDOW_SHIFT),
		.npages = cpu_to_le32(npages),
		.marks = cpu_to_le64(virt_to_phys(marks)),
		.counts = cpu_to_le64(virt_to_phys(counts)),
	};
}

/* The section of a window of the log, and all it points to. */
static int fill_section(struct pvd_log *log, u64 window, u32 slot,
			struct pvdirty_summary *summary)
{
	struct pvd_window *w = &log->windows[window];
	void *stub;
	int ret;

	BUILD_BUG_ON(sizeof(*w) != 64);
	pvd_window_set_slot(w, log->top, slot);
	if (w->npages) {
		ret = alloc_window(w, w->npages);
		if (ret)
			return ret;
		write_section(section_of(log, w), window, w->npages, w->marks,
			      w->counts);
	} else {
		stub = pvd_alloc(kmalloc(STUB_BYTES, LOG_GFP));
		if (!stub)
			return -ENOMEM;
		write_section(section_of(log, w), window, STUB_PAGES, stub,
			      stub + STUB_COUNTS);
	}
	w->summary = summary;
	return 0;
}

/* Fill the area at ctl, and point the windows into it. */
static int fill_log(struct pvd_log *log, void *area, u32 nsections)
{
	struct pvdirty_summary *summary =
		area + PVDIRTY_LOG_SUMMARIES(nsections);
	u32 slot = 0;
	u64 i;

	log->ctl = area;
	log->top = area + PVDIRTY_LOG_TOP;
	log->ctl->signature = cpu_to_le32(PVDIRTY_LOG_SIGNATURE);
	log->ctl->version = cpu_to_le16(PVDIRTY_VERSION);
	log->ctl->nsections = cpu_to_le32(nsections);
	for (i = 0; i < log->nwindows; i++) {
		struct pvd_window *w = &log->windows[i];
		int ret;

		if (!has_section(w))
			continue;
		ret = fill_section(log, i, slot, &summary[slot]);
		if (ret)
			return ret;
		slot++;
	}
	return 0;
}

int pvd_log_alloc(void)
{
	struct ram_walk walk = {};
	struct pvd_log log = {};
	u32 nsections, pages = 0;
	void *area = NULL;
	u64 bytes = 0;
	int ret;

	if (pvd_have_log())
		return 0;
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		pr_warn("guest memory is encrypted: the host cannot read a log, no device is tracked\n");
		return -EOPNOTSUPP;
	}

	walk_ram(&walk);
	log.nwindows = walk.nwindows;
	log.windows = pvd_alloc(kvcalloc(log.nwindows, sizeof(*log.windows),
					 GFP_KERNEL));
	if (!log.windows) {
		pr_warn("no memory for the table of %llu windows, no device is tracked\n",
			log.nwindows);
		return -ENOMEM;
	}
	walk.windows = log.windows;
	walk_ram(&walk);

	nsections = count_windows(&log, &bytes);
	if (!nsections || nsections > PVDIRTY_MAX_SECTIONS) {
		pr_warn("%u GiB windows have or may get RAM, the log describes 1 to %u: no device is tracked\n",
			nsections, PVDIRTY_MAX_SECTIONS);
		ret = -E2BIG;
		goto out_windows;
	}
	pages = PVDIRTY_LOG_PAGES(nsections);
	bytes += (u64)pages << PVDIRTY_PAGE_SHIFT;
	area = alloc_area((size_t)pages << PVDIRTY_PAGE_SHIFT);
	ret = area ? fill_log(&log, area, nsections) : -ENOMEM;
	if (ret) {
		pr_warn("no memory for the log of %llu KiB, no device is tracked\n",
			bytes >> 10);
		goto out_windows;
	}

	pvdirty.log = log;
	pvdirty.log_pages = pages;
	pr_info("log of %llu KiB for %u GiB windows\n", bytes >> 10,
		nsections);
	return 0;

out_windows:
	free_windows(&log);
	if (area)
		free_pages_exact(area, (size_t)pages << PVDIRTY_PAGE_SHIFT);
	return ret;
}

/*
 * Give a window marks and counters, with no port registered afterwards: the
 * host has the stub until then.
 *
 * No page of the new memory is mapped before it is online. Others of the window
 * may be, such as persistent memory's: who maps one finds no marks, or all.
 */
static int grow_window(struct pvd_log *log, u64 i, bool *unregistered)
{
	struct pvd_window grown = {}, *w = &log->windows[i];
	void *stub = stub_of(log, w);
	int ret;

	ret = alloc_window(&grown, PVDIRTY_WINDOW_PAGES);
	if (ret) {
		free_window(&grown);
		return ret;
	}
	*unregistered |= pvd_ports_unregister();
	write_section(section_of(log, w), i, grown.npages, grown.marks,
		      grown.counts);
	kfree(stub);
	w->counts = grown.counts;
	w->marks = grown.marks;
	/* Partner: pvd_load_acquire() in core/page.h. */
	smp_store_release(&w->npages, grown.npages);
	pr_info("log grown by a GiB window at %#llx\n",
		PFN_PHYS(i << PVDIRTY_WINDOW_SHIFT));
	return 0;
}

int pvd_log_grow(u64 first, u64 last)
{
	struct pvd_log *log = &pvdirty.log;
	bool unregistered = false;
	int ret = 0;
	u64 i;

	for (i = first >> PVDIRTY_WINDOW_SHIFT;
	     !ret && i <= last >> PVDIRTY_WINDOW_SHIFT; i++) {
		u64 end = min_t(u64, last - (i << PVDIRTY_WINDOW_SHIFT) + 1,
				PVDIRTY_WINDOW_PAGES);

		if (i < log->nwindows && log->windows[i].npages >= end)
			continue;
		if (i < log->nwindows && is_stub(&log->windows[i]))
			ret = grow_window(log, i, &unregistered);
		else
			ret = -ERANGE;
	}
	/* Not those that were given up before, in a suspended guest. */
	if (unregistered)
		pvd_ports_register();
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
