/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The handful of primitives that marking and counting stand on, for the kernel
 * and for user-space tests. The partner of each is the host, which sees guest
 * RAM from another CPU: so the kernel's smp_*() and atomic_*() will not do,
 * since a guest with one vCPU patches their LOCK prefixes away. sync_*() and
 * virt_*() keep them. pvd_load_acquire() alone has its partner in the guest.
 */
#ifndef PVDIRTY_CORE_PRIM_H
#define PVDIRTY_CORE_PRIM_H

#ifdef __KERNEL__

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/types.h>
#include <asm/barrier.h>

/*
 * For functions out of the usual way: these save every register that they use.
 * A caller that must save all registers itself (hooks.h) relies on that, and
 * saves few; for others it is an ordinary call. All definitions must see their
 * declaration, and must not be traced, which keeps fewer registers.
 */
#define pvd_aside noinline notrace __cold __no_caller_saved_registers

#define pvd_read(p) READ_ONCE(*(p))
/* True if it was *pold and is new; else *pold is what it was. */
#ifdef sync_try_cmpxchg /* 6.10 */
#define pvd_try_cmpxchg(p, pold, new) sync_try_cmpxchg(p, pold, new)
#else
#define pvd_try_cmpxchg(p, pold, new) \
	__raw_try_cmpxchg(p, pold, new, sizeof((p)[0]), "lock; ")
#endif
#define pvd_rmb() virt_rmb() /* partners are named where it is used */
#define pvd_load_acquire(p) smp_load_acquire(p) /* likewise */
#define pvd_dma_rmb() dma_rmb()

#else

#include <stdbool.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the user-space build of the core is little-endian only"
#endif
#define cpu_to_le32(x) (x)
#define le32_to_cpu(x) (x)
#ifndef __force
#define __force
#endif
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define pvd_aside

#define pvd_read(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define pvd_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define pvd_try_cmpxchg(p, pold, new)                                          \
	__atomic_compare_exchange_n(p, pold, new, false, __ATOMIC_SEQ_CST,     \
				    __ATOMIC_SEQ_CST)
/*
 * A load followed by later loads. The thread sanitizer does not model fences,
 * and it does not need this one: it checks accesses, all of which are atomic.
 */
#if defined(__SANITIZE_THREAD__)
#define pvd_rmb() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#else
#define pvd_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#endif
#define pvd_dma_rmb() pvd_rmb()

#endif

#endif /* PVDIRTY_CORE_PRIM_H */
