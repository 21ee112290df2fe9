// SPDX-License-Identifier: GPL-2.0
/* What pages.h does not inline: ranges, what is not in the log, and touching. */
#include "pages.h"
#include "touch.h"

void pvd_range_hold(struct pvd_layer *layer, struct pvd_log *log,
			      phys_addr_t phys, size_t size)
{
	if (!log || !size)
		return;
	if (likely(pvd_hold(log, PHYS_PFN(phys), PHYS_PFN(phys + size - 1))))
		return;
	pvd_attach_spoil(layer, PVDIRTY_R_OUTSIDE);
	pvd_cover_look_later();
}

void pvd_range_release(struct pvd_log *log, phys_addr_t phys,
				 size_t size)
{
	u64 first = PHYS_PFN(phys), last = PHYS_PFN(phys + size - 1);

	if (!size)
		return;
	if (likely(log))
		pvd_release(log, first, last);
	else
		pvd_touch(first, last);
}

void pvd_range_sync(struct pvd_log *log, phys_addr_t phys,
			      size_t size)
{
	u64 first = PHYS_PFN(phys), last = PHYS_PFN(phys + size - 1);

	if (!size)
		return;
	if (unlikely(!log))
		pvd_touch(first, last);
	else if (pvd_logging_now(log))
		pvd_mark(log, first, last);
}
