// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: what becomes of a port and of a device below it, with hosts that take
 * more or less, and with allocations that fail. Part of cover.c.
 *
 * The log is a real one.
 */
#include "kunit_host.h"

/* ---- allocations that fail ------------------------------------------------- */

static struct task_struct *failing_task;
static int fail_after, fail_count;

bool pvd_alloc_fails(void)
{
	if (READ_ONCE(failing_task) != current)
		return false;
	if (fail_after) {
		fail_after--;
		return false;
	}
	if (!fail_count)
		return false;
	fail_count--;
	return true;
}

/* Of this task's allocations as many fail, after some that do not. */
static void fail_allocations(int after, int count)
{
	fail_after = after;
	fail_count = count;
	WRITE_ONCE(failing_task, count ? current : NULL);
}

/* ---- registration ---------------------------------------------------------- */

#define TEST_UP_TO_DRIVER (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
#define TEST_UP_TO_FEATURES (TEST_UP_TO_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)
#define TEST_UP_TO_END (TEST_UP_TO_FEATURES | VIRTIO_CONFIG_S_DRIVER_OK)

/**
 * struct host_case - a host, and what comes of it.
 * @name: of the case
 * @offers: features
 * @takes: bits of the port's status
 * @version: that it speaks, less ours
 * @features: that the guest takes
 * @state: of the device once it has a driver
 * @reason: likewise
 */
struct host_case {
	const char *name;
	u32 offers;
	u8 takes;
	int version;
	u32 features;
	u8 state;
	u8 reason;
};

static const struct host_case hosts[] = {
	{ "all features", PVDIRTY_FEATURES_ALL, TEST_UP_TO_END, 0,
	  PVDIRTY_FEATURES_LOG, PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "marks alone", BIT(PVDIRTY_F_BITMAP), TEST_UP_TO_END, 0,
	  BIT(PVDIRTY_F_BITMAP), PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "touching alone", BIT(PVDIRTY_F_TOUCH), TEST_UP_TO_END, 0,
	  BIT(PVDIRTY_F_TOUCH), PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "counts without marks", BIT(PVDIRTY_F_INFLIGHT), TEST_UP_TO_END, 0,
	  0, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "nothing", 0, TEST_UP_TO_END, 0,
	  0, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "of a later kind", BIT(9), TEST_UP_TO_END, 0,
	  0, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "takes no guest", PVDIRTY_FEATURES_ALL, 0, 0,
	  PVDIRTY_FEATURES_LOG, PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "takes no features", PVDIRTY_FEATURES_ALL, TEST_UP_TO_DRIVER, 0,
	  PVDIRTY_FEATURES_LOG, PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "takes no log", PVDIRTY_FEATURES_ALL, TEST_UP_TO_FEATURES, 0,
	  PVDIRTY_FEATURES_LOG, PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "of another version", PVDIRTY_FEATURES_ALL, TEST_UP_TO_END, 1,
	  0, PVDIRTY_DEV_FREE, PVDIRTY_R_NONE },
};

static void host_name(const struct host_case *c, char *name)
{
	strscpy(name, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(host, hosts, host_name);

static void expect_registered(struct kunit *test, struct test_host *host,
			      const struct host_case *c)
{
	const struct pvdirty_cap *cap = cap_of(host);
	u64 phys = le32_to_cpu(cap->log_addr_lo) |
		   (u64)le32_to_cpu(cap->log_addr_hi) << 32;

	if (!c->features || c->takes != TEST_UP_TO_END) {
		KUNIT_EXPECT_FALSE(test, registered(host));
		KUNIT_EXPECT_EQ(test, cap->device_status,
				c->features ? TEST_REFUSED : 0);
		return;
	}
	KUNIT_EXPECT_EQ(test, cap->device_status, TEST_UP_TO_END);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(cap->guest_features), c->features);
	if (!(c->features & PVDIRTY_FEATURES_LOG))
		return;
	KUNIT_EXPECT_EQ(test, phys, (u64)pvd_log_phys());
	KUNIT_EXPECT_EQ(test, le32_to_cpu(cap->log_pages), pvdirty.log_pages);
}

/* It registers as far as the host takes it; and again after a sleep. */
static void registration(struct kunit *test)
{
	const struct host_case *c = test->param_value;
	struct test_host *host = test_host_new(test, c->offers);

	host->takes = c->takes;
	cap_of(host)->version = cpu_to_le16(PVDIRTY_VERSION + c->version);
	plug_port(host);
	expect_registered(test, host, c);
	pvd_cover_add(&host->pdev);
	probe(host);
	expect_device(test, host, c->state, c->reason);

	mutex_lock(&pvdirty.lock);
	pvd_ports_unregister();
	KUNIT_EXPECT_FALSE(test, registered(host));
	pvd_ports_register();
	mutex_unlock(&pvdirty.lock);
	expect_registered(test, host, c);
	unplug(host);
	KUNIT_EXPECT_FALSE(test, registered(host));
	KUNIT_EXPECT_FALSE(test, static_key_enabled(&pvdirty_key));
}

/* Memory that is the device's alone goes past the DMA API. */
static void private_memory(struct kunit *test)
{
	struct test_host *host = test_host_new(test, PVDIRTY_FEATURES_ALL);
	struct device *dev = &host->pdev.dev;

	plug_port(host);
	pvd_cover_add(&host->pdev);
	/* Whether there is any is all that is asked. */
	dev->dma_mem = (struct dma_coherent_mem *)host;
	probe(host);
	expect_device(test, host, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_COHERENT_MEM);
	dev->dma_mem = NULL;
	unplug(host);
}

/* One log is of one domain: a port of another one covers nothing. */
static void other_domain(struct kunit *test)
{
	struct test_host *one = test_host_new(test, PVDIRTY_FEATURES_ALL);
	struct test_host *other = test_host_new(test, PVDIRTY_FEATURES_ALL);

	cap_of(other)->domain = cpu_to_le32(7);
	plug_port(one);
	plug_port(other);
	KUNIT_EXPECT_TRUE(test, registered(one));
	KUNIT_EXPECT_FALSE(test, registered(other));
	pvd_cover_add(&other->pdev);
	expect_device(test, other, PVDIRTY_DEV_FREE, PVDIRTY_R_NONE);
	unplug(other);
	unplug(one);
}

/* ---- without memory -------------------------------------------------------- */

enum failing_step { AT_PORT, AT_DEVICE, AT_PROBE };

/**
 * struct failure_case - allocations that fail, and what comes of it.
 * @name: of the case
 * @step: while this is done, and afterwards
 * @after: so many allocations have succeeded
 * @count: how many fail then
 * @features: that the guest has registered with
 * @incomplete: what the log says of itself
 * @state: of the device once it has a driver
 * @reason: likewise
 */
struct failure_case {
	const char *name;
	enum failing_step step;
	int after;
	int count;
	u32 features;
	u32 incomplete;
	u8 state;
	u8 reason;
};

/* A machine that memory can be plugged into has more areas than these. */
static const struct failure_case failures[] = {
	{ "nothing", AT_PORT, 0, 0, PVDIRTY_FEATURES_LOG, 0,
	  PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "port", AT_PORT, 0, 1, 0, 0, PVDIRTY_DEV_FREE, PVDIRTY_R_NONE },
	{ "table of windows", AT_PORT, 1, 1, BIT(PVDIRTY_F_TOUCH), 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "log", AT_PORT, 2, 1, BIT(PVDIRTY_F_TOUCH), 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "marks", AT_PORT, 3, 1, BIT(PVDIRTY_F_TOUCH), 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "counters", AT_PORT, 4, 1, BIT(PVDIRTY_F_TOUCH), 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "stub of a window", AT_PORT, 5, 1, BIT(PVDIRTY_F_TOUCH), 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_LOG },
	{ "device", AT_DEVICE, 0, 1, PVDIRTY_FEATURES_LOG,
	  BIT(PVDIRTY_I_NO_MEMORY), PVDIRTY_DEV_FREE, PVDIRTY_R_NONE },
	{ "layer, at first", AT_DEVICE, 1, 1, PVDIRTY_FEATURES_LOG, 0,
	  PVDIRTY_DEV_TRACKED, PVDIRTY_R_NONE },
	{ "layer, twice", AT_DEVICE, 1, 2, PVDIRTY_FEATURES_LOG, 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_MEMORY },
	{ "DMA ranges", AT_PROBE, 0, 1, PVDIRTY_FEATURES_LOG, 0,
	  PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_MEMORY },
};

static void failure_name(const struct failure_case *c, char *name)
{
	strscpy(name, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(failure, failures, failure_name);

static void begin(const struct failure_case *c, enum failing_step step)
{
	if (c->step == step)
		fail_allocations(c->after, c->count);
}

static void without_memory(struct kunit *test)
{
	static const struct bus_dma_region ranges[] = {
		{ .size = SZ_4G },
		{}
	};
	struct test_host *host = test_host_new(test, PVDIRTY_FEATURES_ALL);
	const struct failure_case *c = test->param_value;
	struct device *dev = &host->pdev.dev;

	/* Freed with the device. */
	dev->dma_range_map = kmemdup(ranges, sizeof(ranges), GFP_KERNEL);
	begin(c, AT_PORT);
	plug_port(host);
	begin(c, AT_DEVICE);
	pvd_cover_add(&host->pdev);
	begin(c, AT_PROBE);
	probe(host);
	KUNIT_EXPECT_EQ(test, fail_count, 0);
	fail_allocations(0, 0);

	KUNIT_EXPECT_EQ(test, le32_to_cpu(cap_of(host)->guest_features),
			c->features);
	KUNIT_EXPECT_EQ(test, registered(host), !!c->features);
	KUNIT_EXPECT_EQ(test, pvd_have_log(),
			!!(c->features & PVDIRTY_FEATURES_LOG));
	if (pvd_have_log())
		KUNIT_EXPECT_EQ(test, le32_to_cpu(pvdirty.log.ctl->incomplete),
				c->incomplete);
	expect_device(test, host, c->state, c->reason);
	unplug(host);
}

/* A window that memory may be plugged into, as PFN; 0 if there is none. */
static u64 pluggable(void)
{
	u64 i;

	for (i = 0; i < pvdirty.log.nwindows; i++) {
		const struct pvd_window *w = &pvdirty.log.windows[i];

		if (w->summary && !w->marks)
			return i << PVDIRTY_WINDOW_SHIFT;
	}
	return 0;
}

/* Memory comes: the log grows as soon as it can, and says what it missed. */
static void grows(struct kunit *test)
{
	struct test_host *host = test_host_new(test, PVDIRTY_FEATURES_ALL);
	struct pvd_log *log = &pvdirty.log;
	int marks, counts, enough;
	u64 pfn;

	plug_port(host);
	mutex_lock(&pvdirty.lock);
	pfn = pluggable();
	KUNIT_EXPECT_NE(test, pfn, 0);
	if (pfn) {
		fail_allocations(0, 1);
		marks = pvd_log_grow(pfn, pfn);
		fail_allocations(1, 1);
		counts = pvd_log_grow(pfn, pfn);
		fail_allocations(0, 0);
		KUNIT_EXPECT_EQ(test, marks, -ENOMEM);
		KUNIT_EXPECT_EQ(test, counts, -ENOMEM);
		KUNIT_EXPECT_TRUE(test, registered(host));
		KUNIT_EXPECT_FALSE(test, pvd_hold(log, pfn, pfn));
		KUNIT_EXPECT_EQ(test, le32_to_cpu(log->ctl->incomplete),
				BIT(PVDIRTY_I_OUTSIDE));

		enough = pvd_log_grow(pfn, pfn);
		KUNIT_EXPECT_EQ(test, enough, 0);
		KUNIT_EXPECT_TRUE(test, registered(host));
		KUNIT_EXPECT_TRUE(test, pvd_hold(log, pfn, pfn));
		KUNIT_EXPECT_EQ(test, pvd_log_in_flight(), 1);
		pfn = log->nwindows << PVDIRTY_WINDOW_SHIFT;
		KUNIT_EXPECT_EQ(test, pvd_log_grow(pfn, pfn), -ERANGE);
	}
	mutex_unlock(&pvdirty.lock);
	unplug(host);
}

static struct kunit_case cover_cases[] = {
	KUNIT_CASE_PARAM(registration, host_gen_params),
	KUNIT_CASE(private_memory),
	KUNIT_CASE(other_domain),
	KUNIT_CASE_PARAM(without_memory, failure_gen_params),
	KUNIT_CASE(grows),
	{}
};

static struct kunit_suite cover_suite = {
	.name = "pvdirty_cover",
	.test_cases = cover_cases,
};

kunit_test_suite(cover_suite);
