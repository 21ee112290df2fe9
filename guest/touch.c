// SPDX-License-Identifier: GPL-2.0
/*
 * A locked add of 0: no value changes, and nothing that another CPU or the
 * device writes to the same word at the same time is torn or lost, which a
 * read and a write back would risk.
 */
#include <linux/compiler.h>
#include <linux/mm.h>

#include "touch.h"

/*
 * Not atomic_add(): a guest with one CPU patches its LOCK prefix away, but the
 * other agent is outside of the guest.
 */
static inline void locked_add_0(u32 *word)
{
	asm volatile("lock addl $0, %0" : "+m" (*word));
}

void pvd_touch(u64 first, u64 last)
{
	u64 pfn;

	for (pfn = first;; pfn++) {
		if (pfn_valid(pfn))
			locked_add_0(pfn_to_kaddr(pfn));
		if (pfn >= last)
			break;
	}
}
