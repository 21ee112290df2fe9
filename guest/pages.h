/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is done with the pages of a mapping, whichever way it came to our
 * notice. Pages are told from DMA addresses, so a bounced page is its slot:
 * that is what the device writes.
 */
#ifndef PVDIRTY_PAGES_H
#define PVDIRTY_PAGES_H

#include <linux/dma-direct.h>
#include <linux/dma-direction.h>
#include <linux/pfn.h>
#include <linux/scatterlist.h>

#include "compat.h"
#include "pvdirty.h"
#include "touch.h"

static inline bool pvd_device_writes(enum dma_data_direction dir)
{
	return dir == DMA_FROM_DEVICE || dir == DMA_BIDIRECTIONAL;
}

/* Does this entry of a mapped list describe guest RAM? */
static inline bool pvd_sg_in_ram(struct scatterlist *sg)
{
	return sg_dma_len(sg) && !pvd_sg_is_bus_address(sg);
}

/* Size of a table of DMA ranges with its end, in bytes. */
static inline size_t pvd_ranges_bytes(const struct bus_dma_region *ranges)
{
	size_t n = 1;

	while (ranges[n - 1].size)
		n++;
	return n * sizeof(*ranges);
}

/*
 * The layer's device may write these bytes from now on. @log: its log, or NULL
 * when touching. What the log does not describe is said.
 */
static inline void pvd_pages_hold(struct pvd_layer *layer, struct pvd_log *log,
				  phys_addr_t phys, size_t size)
{
	if (unlikely(!log || !size))
		return;
	if (likely(pvd_hold(log, PHYS_PFN(phys), PHYS_PFN(phys + size - 1))))
		return;
	pvd_attach_spoil(layer, PVDIRTY_R_OUTSIDE);
	pvd_cover_look_later();
}

/* It does not any more. */
static inline void pvd_pages_release(struct pvd_log *log, phys_addr_t phys,
				     size_t size)
{
	u64 first = PHYS_PFN(phys), last = PHYS_PFN(phys + size - 1);

	if (unlikely(!size))
		return;
	if (likely(log))
		pvd_release(log, first, last);
	else
		pvd_touch(first, last);
}

/* The driver is about to read them, and they stay mapped. */
static inline void pvd_pages_sync(struct pvd_log *log, phys_addr_t phys,
				  size_t size)
{
	u64 first = PHYS_PFN(phys), last = PHYS_PFN(phys + size - 1);

	if (unlikely(!size))
		return;
	if (unlikely(!log)) {
		pvd_touch(first, last);
		return;
	}
	pvd_dma_rmb(); /* partner: the host's fence after it set logging */
	if (pvd_logging(log))
		pvd_mark(log, first, last);
}

#endif /* PVDIRTY_PAGES_H */
