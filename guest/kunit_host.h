/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For KUnit suites: a port and a device below it, whose configuration space is
 * made up, and what the guest has to make of them. Part of cover.c.
 */
#ifndef PVDIRTY_KUNIT_HOST_H
#define PVDIRTY_KUNIT_HOST_H

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/dma-direct.h>

#include "hooks.h"

#define TEST_CAP 0x40
#define TEST_PORT PCI_DEVFN(2, 0)
#define TEST_DEVICE PCI_DEVFN(3, 1)
#define TEST_REFUSED VIRTIO_CONFIG_S_FAILED

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

#endif /* PVDIRTY_KUNIT_HOST_H */
