/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small log for the KUnit tests, in memory of its own: window 0 is full of
 * RAM, window 1 has TEST_SHORT pages, window 2 is a hole, and there are no
 * more. The pages themselves are never touched.
 */
#ifndef PVDIRTY_KUNIT_LOG_H
#define PVDIRTY_KUNIT_LOG_H

#include <kunit/test.h>

#include "core/log.h"

#define TEST_SHORT 600
#define TEST_WINDOW(n) ((u64)(n) << PVDIRTY_WINDOW_SHIFT)
#define TEST_LAST (TEST_WINDOW(1) + TEST_SHORT - 1) /* last page of RAM */
#define TEST_HOLE TEST_WINDOW(2)
#define TEST_END TEST_WINDOW(3)

/**
 * struct test_log - a log and what it points to.
 * @log: to be tested
 * @ctl: its control page
 * @top: its root
 * @windows: its windows
 * @summaries: of the windows with RAM
 */
struct test_log {
	struct pvd_log log;
	struct pvdirty_log *ctl;
	struct pvdirty_top top;
	struct pvd_window windows[3];
	struct pvdirty_summary summaries[2];
};

/* An empty log, freed with the test. Never NULL. */
struct test_log *test_log_new(struct kunit *test);

/* How many of these pages are marked; in flight; last one included. */
u64 test_marked(const struct test_log *t, u64 first, u64 last);
u64 test_counted(const struct test_log *t, u64 first, u64 last);

/* The page's counter. */
u8 test_count(const struct test_log *t, u64 pfn);

static inline u32 test_incomplete(const struct test_log *t)
{
	return le32_to_cpu(t->ctl->incomplete);
}

/* Whatever is marked or counted has its bits in summary and root. */
void test_expect_trees(struct kunit *test, const struct test_log *t);

#endif /* PVDIRTY_KUNIT_LOG_H */
