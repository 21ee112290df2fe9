/* SPDX-License-Identifier: MIT */
/* Included before guest/core/log.c, which then has these for its primitives. */
#ifndef PVDIRTY_TESTS_GUEST_WATCHED_PRIM_H
#define PVDIRTY_TESTS_GUEST_WATCHED_PRIM_H

#include "guest/core/prim.h"
#include "guest/watch.h"

#undef pvd_read
#undef pvd_try_cmpxchg
#undef pvd_rmb
#undef pvd_dma_rmb

#define pvd_read(p) ((__typeof__(*(p) + 0))watch_guest_load(p, sizeof(*(p))))
#define pvd_try_cmpxchg(p, pold, new)                                          \
	__extension__({                                                        \
		__auto_type at_ = (p);                                         \
		bool done_;                                                    \
		watch_guest_exchange(at_);                                     \
		done_ = __atomic_compare_exchange_n(at_, pold, new, false,     \
						    __ATOMIC_SEQ_CST,          \
						    __ATOMIC_SEQ_CST);         \
		watch_guest_exchanged(at_, done_);                             \
		done_;                                                         \
	})
#define pvd_rmb() watch_guest_rmb()
#define pvd_dma_rmb() watch_guest_dma_rmb()

#endif /* PVDIRTY_TESTS_GUEST_WATCHED_PRIM_H */
