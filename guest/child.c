// SPDX-License-Identifier: GPL-2.0
/*
 * Devices that a covered device's driver makes, on the platform or the
 * auxiliary bus. Their drivers should map with the PCI function, and then the
 * layer sees it. What is mapped with the child itself, under a mask of its own,
 * goes past the layer.
 *
 * So a child gets a tripwire, which the DMA API comes upon first. It says that
 * the log is incomplete, before the driver gets an address, and then it is off.
 *
 * A platform device with a driver counts as doing DMA without being asked: it
 * may well make devices of other kinds, of which nobody would tell.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/auxiliary_bus.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "alloc.h"
#include "pvdirty.h"

/**
 * struct child - a device that got the tripwire.
 * @node: in children
 * @dev: the device, on its bus
 * @spoilt: the tripwire is off, and that was said
 *
 * Holds a reference of the module until the device leaves its bus, when no
 * driver can be in the tripwire any more.
 */
struct child {
	struct list_head node;
	struct device *dev;
	bool spoilt;
};

/* Under pvdirty.lock. */
static LIST_HEAD(children);

/* ---- children -------------------------------------------------------------- */

static struct child *find(const struct device *dev)
{
	struct child *child;

	list_for_each_entry(child, &children, node) {
		if (child->dev == dev)
			return child;
	}
	return NULL;
}

/* Two CPUs at once say it twice, and take it off twice. */
void pvd_child_trip(struct device *dev)
{
	pvd_incomplete(&pvdirty.log, PVDIRTY_I_CHILD);
	pvd_tripwire_take(dev);
	pvd_cover_look_later();
}

static void spoil(struct device *dev)
{
	pr_warn("%s: a device below a port may do DMA of its own, the log is incomplete from now on\n",
		dev_name(dev));
	pvd_cover_spoil(pvd_cover_above(dev));
}

/* It may also have gone for operations of the child's own. */
static void check(struct child *child)
{
	if (child->spoilt || pvd_tripwire_is_on(child->dev))
		return;
	child->spoilt = true;
	spoil(child->dev);
}

void pvd_child_look(void)
{
	struct child *child;

	list_for_each_entry(child, &children, node)
		check(child);
}

bool pvd_child_any(void)
{
	return !list_empty(&children);
}

static void arm(struct device *dev)
{
	struct child *child;

	if (find(dev))
		return;
	child = pvd_alloc(kzalloc(sizeof(*child), GFP_KERNEL));
	if (!child || !try_module_get(THIS_MODULE)) {
		kfree(child);
		spoil(dev);
		return;
	}
	child->dev = dev;
	list_add_tail(&child->node, &children);
	if (!pvd_tripwire_put(dev))
		check(child);
}

/* It has left its bus. */
static void forget(struct child *child)
{
	check(child);
	if (!child->spoilt)
		pvd_tripwire_take(child->dev);
	list_del(&child->node);
	kfree(child);
	module_put(THIS_MODULE);
}

/*
 * Is there somebody to tell, and something to tell of? Below a device whose
 * driver came before us a child says nothing new, and goes with that driver.
 */
static bool matters(struct device *dev)
{
	struct pvd_dev *pd;

	if (!pvd_have_log() || pvdirty.stopping || !pvd_port_above(dev))
		return false;
	pd = pvd_cover_above(dev);
	return !pd || pd->reason != PVDIRTY_R_EARLY_DRIVER;
}

static int on_child(struct notifier_block *nb, unsigned long action, void *data)
{
	struct device *dev = data;
	bool changed = false;
	struct child *child;

	mutex_lock(&pvdirty.lock);
	child = find(dev);
	switch (action) {
	case BUS_NOTIFY_ADD_DEVICE:
		changed = matters(dev);
		if (changed)
			arm(dev);
		break;
	case BUS_NOTIFY_BIND_DRIVER:
		if (dev->bus == &platform_bus_type && matters(dev))
			spoil(dev);
		break;
	case BUS_NOTIFY_BOUND_DRIVER:
		if (child)
			check(child);
		break;
	case BUS_NOTIFY_REMOVED_DEVICE:
		changed = child;
		if (child)
			forget(child);
		break;
	}
	mutex_unlock(&pvdirty.lock);
	/* Not for all: CPUs that come and go make platform devices too. */
	if (changed)
		pvd_hooks_update();
	return NOTIFY_DONE;
}

/* A driver that is about to probe waits for us in on_child(). */
static int scan_child(struct device *dev, void *data)
{
	bool below;

	mutex_lock(&pvdirty.lock);
	below = matters(dev);
	if (below) {
		if (READ_ONCE(dev->driver))
			spoil(dev);
		else
			arm(dev);
	}
	mutex_unlock(&pvdirty.lock);
	if (below)
		pvd_hooks_update();
	return 0;
}

/* ---- the buses ------------------------------------------------------------- */

static int no_probe(struct auxiliary_device *auxdev,
		    const struct auxiliary_device_id *id)
{
	return -ENODEV;
}

/* Matches nothing: a driver knows its bus, whose name is not exported. */
static const struct auxiliary_device_id no_ids[] = { {} };
static struct auxiliary_driver no_driver = {
	.name = "none",
	.probe = no_probe,
	.id_table = no_ids,
};

static struct notifier_block platform_nb = {
	.notifier_call = on_child,
};

static struct notifier_block auxiliary_nb = {
	.notifier_call = on_child,
};

int pvd_child_init(void)
{
	int ret = auxiliary_driver_register(&no_driver);

	if (ret)
		return ret;
	ret = bus_register_notifier(no_driver.driver.bus, &auxiliary_nb);
	if (ret)
		goto out_driver;
	ret = bus_register_notifier(&platform_bus_type, &platform_nb);
	if (ret)
		goto out_auxiliary;
	return 0;

out_auxiliary:
	bus_unregister_notifier(no_driver.driver.bus, &auxiliary_nb);
out_driver:
	auxiliary_driver_unregister(&no_driver);
	return ret;
}

void pvd_child_scan(void)
{
	bus_for_each_dev(&platform_bus_type, NULL, NULL, scan_child);
	bus_for_each_dev(no_driver.driver.bus, NULL, NULL, scan_child);
}

void pvd_child_exit(void)
{
	bus_unregister_notifier(&platform_bus_type, &platform_nb);
	bus_unregister_notifier(no_driver.driver.bus, &auxiliary_nb);
	auxiliary_driver_unregister(&no_driver);
}
