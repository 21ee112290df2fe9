/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Allocations, which a KUnit test can have fail.
 */
#ifndef PVDIRTY_ALLOC_H
#define PVDIRTY_ALLOC_H

#include <linux/types.h>

#ifdef CONFIG_PVDIRTY_KUNIT_TEST
/* Does a test want the next allocation of this task to fail? Counts it. */
bool pvd_alloc_fails(void);
#else
static inline bool pvd_alloc_fails(void)
{
	return false;
}
#endif

/* What an allocation returns, or NULL if a test wants it to fail. */
#define pvd_alloc(allocation) (pvd_alloc_fails() ? NULL : (allocation))

#endif /* PVDIRTY_ALLOC_H */
