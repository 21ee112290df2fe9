// SPDX-License-Identifier: GPL-2.0
/* What pages.h does not inline: ranges, what is not in the log, and touching. */
#include <linux/minmax.h>

#include "pages.h"
#include "touch.h"

/*
 * The last page of some bytes. It is not below the first one: DMA_MAPPING_ERROR
 * may be given back too, and is outside of the log.
 */
static u64 last_pfn(phys_addr_t phys, size_t size)
{
	phys_addr_t last = phys + size - 1;

	return PHYS_PFN(max(phys, last));
}

void pvd_range_hold(struct pvd_layer *layer, struct pvd_log *log,
		    phys_addr_t phys, size_t size)
{
	if (!log || !size)
		return;
	if (likely(pvd_hold(log, PHYS_PFN(phys), last_pfn(phys, size))))
		return;
	pvd_attach_spoil(layer, PVDIRTY_R_OUTSIDE);
	pvd_cover_look_later();
}

void pvd_range_release(struct pvd_log *log, phys_addr_t phys, size_t size)
{
	u64 first = PHYS_PFN(phys), last = last_pfn(phys, size);

	if (!size)
		return;
	if (likely(log))
		pvd_release(log, first, last);
	else
		pvd_touch(first, last);
}

void pvd_range_sync(struct pvd_log *log, phys_addr_t phys, size_t size)
{
	u64 first = PHYS_PFN(phys), last = last_pfn(phys, size);

	if (!size)
		return;
	if (unlikely(!log))
		pvd_touch(first, last);
	else if (pvd_logging_now(log))
		pvd_mark(log, first, last);
}
