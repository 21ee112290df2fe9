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
#include "core/page.h"
#include "pvdirty.h"

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

/* What pages.c does with any number of bytes. @log: NULL when touching. */

/*
 * The layer's device may write them from now on. What the log does not describe
 * is said.
 */
pvd_aside void pvd_range_hold(struct pvd_layer *layer, struct pvd_log *log,
			      phys_addr_t phys, size_t size);

/* It does not any more. */
pvd_aside void pvd_range_release(struct pvd_log *log, phys_addr_t phys,
				 size_t size);

/* The driver is about to read them, and they stay mapped. */
pvd_aside void pvd_range_sync(struct pvd_log *log, phys_addr_t phys,
			      size_t size);

/*
 * The same for what most mappings are, bytes in one page that the log
 * describes, inlined. False if it is not that, and nothing was done. A sync has
 * nothing to do while the host is not logging.
 */

static __always_inline bool pvd_in_one_page(phys_addr_t phys, size_t size)
{
	return likely(size - 1 <= (~phys & ~PAGE_MASK)); /* not if size is 0 */
}

static __always_inline bool pvd_page_part_hold(struct pvd_log *log,
					       phys_addr_t phys, size_t size)
{
	return likely(log) && pvd_in_one_page(phys, size) &&
	       likely(pvd_page_hold(log, PHYS_PFN(phys)));
}

static __always_inline bool pvd_page_part_release(struct pvd_log *log,
						  phys_addr_t phys, size_t size)
{
	return likely(log) && pvd_in_one_page(phys, size) &&
	       likely(pvd_page_release(log, PHYS_PFN(phys)));
}

static __always_inline bool pvd_page_part_sync(struct pvd_log *log,
					       phys_addr_t phys, size_t size)
{
	return likely(log) && pvd_in_one_page(phys, size) &&
	       (!pvd_logging_now(log) ||
		likely(pvd_page_mark(log, PHYS_PFN(phys))));
}

#endif /* PVDIRTY_PAGES_H */
