// SPDX-License-Identifier: GPL-2.0
/*
 * Covered devices: which there are, and whether each is tracked, from when it
 * comes until it is gone. devtable.c tells the host.
 *
 * A driver that goes takes nothing from the tracking: what it mapped is counted
 * until it is given back, and a device that is no bus master writes nothing
 * else. So a device that is then unplugged was tracked to its end, and leaves
 * no gap. If it stays, it counts as untracked soon, whoever may use it next.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "alloc.h"
#include "pvdirty.h"

/* How often devices that wait for their last unmap are looked at. */
#define REAP_INTERVAL HZ

/* Between a driver's end and the device's removal, when it is unplugged. */
#define REMOVAL_GRACE (2 * HZ)

static void reap(struct work_struct *work);
static DECLARE_DELAYED_WORK(reap_work, reap);

static void look(struct work_struct *work);
static DECLARE_WORK(look_work, look);

static struct pvd_dev *find(const struct device *dev)
{
	struct pvd_dev *pd;

	list_for_each_entry(pd, &pvdirty.devs, node) {
		if (pd->dev == dev && !pd->gone)
			return pd;
	}
	return NULL;
}

struct pvd_dev *pvd_cover_above(struct device *dev)
{
	struct pvd_dev *pd = NULL;

	for (dev = dev->parent; dev && !pd; dev = dev->parent)
		pd = find(dev);
	return pd;
}

void pvd_cover_spoil(struct pvd_dev *pd)
{
	pvd_incomplete(&pvdirty.log, PVDIRTY_I_CHILD);
	if (pd && pd->layer) {
		pvd_attach_spoil(pd->layer, PVDIRTY_R_CHILD);
		pvd_cover_look_later();
	}
	pvd_ports_notify();
}

void pvd_cover_look_later(void)
{
	schedule_work(&look_work);
}

/* Name the devices that the log has lost sight of: it says so already. */
static void look(struct work_struct *work)
{
	struct pvd_dev *pd;
	u8 reason;

	mutex_lock(&pvdirty.lock);
	pvd_child_look();
	list_for_each_entry(pd, &pvdirty.devs, node) {
		if (pd->gone || pd->state != PVDIRTY_DEV_TRACKED)
			continue;
		reason = pvd_attach_spoilt(pd->layer);
		if (reason)
			pvd_devtable_set(pd, PVDIRTY_DEV_UNTRACKED, reason);
	}
	mutex_unlock(&pvdirty.lock);
}

/* ---- life of a device ------------------------------------------------------ */

/*
 * Our code must stay while a driver may call it, and then until everything it
 * mapped was given back: drivers free coherent memory long after removal.
 */
static bool pin(struct pvd_dev *pd)
{
	if (!pd->pinned)
		pd->pinned = try_module_get(THIS_MODULE);
	return pd->pinned;
}

static void unpin(struct pvd_dev *pd)
{
	if (pd->pinned)
		module_put(THIS_MODULE);
	pd->pinned = false;
}

static void drop(struct pvd_dev *pd)
{
	if (pd->layer) {
		pvd_attach_remove(pd->layer);
		pvd_attach_free(pd->layer);
	}
	unpin(pd);
	put_device(pd->dev);
	list_del(&pd->node);
	kfree(pd);
}

static void reap_later(void)
{
	if (!pvdirty.stopping)
		schedule_delayed_work(&reap_work, REAP_INTERVAL);
}

/* No driver has it, and it was not unplugged either: what may it do next? */
static bool was_left(const struct pvd_dev *pd)
{
	return !pd->bound && pd->state == PVDIRTY_DEV_TRACKED;
}

static void reap(struct work_struct *work)
{
	struct pvd_dev *pd, *next;
	bool again = false;

	mutex_lock(&pvdirty.lock);
	list_for_each_entry_safe(pd, next, &pvdirty.devs, node) {
		if (pd->bound || !pd->layer)
			continue;
		if (was_left(pd)) {
			if (time_after_eq(jiffies, pd->left + REMOVAL_GRACE))
				pvd_devtable_set(pd, PVDIRTY_DEV_UNTRACKED,
						 PVDIRTY_R_NO_DRIVER);
			else
				again = true;
		}
		if (pvd_attach_outstanding(pd->layer)) {
			again = true;
			continue;
		}
		unpin(pd);
		if (!pd->gone)
			continue;
		/* Whoever else holds the device could still map with it. */
		if (kref_read(&pd->dev->kobj.kref) == 1)
			drop(pd);
		else
			again = true;
	}
	if (again)
		reap_later();
	mutex_unlock(&pvdirty.lock);
	pvd_hooks_update();
}

/* Features that the device's port has negotiated. */
static u32 features_of(const struct pvd_dev *pd)
{
	return pd->port ? pd->port->features : 0;
}

static void cover(struct device *dev, struct pvd_port *port)
{
	struct pvd_dev *pd = pvd_alloc(kzalloc(sizeof(*pd), GFP_KERNEL));

	if (!pd) {
		if (pvd_have_log())
			pvd_incomplete(&pvdirty.log, PVDIRTY_I_NO_MEMORY);
		pr_warn("%s: NOT tracked: %s\n", dev_name(dev),
			pvd_reason_text(PVDIRTY_R_NO_MEMORY));
		return;
	}
	pd->dev = get_device(dev);
	pd->port = port;
	pd->slot = -1;
	list_add_tail(&pd->node, &pvdirty.devs);
	if (dev->driver) {
		pd->bound = true;
		pvd_devtable_set(pd, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_EARLY_DRIVER);
		return;
	}
	if (features_of(pd))
		pd->layer = pvd_attach_new(dev);
	pvd_devtable_set(pd, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_DRIVER);
}

void pvd_cover_add(struct pci_dev *pdev)
{
	struct device *dev = &pdev->dev;
	struct pvd_port *port;

	if (pci_is_bridge(pdev))
		return;
	device_lock(dev);
	mutex_lock(&pvdirty.lock);
	port = pvd_port_above(dev);
	if (port && !pvdirty.stopping && !find(dev))
		cover(dev, port);
	mutex_unlock(&pvdirty.lock);
	/* No driver can probe it before this. */
	if (port)
		pvd_hooks_update();
	device_unlock(dev);
}

static u8 bind(struct pvd_dev *pd)
{
	u8 reason;

	if (!features_of(pd))
		return PVDIRTY_R_NO_LOG;
	/* A driver that came before us was there when the device came. */
	if (!pd->layer)
		pd->layer = pvd_attach_new(pd->dev);
	if (!pd->layer)
		return PVDIRTY_R_NO_MEMORY;
	reason = pvd_attach_bind(pd->layer, features_of(pd));
	if (pvd_drives_user_dma(pd->dev))
		return PVDIRTY_R_USER_DMA;
	if (!reason && pvd_open_until_probed(pd->dev))
		return PVDIRTY_R_NO_DRIVER;
	return reason;
}

void pvd_cover_bind(struct device *dev)
{
	struct pvd_dev *pd;
	u8 reason;

	mutex_lock(&pvdirty.lock);
	pd = find(dev);
	if (pd && pin(pd)) {
		pd->bound = true;
		reason = bind(pd);
		pvd_devtable_set(pd, reason ? PVDIRTY_DEV_UNTRACKED :
					      PVDIRTY_DEV_TRACKED, reason);
		if (!pd->layer)
			unpin(pd);
	} else if (pd && pd->layer) {
		/* The module is going; the device must not reach our code. */
		pvd_attach_remove(pd->layer);
	}
	mutex_unlock(&pvdirty.lock);
}

void pvd_cover_bound(struct device *dev)
{
	struct pvd_dev *pd;
	bool probed;
	u8 reason;

	mutex_lock(&pvdirty.lock);
	pvd_child_look();
	pd = find(dev);
	probed = pd && pd->bound && pd->layer &&
		 pd->reason == PVDIRTY_R_NO_DRIVER;
	if (probed || (pd && pd->state == PVDIRTY_DEV_TRACKED)) {
		reason = pvd_attach_check(pd->layer) ?:
			 pvd_probed_obstacle(dev);
		pvd_devtable_set(pd, reason ? PVDIRTY_DEV_UNTRACKED :
					      PVDIRTY_DEV_TRACKED, reason);
	}
	mutex_unlock(&pvdirty.lock);
}

void pvd_cover_unbound(struct device *dev, bool failed)
{
	struct pvd_dev *pd;

	mutex_lock(&pvdirty.lock);
	pd = find(dev);
	if (pd) {
		pd->bound = false;
		pd->left = jiffies;
		if (failed || pd->state != PVDIRTY_DEV_TRACKED ||
		    pvd_is_bus_master(to_pci_dev(dev)))
			pvd_devtable_set(pd, PVDIRTY_DEV_UNTRACKED,
					 PVDIRTY_R_NO_DRIVER);
		if (pd->layer)
			reap_later();
	}
	mutex_unlock(&pvdirty.lock);
}

void pvd_cover_removed(struct device *dev)
{
	struct pvd_dev *pd;

	mutex_lock(&pvdirty.lock);
	pd = find(dev);
	if (pd) {
		pvd_devtable_set(pd, PVDIRTY_DEV_FREE, PVDIRTY_R_NONE);
		pd->gone = true;
		pd->bound = false;
		if (pd->layer)
			reap_later();
		else
			drop(pd);
	}
	mutex_unlock(&pvdirty.lock);
	pvd_hooks_update();
}

/* A covered device that is still on the list, referenced. */
static struct device *any_device(void)
{
	struct device *dev = NULL;
	struct pvd_dev *pd;

	mutex_lock(&pvdirty.lock);
	pd = list_first_entry_or_null(&pvdirty.devs, struct pvd_dev, node);
	if (pd)
		dev = get_device(pd->dev);
	mutex_unlock(&pvdirty.lock);
	return dev;
}

/* Take the layer off, and the device off the list. */
static void let_go(struct device *dev, struct list_head *freed)
{
	struct pvd_dev *pd, *next;

	device_lock(dev);
	mutex_lock(&pvdirty.lock);
	list_for_each_entry_safe(pd, next, &pvdirty.devs, node) {
		if (pd->dev != dev)
			continue;
		if (pd->layer)
			pvd_attach_remove(pd->layer);
		list_move(&pd->node, freed);
	}
	mutex_unlock(&pvdirty.lock);
	device_unlock(dev);
}

void pvd_cover_stop(void)
{
	struct pvd_dev *pd, *next;
	struct device *dev;
	LIST_HEAD(freed);

	cancel_delayed_work_sync(&reap_work);
	while ((dev = any_device())) {
		let_go(dev, &freed);
		put_device(dev);
	}
	/* None of them is there to ask for it any more. */
	cancel_work_sync(&look_work);
	/*
	 * The last unmap may have been counted by an interrupt handler, or by a
	 * task that was preempted, before it left our code.
	 */
	synchronize_rcu();
	synchronize_rcu_tasks();
	list_for_each_entry_safe(pd, next, &freed, node)
		drop(pd);
}

#ifdef CONFIG_PVDIRTY_KUNIT_TEST
#include "cover_kunit.c"
#endif
