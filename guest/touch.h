/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Touching, for hosts that take no marks: write to each page without changing
 * it, so that the ordinary dirty log sees it.
 */
#ifndef PVDIRTY_TOUCH_H
#define PVDIRTY_TOUCH_H

#include <linux/types.h>

/**
 * pvd_touch() - touch pages that a device may have written.
 * @first: first PFN
 * @last: last PFN, not below @first
 *
 * Without a log nobody says whether the host is interested, so this is done
 * always. Pages that are no RAM of this guest are skipped. Any context.
 */
void pvd_touch(u64 first, u64 last);

#endif /* PVDIRTY_TOUCH_H */
