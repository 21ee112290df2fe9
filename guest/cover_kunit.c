// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit: what becomes of a port and of a device below it, with hosts that take
 * more or less, and with allocations that fail. Part of cover.c.
 *
 * Configuration space is made up, the log is a real one.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/dma-direct.h>

#include "hooks.h"

#define TEST_CAP 0x40
#define TEST_PORT PCI_DEVFN(2, 0)
#define TEST_DEVICE PCI_DEVFN(3, 1)
#define TEST_REFUSED VIRTIO_CONFIG_S_FAILED

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

/* ---- a host ---------------------------------------------------------------- */

/**
 * struct test_host - a port, and a device below it.
 * @bus: of both
 * @sysdata: its PCI domain
 * @port: the port
 * @pdev: the device
 * @driver: of the device
 * @gone: nobody holds the device any more
 * @space: configuration space of the port
 * @takes: bits of the port's status that the host takes
 */
struct test_host {
	struct pci_bus bus;
	struct pci_sysdata sysdata;
	struct pci_dev port;
	struct pci_dev pdev;
	struct pci_driver driver;
	struct completion gone;
	u8 space[PCI_CFG_SPACE_SIZE];
	u8 takes;
};

static struct pvdirty_cap *cap_of(struct test_host *host)
{
	return (struct pvdirty_cap *)&host->space[TEST_CAP];
}

static int space_read(struct pci_bus *bus, unsigned int devfn, int where,
		      int size, u32 *value)
{
	struct test_host *host = container_of(bus, struct test_host, bus);

	*value = 0;
	if (devfn == TEST_PORT)
		memcpy(value, &host->space[where], size);
	return PCIBIOS_SUCCESSFUL;
}

static int space_write(struct pci_bus *bus, unsigned int devfn, int where,
		       int size, u32 value)
{
	struct test_host *host = container_of(bus, struct test_host, bus);

	if (where == TEST_CAP + offsetof(struct pvdirty_cap, device_status))
		value &= host->takes | TEST_REFUSED;
	if (devfn == TEST_PORT)
		memcpy(&host->space[where], &value, size);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops test_ops = {
	.read = space_read,
	.write = space_write,
};

static void port_released(struct device *dev)
{
}

static void device_released(struct device *dev)
{
	complete(&container_of(dev, struct test_host, pdev.dev)->gone);
}

static void init_pci(struct test_host *host, struct pci_dev *pdev,
		     unsigned int devfn, const char *name,
		     void (*release)(struct device *dev))
{
	device_initialize(&pdev->dev);
	pdev->dev.init_name = name;
	pdev->dev.release = release;
	pdev->bus = &host->bus;
	pdev->devfn = devfn;
}

static struct test_host *test_host_new(struct kunit *test, u32 offers)
{
	struct test_host *host;
	struct pvdirty_cap *cap;

	if (!list_empty(&pvdirty.ports))
		kunit_skip(test, "this machine has ports of its own");
	host = kunit_kzalloc(test, sizeof(*host), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, host);
	init_completion(&host->gone);
	host->bus.ops = &test_ops;
	host->bus.sysdata = &host->sysdata;
	host->driver.driver.name = "test";
	host->takes = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		      VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	init_pci(host, &host->port, TEST_PORT, "port", port_released);
	init_pci(host, &host->pdev, TEST_DEVICE, "device", device_released);
	host->port.hdr_type = PCI_HEADER_TYPE_BRIDGE;
	host->pdev.dev.parent = &host->port.dev;

	host->space[PCI_STATUS] = PCI_STATUS_CAP_LIST;
	host->space[PCI_CAPABILITY_LIST] = TEST_CAP;
	cap = cap_of(host);
	cap->cap_vndr = PCI_CAP_ID_VNDR;
	cap->cap_len = PVDIRTY_CAP_LEN;
	cap->cfg_type = PVDIRTY_CAP_TYPE;
	cap->signature = cpu_to_le32(PVDIRTY_CAP_SIGNATURE);
	cap->version = cpu_to_le16(PVDIRTY_VERSION);
	cap->host_features = cpu_to_le32(offers);
	return host;
}

static void plug_port(struct test_host *host)
{
	mutex_lock(&pvdirty.lock);
	pvd_port_add(&host->port);
	mutex_unlock(&pvdirty.lock);
}

static void probe(struct test_host *host)
{
	struct device *dev = &host->pdev.dev;

	device_lock(dev);
	dev->driver = &host->driver.driver;
	pvd_cover_bind(dev);
	pvd_cover_bound(dev);
	device_unlock(dev);
}

/* All of it goes, the log too. */
static void unplug(struct test_host *host)
{
	struct device *dev = &host->pdev.dev;

	if (dev->driver) {
		device_lock(dev);
		pvd_cover_unbound(dev, false);
		dev->driver = NULL;
		device_unlock(dev);
	}
	pvd_cover_removed(dev);
	put_device(dev);
	mod_delayed_work(system_wq, &reap_work, 0);
	wait_for_completion(&host->gone);
	flush_delayed_work(&reap_work);

	mutex_lock(&pvdirty.lock);
	pvd_port_remove(&host->port);
	pvd_log_free();
	mutex_unlock(&pvdirty.lock);
	put_device(&host->port.dev);
}

static bool registered(struct test_host *host)
{
	return cap_of(host)->device_status & VIRTIO_CONFIG_S_DRIVER_OK;
}

/* Is the device, in our list and in the host's table, what it must be? */
static void expect_device(struct kunit *test, struct test_host *host, u8 state,
			  u8 reason)
{
	struct pvd_dev *pd = find(&host->pdev.dev);
	u32 word = PVDIRTY_DEV(TEST_DEVICE, state, reason);

	KUNIT_EXPECT_EQ(test, !!pd, state != PVDIRTY_DEV_FREE);
	KUNIT_EXPECT_EQ(test, static_key_enabled(&pvdirty_key), !!pd);
	if (!pd)
		return;
	KUNIT_EXPECT_EQ(test, pd->state, state);
	KUNIT_EXPECT_EQ(test, pd->reason, reason);
	/* It is hooked if the log may miss nothing, or if pages are touched. */
	if (state == PVDIRTY_DEV_TRACKED)
		KUNIT_EXPECT_PTR_EQ(test, host->pdev.dev.pvdirty, pd->layer);
	if (pvd_have_log() && pd->slot >= 0)
		KUNIT_EXPECT_EQ(test, word,
				le32_to_cpu(pvdirty.log.ctl->devices[pd->slot]));
	KUNIT_EXPECT_EQ(test, pd->slot >= 0, pvd_have_log());
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
