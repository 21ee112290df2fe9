// SPDX-License-Identifier: GPL-2.0
/*
 * Covered devices: which there are, whether each is tracked, and why not. The
 * host reads it in the log's device table and trusts no silence, so a device
 * is said to be tracked only after all was checked, and not to be tracked, with
 * a gap raised, before it ceases to be.
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
#include <linux/string.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "pvdirty.h"
#include "trace.h"

/* How often devices that wait for their last unmap are looked at. */
#define REAP_INTERVAL HZ

/* Between a driver's end and the device's removal, when it is unplugged. */
#define REMOVAL_GRACE (2 * HZ)

static void reap(struct work_struct *work);
static DECLARE_DELAYED_WORK(reap_work, reap);

static void look(struct work_struct *work);
static DECLARE_WORK(look_work, look);

static const char *const reason_text[] = {
	[PVDIRTY_R_NONE] = "no reason",
	[PVDIRTY_R_NO_DRIVER] = "no driver",
	[PVDIRTY_R_EARLY_DRIVER] = "its driver was bound before pvdirty came, bind it anew",
	[PVDIRTY_R_IOMMU] = "a virtual IOMMU translates its DMA",
	[PVDIRTY_R_USER_DMA] = "driven from user space",
	[PVDIRTY_R_COHERENT_MEM] = "has coherent memory of its own",
	[PVDIRTY_R_OTHER_OPS] = "has other DMA operations",
	[PVDIRTY_R_NO_MEMORY] = "no memory for the layer",
	[PVDIRTY_R_NO_LOG] = "its port takes no complete log",
	[PVDIRTY_R_NO_DMA_API] = "virtio without iommu_platform, its driver bypasses the DMA API",
	[PVDIRTY_R_CHILD] = "a child device of it does DMA of its own",
	[PVDIRTY_R_OUTSIDE] = "it mapped memory that the log does not describe",
};

const char *pvd_reason_text(u8 reason)
{
	return reason < ARRAY_SIZE(reason_text) ? reason_text[reason] : "?";
}

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

/* ---- what the host is told ------------------------------------------------- */

/*
 * Below a function that makes a PCI domain of its own (VMD) the routing id
 * means nothing to the host, which knows the function only.
 */
static bool in_hosts_domain(const struct pvd_dev *pd)
{
	return !pd->port || pci_domain_nr(to_pci_dev(pd->dev)->bus) ==
				    pci_domain_nr(pd->port->pdev->bus);
}

static int find_slot(void)
{
	int i;

	for (i = 0; i < PVDIRTY_MAX_DEVICES; i++) {
		if (!pvdirty.log.ctl->devices[i])
			return i;
	}
	return -1;
}

/* Can it write by itself? A device that does not answer is gone. */
static bool is_bus_master(struct pci_dev *pdev)
{
	u16 command;

	return !pci_read_config_word(pdev, PCI_COMMAND, &command) &&
	       !PCI_POSSIBLE_ERROR(command) && (command & PCI_COMMAND_MASTER);
}

/* Write the device's word. */
static void publish(struct pvd_dev *pd)
{
	u32 word = 0;

	if (!pvd_have_log())
		return;
	if (!in_hosts_domain(pd)) {
		if (pd->state == PVDIRTY_DEV_UNTRACKED &&
		    (pd->reason != PVDIRTY_R_NO_DRIVER ||
		     is_bus_master(to_pci_dev(pd->dev))))
			pvd_cover_spoil(pvd_cover_above(pd->dev));
		return;
	}
	if (pd->state != PVDIRTY_DEV_FREE) {
		word = PVDIRTY_DEV(pci_dev_id(to_pci_dev(pd->dev)), pd->state,
				   pd->reason);
		if (pd->slot < 0)
			pd->slot = find_slot();
		if (pd->slot < 0) {
			pr_warn("%s: more than %u devices, the log is incomplete from now on\n",
				dev_name(pd->dev), PVDIRTY_MAX_DEVICES);
			pvd_incomplete(&pvdirty.log, PVDIRTY_I_DEVICES);
			return;
		}
	}
	if (pd->slot < 0)
		return;
	WRITE_ONCE(pvdirty.log.ctl->devices[pd->slot], cpu_to_le32(word));
	if (!word)
		pd->slot = -1;
}

static void say(const struct pvd_dev *pd)
{
	const char *name = dev_name(pd->dev);

	if (pd->state == PVDIRTY_DEV_TRACKED)
		pr_info("%s: tracked, driver %s\n", name,
			pd->dev->driver->name);
	else if (pd->state == PVDIRTY_DEV_FREE)
		pr_info("%s: removed\n", name);
	else if (pd->reason == PVDIRTY_R_NO_DRIVER)
		pr_info("%s: covered, not tracked while it has no driver\n",
			name);
	else
		pr_warn("%s: NOT tracked: %s\n", name,
			pvd_reason_text(pd->reason));
}

static void set_state(struct pvd_dev *pd, u8 state, u8 reason)
{
	/* A device that comes anew may be one that was tracked and removed. */
	bool gap = state == PVDIRTY_DEV_UNTRACKED &&
		   pd->state != PVDIRTY_DEV_UNTRACKED;

	if (pd->state == state && pd->reason == reason)
		return;
	pd->state = state;
	pd->reason = reason;
	publish(pd);
	/*
	 * After the word, with a full barrier: the host reads gaps first, so it
	 * misses neither. Before anything else changes.
	 */
	if (gap && pvd_have_log())
		pvd_gap(&pvdirty.log);
	pvd_ports_notify();
	trace_pvdirty_device(dev_name(pd->dev), state, reason);
	say(pd);
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
			set_state(pd, PVDIRTY_DEV_UNTRACKED, reason);
	}
	mutex_unlock(&pvdirty.lock);
}

void pvd_cover_log_ready(void)
{
	struct pvd_dev *pd;

	list_for_each_entry(pd, &pvdirty.devs, node) {
		if (!pd->gone)
			publish(pd);
	}
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
				set_state(pd, PVDIRTY_DEV_UNTRACKED,
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
}

/* Features that the device's port has negotiated. */
static u32 features_of(const struct pvd_dev *pd)
{
	return pd->port ? pd->port->features : 0;
}

static void cover(struct device *dev, struct pvd_port *port)
{
	struct pvd_dev *pd = kzalloc(sizeof(*pd), GFP_KERNEL);

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
		set_state(pd, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_EARLY_DRIVER);
		return;
	}
	if (features_of(pd))
		pd->layer = pvd_attach_new(dev);
	set_state(pd, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_DRIVER);
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
	device_unlock(dev);
}

/*
 * Drivers that hand the device to user space, which maps without us. Those of
 * uio that are not named here show once they have made their uio device.
 */
static bool drives_user_dma(struct device *dev)
{
	static const char *const names[] = {
		"uio_pci_generic", "igb_uio", "vp-vdpa", "ifcvf", "usnic_verbs",
	};

	return to_pci_driver(dev->driver)->driver_managed_dma ||
	       match_string(names, ARRAY_SIZE(names), dev->driver->name) >= 0;
}

static int is_uio(struct device *child, void *data)
{
	return child->class && !strcmp(child->class->name, "uio");
}

/*
 * Without VIRTIO_F_ACCESS_PLATFORM virtio's drivers give the device physical
 * addresses, and nobody maps anything. What the device offers of it is taken.
 */
static bool is_virtio(struct device *dev)
{
	return !strcmp(dev->driver->name, "virtio-pci");
}

static int has_platform_access(struct device *child, void *data)
{
	struct virtio_device *vdev;

	if (!child->bus || strcmp(child->bus->name, "virtio"))
		return 0;
	vdev = dev_to_virtio(child);
	return !!(vdev->config->get_features(vdev) &
		  BIT_ULL(VIRTIO_F_ACCESS_PLATFORM));
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
	if (drives_user_dma(pd->dev))
		return PVDIRTY_R_USER_DMA;
	/*
	 * What a virtio device offers shows once it has been probed. A device
	 * that is bus master already, left so by firmware or by a kernel that
	 * crashed, may write where nobody mapped anything until its driver has
	 * reset it.
	 */
	if (!reason &&
	    (is_virtio(pd->dev) || is_bus_master(to_pci_dev(pd->dev))))
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
		set_state(pd, reason ? PVDIRTY_DEV_UNTRACKED :
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
		reason = pvd_attach_check(pd->layer);
		if (!reason && probed && is_virtio(dev) &&
		    !device_for_each_child(dev, NULL, has_platform_access))
			reason = PVDIRTY_R_NO_DMA_API;
		if (!reason && device_for_each_child(dev, NULL, is_uio))
			reason = PVDIRTY_R_USER_DMA;
		set_state(pd, reason ? PVDIRTY_DEV_UNTRACKED :
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
		    is_bus_master(to_pci_dev(dev)))
			set_state(pd, PVDIRTY_DEV_UNTRACKED,
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
		set_state(pd, PVDIRTY_DEV_FREE, PVDIRTY_R_NONE);
		pd->gone = true;
		pd->bound = false;
		if (pd->layer)
			reap_later();
		else
			drop(pd);
	}
	mutex_unlock(&pvdirty.lock);
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
