// SPDX-License-Identifier: GPL-2.0
/*
 * pvdirty: keep a pass-through PCI device in use while the virtual machine is
 * live-migrated. This is the guest's half: it records what such a device may
 * have written, where the host finds it. See shared/SPEC.md.
 *
 * This file starts and stops it and listens to the PCI bus.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/init.h>
#include <linux/module.h>

#include "pvdirty.h"

struct pvdirty pvdirty = {
	.lock = __MUTEX_INITIALIZER(pvdirty.lock),
	.ports = LIST_HEAD_INIT(pvdirty.ports),
	.devs = LIST_HEAD_INIT(pvdirty.devs),
};

static void add_port(struct pci_dev *pdev)
{
	mutex_lock(&pvdirty.lock);
	if (!pvdirty.stopping)
		pvd_port_add(pdev);
	mutex_unlock(&pvdirty.lock);
}

static void remove_port(struct pci_dev *pdev)
{
	mutex_lock(&pvdirty.lock);
	pvd_port_remove(pdev);
	mutex_unlock(&pvdirty.lock);
}

static int on_pci(struct notifier_block *nb, unsigned long action, void *data)
{
	struct device *dev = data;
	struct pci_dev *pdev = to_pci_dev(dev);

	switch (action) {
	case BUS_NOTIFY_ADD_DEVICE:
		add_port(pdev);
		pvd_cover_add(pdev);
		break;
	case BUS_NOTIFY_BIND_DRIVER:
		pvd_cover_bind(dev);
		break;
	case BUS_NOTIFY_BOUND_DRIVER:
		pvd_cover_bound(dev);
		break;
	case BUS_NOTIFY_DRIVER_NOT_BOUND:
		pvd_cover_unbound(dev, true);
		break;
	case BUS_NOTIFY_UNBOUND_DRIVER:
		pvd_cover_unbound(dev, false);
		break;
	case BUS_NOTIFY_DEL_DEVICE:
		remove_port(pdev);
		break;
	case BUS_NOTIFY_REMOVED_DEVICE:
		pvd_cover_removed(dev);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block pci_nb = {
	.notifier_call = on_pci,
};

static int scan_port(struct device *dev, void *data)
{
	add_port(to_pci_dev(dev));
	return 0;
}

static int scan_device(struct device *dev, void *data)
{
	pvd_cover_add(to_pci_dev(dev));
	return 0;
}

/*
 * What was there before the notifiers. All ports first: a device's port may
 * come after it on the bus's list. Nothing comes or goes meanwhile.
 */
static void scan(void)
{
	pci_lock_rescan_remove();
	bus_for_each_dev(&pci_bus_type, NULL, NULL, scan_port);
	bus_for_each_dev(&pci_bus_type, NULL, NULL, scan_device);
	pvd_child_scan();
	pci_unlock_rescan_remove();
}

static int __init pvdirty_init(void)
{
	int ret = pvd_life_init();

	if (ret)
		return ret;
	ret = pvd_memplug_init();
	if (ret)
		goto out_life;
	ret = pvd_child_init();
	if (ret)
		goto out_memplug;
	ret = bus_register_notifier(&pci_bus_type, &pci_nb);
	if (ret)
		goto out_child;
	pvd_stats_init();
	scan();
	if (list_empty(&pvdirty.ports))
		pr_info("no port found yet, no device is covered\n");
	return 0;

out_child:
	pvd_child_exit();
out_memplug:
	pvd_memplug_exit();
out_life:
	pvd_life_exit();
	return ret;
}

/* Runs only while no covered device has a driver or a mapping. */
static void __exit pvdirty_exit(void)
{
	mutex_lock(&pvdirty.lock);
	pvdirty.stopping = true;
	pvd_ports_unregister();
	mutex_unlock(&pvdirty.lock);
	pvd_stats_exit();
	pvd_child_exit();
	pvd_memplug_exit();

	/* The notifier still keeps drivers off the layers meanwhile. */
	pvd_cover_stop();
	bus_unregister_notifier(&pci_bus_type, &pci_nb);
	pvd_life_exit();

	pvd_ports_free();
	pvd_log_free();
}

/*
 * Built in: after drivers can be registered (param_sysfs_init() of the same
 * level comes first), before any that maps.
 */
subsys_initcall(pvdirty_init);
module_exit(pvdirty_exit);

MODULE_DESCRIPTION("Tracks what PCI devices below a pvdirty port write by DMA, for live migration (x86-64; not tracked: devices behind a virtual IOMMU, driven from user space, or bound before this module)");
MODULE_LICENSE("GPL");
