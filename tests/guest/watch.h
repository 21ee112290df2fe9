/* SPDX-License-Identifier: MIT */
/*
 * Every access to the log, by the guest's core and by the host's library, as the tests see it. Both
 * are compiled unchanged, over primitives that call these functions (watched_prim.h and
 * watched_word.hpp). What they do is up to the Watcher of the thread (watch.hpp).
 */
#ifndef PVDIRTY_TESTS_GUEST_WATCH_H
#define PVDIRTY_TESTS_GUEST_WATCH_H

#include <linux/types.h>

#ifdef __cplusplus
extern "C" {
#else
#include <stdbool.h>
#endif

/* The guest: a load of 1, 4 or 8 bytes; an exchange, before and after; load barriers. */
__u64 watch_guest_load(const void *where, unsigned int size);
void watch_guest_exchange(void *where);
void watch_guest_exchanged(void *where, bool done);
void watch_guest_rmb(void);
void watch_guest_dma_rmb(void);

/* The host: likewise; its exchanges are locked, its fence is a full one. */
__u64 watch_host_load(const void *where, unsigned int size);
void watch_host_store(void *where, unsigned int size, __u64 value);
void watch_host_exchange(void *where);
void watch_host_exchanged(void *where);
void watch_host_fence(void);

#ifdef __cplusplus
}
#endif

#endif /* PVDIRTY_TESTS_GUEST_WATCH_H */
