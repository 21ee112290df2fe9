// SPDX-License-Identifier: MIT
/*
 * Between QEMU and KVM, by LD_PRELOAD, for what a stock QEMU 7.2 has no switch for. KVM_SHIM is a
 * list of words, with commas:
 *   no-manual-protect  this KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
 *   all-dirty          each look at the dirty log finds all pages of RAM dirty, as VFIO's type1
 *                      reports what a device without a dirty tracker has mapped
 * It tells on stderr, once, that it did something.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_PAGES 64
#define SLOTS 1024 /* more than QEMU makes */

/* Pages of each memory slot, by its number; address spaces apart from 0 have no other RAM. */
static _Atomic uint64_t slot_pages[SLOTS];

static int wanted(const char *word)
{
	const char *words = getenv("KVM_SHIM");

	return words && strstr(words, word);
}

static void tell_once(atomic_flag *told, const char *what)
{
	if (!atomic_flag_test_and_set(told))
		fprintf(stderr, "info: kvm-shim: %s\n", what);
}

static void note_slot(const struct kvm_userspace_memory_region *region)
{
	if (region->slot < SLOTS)
		slot_pages[region->slot] = region->memory_size / 4096;
}

static void set_all(const struct kvm_dirty_log *log)
{
	uint64_t pages = log->slot < SLOTS ? slot_pages[log->slot] : 0;
	uint64_t *words = log->dirty_bitmap;

	memset(words, 0xff, pages / WORD_PAGES * sizeof(*words));
	if (pages % WORD_PAGES)
		words[pages / WORD_PAGES] |= (1ull << pages % WORD_PAGES) - 1;
}

int ioctl(int fd, unsigned long request, ...)
{
	static atomic_flag told_capability = ATOMIC_FLAG_INIT, told_dirty = ATOMIC_FLAG_INIT;
	static int (*next)(int, unsigned long, ...);
	va_list args;
	void *arg;
	int ret;

	if (!next)
		next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);

	if (request == KVM_CHECK_EXTENSION &&
	    (uintptr_t)arg == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 && wanted("no-manual-protect")) {
		tell_once(&told_capability, "no manual protection");
		return 0;
	}
	ret = next(fd, request, arg);
	if (request == KVM_SET_USER_MEMORY_REGION && !ret) {
		note_slot(arg);
	} else if (request == KVM_GET_DIRTY_LOG && !ret && wanted("all-dirty")) {
		tell_once(&told_dirty, "all pages are dirty");
		set_all(arg);
	}
	return ret;
}
