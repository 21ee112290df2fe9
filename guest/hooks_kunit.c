// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: what the hook makes of mappings and lists. Part of hooks.c.
 */
#include <kunit/test.h>

#include "kunit_log.h"

#define TEST_ADDR(pfn) ((dma_addr_t)(pfn) << PAGE_SHIFT)

/**
 * struct test_device - a device that is tracked in a log of its own.
 * @dev: the device; never added
 * @layer: tracks it
 * @t: the log
 */
struct test_device {
	struct device dev;
	struct pvd_layer layer;
	struct test_log *t;
};

static struct test_device *test_device_new(struct kunit *test)
{
	struct test_device *td = kunit_kzalloc(test, sizeof(*td), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, td);
	td->t = test_log_new(test);
	td->layer.plain = &td->t->log;
	td->layer.log = &td->t->log;
	td->layer.dev = &td->dev;
	td->dev.pvdirty = &td->layer;
	return td;
}

/* ---- single mappings ------------------------------------------------------- */

struct mapping_case {
	const char *name;
	dma_addr_t addr;
	size_t size;
	enum dma_data_direction dir;
	u64 pages; /* in flight then */
};

static const struct mapping_case mappings[] = {
	{ "a page", TEST_ADDR(5), PAGE_SIZE, DMA_FROM_DEVICE, 1 },
	{ "both directions", TEST_ADDR(5), PAGE_SIZE, DMA_BIDIRECTIONAL, 1 },
	{ "to the device", TEST_ADDR(5), PAGE_SIZE, DMA_TO_DEVICE, 0 },
	{ "no direction", TEST_ADDR(5), PAGE_SIZE, DMA_NONE, 0 },
	{ "one byte", TEST_ADDR(5) + 77, 1, DMA_FROM_DEVICE, 1 },
	{ "no byte", TEST_ADDR(5), 0, DMA_FROM_DEVICE, 0 },
	{ "no byte of a page", TEST_ADDR(5) + 77, 0, DMA_FROM_DEVICE, 0 },
	{ "last byte of a page", TEST_ADDR(6) - 1, 1, DMA_FROM_DEVICE, 1 },
	{ "across pages", TEST_ADDR(6) - 1, 2, DMA_FROM_DEVICE, 2 },
	{ "64 KiB, not aligned", TEST_ADDR(6) + 8, SZ_64K, DMA_FROM_DEVICE, 17 },
	{ "a failed mapping", DMA_MAPPING_ERROR, PAGE_SIZE, DMA_FROM_DEVICE, 0 },
	{ "a byte, failed", DMA_MAPPING_ERROR, 1, DMA_FROM_DEVICE, 0 },
};

static void mapping_name(const struct mapping_case *m, char *name)
{
	strscpy(name, m->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(mapping, mappings, mapping_name);

static void map_single(struct kunit *test)
{
	const struct mapping_case *m = test->param_value;
	struct test_device *td = test_device_new(test);

	__pvdirty_map(&td->dev, m->addr, m->size, m->dir);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), m->pages);
	if (m->addr == DMA_MAPPING_ERROR)
		return; /* given back in never_mapped() */
	td->t->ctl->logging = cpu_to_le32(1);
	__pvdirty_sync(&td->dev, m->addr, m->size, m->dir);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), m->pages);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), m->pages);
	__pvdirty_unmap(&td->dev, m->addr, m->size, m->dir);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), m->pages);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(td->t), 0);
}

/* A device that is not tracked leaves the log alone. */
static void not_tracked(struct kunit *test)
{
	struct test_device *td = test_device_new(test);

	td->dev.pvdirty = NULL;
	td->t->ctl->logging = cpu_to_le32(1);
	__pvdirty_map(&td->dev, TEST_ADDR(5), PAGE_SIZE, DMA_FROM_DEVICE);
	__pvdirty_sync(&td->dev, TEST_ADDR(5), PAGE_SIZE, DMA_FROM_DEVICE);
	__pvdirty_unmap(&td->dev, TEST_ADDR(5), PAGE_SIZE, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(td->t), 0);
	KUNIT_EXPECT_FALSE(test, __pvdirty_wants_sync(&td->dev));
}

/* A driver gives back what was never mapped: no page is touched by that. */
static void never_mapped(struct kunit *test)
{
	struct test_device *td = test_device_new(test);
	static const size_t sizes[] = { 1, PAGE_SIZE, SZ_64K };
	dma_addr_t last = TEST_ADDR(PVDIRTY_WINDOW_PAGES - 1);
	int i;

	__pvdirty_map(&td->dev, TEST_ADDR(0), PAGE_SIZE, DMA_FROM_DEVICE);
	__pvdirty_map(&td->dev, last, PAGE_SIZE, DMA_FROM_DEVICE);
	td->t->ctl->logging = cpu_to_le32(1);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		td->t->ctl->incomplete = 0;
		__pvdirty_unmap(&td->dev, DMA_MAPPING_ERROR, sizes[i],
				DMA_FROM_DEVICE);
		KUNIT_EXPECT_EQ(test, test_incomplete(td->t),
				BIT(PVDIRTY_I_OUTSIDE));
	}
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 2);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), 0);
}

static void wants_sync(struct kunit *test)
{
	struct test_device *td = test_device_new(test);

	KUNIT_EXPECT_FALSE(test, __pvdirty_wants_sync(&td->dev));
	td->layer.wants_sync = true;
	KUNIT_EXPECT_TRUE(test, __pvdirty_wants_sync(&td->dev));
}

static void translated(struct kunit *test)
{
	static const struct bus_dma_region ranges[] = {
		{ .cpu_start = TEST_ADDR(100), .dma_start = TEST_ADDR(900),
		  .size = 2 * PAGE_SIZE },
		{ .cpu_start = TEST_ADDR(300), .dma_start = TEST_ADDR(902),
		  .size = PAGE_SIZE },
		{}
	};
	struct test_device *td = test_device_new(test);

	td->layer.ranges = ranges;
	td->layer.plain = NULL;
	__pvdirty_map(&td->dev, TEST_ADDR(901), PAGE_SIZE, DMA_FROM_DEVICE);
	__pvdirty_map(&td->dev, TEST_ADDR(902), PAGE_SIZE, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_count(td->t, 101), 1);
	KUNIT_EXPECT_EQ(test, test_count(td->t, 300), 1);
	td->t->ctl->logging = cpu_to_le32(1);
	__pvdirty_sync(&td->dev, TEST_ADDR(902), PAGE_SIZE, DMA_FROM_DEVICE);
	__pvdirty_unmap(&td->dev, TEST_ADDR(901), PAGE_SIZE, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 101, 101), 1);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 300, 300), 1);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), 2);
	KUNIT_EXPECT_EQ(test, test_count(td->t, 101), 0);
	KUNIT_EXPECT_EQ(test, test_count(td->t, 300), 1);
	__pvdirty_map(&td->dev, TEST_ADDR(901), PAGE_SIZE, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_incomplete(td->t), 0);
	__pvdirty_map(&td->dev, TEST_ADDR(903), PAGE_SIZE, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 2);
	KUNIT_EXPECT_EQ(test, test_incomplete(td->t), BIT(PVDIRTY_I_OUTSIDE));
}

/* ---- lists ----------------------------------------------------------------- */

struct entry {
	u64 pfn;
	u32 len; /* 0: not used, merged into the one before */
	bool bus; /* peer-to-peer */
};

/**
 * struct list_case - a mapped list.
 * @name: of the case
 * @entries: of the list
 * @nents: how many entries the driver gave
 * @mapped: how many have an address
 * @pages: in flight then
 */
struct list_case {
	const char *name;
	struct entry entries[4];
	int nents;
	int mapped;
	u64 pages;
};

static const struct list_case lists[] = {
	{ "one entry", { { 5, PAGE_SIZE } }, 1, 1, 1 },
	{ "four entries", { { 5, 4096 }, { 9, 8192 }, { 20, 1 }, { 30, 4096 } },
	  4, 4, 5 },
	{ "merged tail", { { 5, 3 * 4096 }, { 0, 0 }, { 0, 0 } }, 3, 1, 3 },
	{ "merged in two", { { 5, 8192 }, { 20, 8192 }, { 0, 0 }, { 0, 0 } },
	  4, 2, 4 },
#ifdef CONFIG_PCI_P2PDMA
	{ "peer to peer", { { 5, 4096 }, { 9, 8192, true }, { 30, 4096 } },
	  3, 3, 2 },
	{ "peer to peer only", { { 9, 8192, true } }, 1, 1, 0 },
#endif
};

static void list_name(const struct list_case *c, char *name)
{
	strscpy(name, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(list, lists, list_name);

static void map_list(struct kunit *test)
{
	const struct list_case *c = test->param_value;
	struct test_device *td = test_device_new(test);
	struct scatterlist sgl[ARRAY_SIZE(c->entries)];
	int i;

	sg_init_table(sgl, c->nents);
	for (i = 0; i < c->nents; i++) {
		sg_dma_address(&sgl[i]) = TEST_ADDR(c->entries[i].pfn);
		sg_dma_len(&sgl[i]) = c->entries[i].len;
		if (c->entries[i].bus)
			sg_dma_mark_bus_address(&sgl[i]);
	}
	__pvdirty_map_sg(&td->dev, sgl, c->mapped, DMA_TO_DEVICE);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 0);
	__pvdirty_map_sg(&td->dev, sgl, c->mapped, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), c->pages);
	td->t->ctl->logging = cpu_to_le32(1);
	__pvdirty_sync_sg(&td->dev, sgl, c->nents, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_marked(td->t, 0, TEST_LAST), c->pages);
	__pvdirty_unmap_sg(&td->dev, sgl, c->nents, DMA_FROM_DEVICE);
	KUNIT_EXPECT_EQ(test, test_counted(td->t, 0, TEST_LAST), 0);
	KUNIT_EXPECT_EQ(test, test_incomplete(td->t), 0);
}

static struct kunit_case hooks_cases[] = {
	KUNIT_CASE_PARAM(map_single, mapping_gen_params),
	KUNIT_CASE_PARAM(map_list, list_gen_params),
	KUNIT_CASE(not_tracked),
	KUNIT_CASE(never_mapped),
	KUNIT_CASE(wants_sync),
	KUNIT_CASE(translated),
	{}
};

static struct kunit_suite hooks_suite = {
	.name = "pvdirty_hooks",
	.test_cases = hooks_cases,
};

kunit_test_suite(hooks_suite);
