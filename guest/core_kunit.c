// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: ranges of pages to marks and counters, with the edges of windows. What
 * other CPUs and the host do meanwhile is for the tests in user space.
 */
#include <kunit/test.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "kunit_log.h"

/* ---- the log of kunit_log.h ------------------------------------------------ */

struct test_log *test_log_new(struct kunit *test)
{
	static const u32 npages[] = { PVDIRTY_WINDOW_PAGES, TEST_SHORT, 0 };
	struct test_log *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->ctl = kunit_kzalloc(test, sizeof(*t->ctl), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->ctl);
	for (i = 0; i < ARRAY_SIZE(npages); i++) {
		struct pvd_window *w = &t->windows[i];

		if (!npages[i])
			continue;
		w->npages = npages[i];
		pvd_window_set_slot(w, &t->top, i);
		w->summary = &t->summaries[i];
		w->marks = kunit_kzalloc(test, PVDIRTY_MARKS_BYTES(w->npages),
					 GFP_KERNEL);
		w->counts = kunit_kzalloc(test, PVDIRTY_COUNTS_BYTES(w->npages),
					  GFP_KERNEL);
		KUNIT_ASSERT_NOT_NULL(test, w->marks);
		KUNIT_ASSERT_NOT_NULL(test, w->counts);
	}
	t->log = (struct pvd_log) {
		.ctl = t->ctl,
		.top = &t->top,
		.windows = t->windows,
		.nwindows = ARRAY_SIZE(npages),
	};
	return t;
}

static bool get_bit(const __le64 *map, u32 bit)
{
	return le64_to_cpu(map[bit / 64]) >> (bit % 64) & 1;
}

/* The window of a page, or NULL if it is not RAM. */
static const struct pvd_window *window(const struct test_log *t, u64 pfn)
{
	u64 i = pfn >> PVDIRTY_WINDOW_SHIFT;

	if (i >= t->log.nwindows ||
	    pfn - TEST_WINDOW(i) >= t->windows[i].npages)
		return NULL;
	return &t->windows[i];
}

static bool marked(const struct test_log *t, u64 pfn)
{
	const struct pvd_window *w = window(t, pfn);

	return w && get_bit(w->marks, pfn % PVDIRTY_WINDOW_PAGES);
}

u8 test_count(const struct test_log *t, u64 pfn)
{
	const struct pvd_window *w = window(t, pfn);

	return w ? w->counts[pfn % PVDIRTY_WINDOW_PAGES] : 0;
}

u64 test_marked(const struct test_log *t, u64 first, u64 last)
{
	u64 pfn, n = 0;

	for (pfn = first; pfn <= min_t(u64, last, TEST_LAST); pfn++)
		n += marked(t, pfn);
	return n;
}

u64 test_counted(const struct test_log *t, u64 first, u64 last)
{
	u64 pfn, n = 0;

	for (pfn = first; pfn <= min_t(u64, last, TEST_LAST); pfn++)
		n += !!test_count(t, pfn);
	return n;
}

void test_expect_trees(struct kunit *test, const struct test_log *t)
{
	u64 pfn;

	for (pfn = 0; pfn <= TEST_LAST; pfn++) {
		const struct pvd_window *w = window(t, pfn);
		u32 group = pfn % PVDIRTY_WINDOW_PAGES >> PVDIRTY_GROUP_SHIFT;

		if (marked(t, pfn) && (!get_bit(w->summary->marks, group) ||
				       !get_bit(t->top.marks, w->slot)))
			KUNIT_FAIL(test, "mark of page %llu is not found", pfn);
		if (test_count(t, pfn) &&
		    (!get_bit(w->summary->counts, group) ||
		     !get_bit(t->top.counts, w->slot)))
			KUNIT_FAIL(test, "count of page %llu is not found",
				   pfn);
	}
}

/* ---- ranges ---------------------------------------------------------------- */

/**
 * struct range_case - pages, and what becomes of them.
 * @name: of the case
 * @first: first PFN
 * @last: last PFN
 * @pages: how many of them are RAM
 */
struct range_case {
	const char *name;
	u64 first;
	u64 last;
	u64 pages;
};

static const struct range_case ranges[] = {
	{ "first page", 0, 0, 1 },
	{ "within a word", 65, 70, 6 },
	{ "a whole word", 64, 127, 64 },
	{ "across words", 60, 200, 141 },
	{ "across groups", 510, 513, 4 },
	{ "many groups", 100, 2100, 2001 },
	{ "end of a window", TEST_WINDOW(1) - 1, TEST_WINDOW(1) - 1, 1 },
	{ "across windows", TEST_WINDOW(1) - 2, TEST_WINDOW(1) + 1, 4 },
	{ "last page", TEST_LAST, TEST_LAST, 1 },
	{ "past the last page", TEST_LAST - 1, TEST_LAST + 1, 2 },
	{ "in a hole", TEST_HOLE, TEST_HOLE + 3, 0 },
	{ "from RAM through the hole", TEST_LAST, TEST_END - 1, 1 },
	{ "past the last window", TEST_END, TEST_END, 0 },
	{ "highest page", U64_MAX, U64_MAX, 0 },
};

static void range_name(const struct range_case *range, char *name)
{
	strscpy(name, range->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(range, ranges, range_name);

static u32 outside(const struct range_case *r)
{
	return r->pages == r->last - r->first + 1 ? 0 : BIT(PVDIRTY_I_OUTSIDE);
}

static void mark_range(struct kunit *test)
{
	const struct range_case *r = test->param_value;
	struct test_log *t = test_log_new(test);

	pvd_mark(&t->log, r->first, r->last);
	KUNIT_EXPECT_EQ(test, test_marked(t, r->first, r->last), r->pages);
	KUNIT_EXPECT_EQ(test, test_marked(t, 0, TEST_LAST), r->pages);
	KUNIT_EXPECT_EQ(test, test_counted(t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), outside(r));
	test_expect_trees(test, t);
}

static void hold_range(struct kunit *test)
{
	const struct range_case *r = test->param_value;
	struct test_log *t = test_log_new(test);

	pvd_hold(&t->log, r->first, r->last);
	KUNIT_EXPECT_EQ(test, test_counted(t, r->first, r->last), r->pages);
	KUNIT_EXPECT_EQ(test, test_counted(t, 0, TEST_LAST), r->pages);
	KUNIT_EXPECT_EQ(test, test_marked(t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), outside(r));
	test_expect_trees(test, t);
}

/* Given back it is marked if the host is logging, and in flight no more. */
static void release_range(struct kunit *test)
{
	const struct range_case *r = test->param_value;
	struct test_log *t = test_log_new(test);

	pvd_hold(&t->log, r->first, r->last);
	pvd_release(&t->log, r->first, r->last);
	KUNIT_EXPECT_EQ(test, test_counted(t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_marked(t, 0, TEST_LAST), 0);

	t->ctl->logging = cpu_to_le32(1);
	pvd_hold(&t->log, r->first, r->last);
	pvd_release(&t->log, r->first, r->last);
	KUNIT_EXPECT_EQ(test, test_counted(t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_marked(t, r->first, r->last), r->pages);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), outside(r));
	test_expect_trees(test, t);
}

/* ---- counters -------------------------------------------------------------- */

static void count_each_mapping(struct kunit *test)
{
	struct test_log *t = test_log_new(test);

	pvd_hold(&t->log, 7, 8);
	pvd_hold(&t->log, 8, 9);
	KUNIT_EXPECT_EQ(test, test_count(t, 8), 2);
	pvd_release(&t->log, 7, 8);
	KUNIT_EXPECT_EQ(test, test_count(t, 7), 0);
	KUNIT_EXPECT_EQ(test, test_count(t, 8), 1);
	pvd_release(&t->log, 8, 9);
	KUNIT_EXPECT_EQ(test, test_counted(t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), 0);
}

static void full_counter_sticks(struct kunit *test)
{
	struct test_log *t = test_log_new(test);
	int i;

	for (i = 0; i < PVDIRTY_COUNT_STUCK + 10; i++)
		pvd_hold(&t->log, 3, 3);
	KUNIT_EXPECT_EQ(test, test_count(t, 3), PVDIRTY_COUNT_STUCK);
	for (i = 0; i < PVDIRTY_COUNT_STUCK + 10; i++)
		pvd_release(&t->log, 3, 3);
	KUNIT_EXPECT_EQ(test, test_count(t, 3), PVDIRTY_COUNT_STUCK);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), 0);
}

static void underflow_is_told(struct kunit *test)
{
	struct test_log *t = test_log_new(test);

	pvd_release(&t->log, 3, 3);
	KUNIT_EXPECT_EQ(test, test_count(t, 3), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(t), BIT(PVDIRTY_I_UNDERFLOW));
}

static void gaps_are_counted(struct kunit *test)
{
	struct test_log *t = test_log_new(test);

	pvd_gap(&t->log);
	pvd_gap(&t->log);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(t->ctl->gaps), 2);
}

static struct kunit_case core_cases[] = {
	KUNIT_CASE_PARAM(mark_range, range_gen_params),
	KUNIT_CASE_PARAM(hold_range, range_gen_params),
	KUNIT_CASE_PARAM(release_range, range_gen_params),
	KUNIT_CASE(count_each_mapping),
	KUNIT_CASE(full_counter_sticks),
	KUNIT_CASE(underflow_is_told),
	KUNIT_CASE(gaps_are_counted),
	{}
};

static struct kunit_suite core_suite = {
	.name = "pvdirty_core",
	.test_cases = core_cases,
};

kunit_test_suite(core_suite);
