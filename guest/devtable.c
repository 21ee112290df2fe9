// SPDX-License-Identifier: GPL-2.0
/*
 * What the host is told of the covered devices: the log's device table. It
 * trusts no silence, so a device is said to be tracked only after all was
 * checked, and not to be tracked, with a gap raised, before it ceases to be.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>

#include "pvdirty.h"
#include "trace.h"

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

/* Write the device's word. */
static void publish(struct pvd_dev *pd)
{
	u32 word = 0;

	if (!pvd_have_log())
		return;
	if (!in_hosts_domain(pd)) {
		if (pd->state == PVDIRTY_DEV_UNTRACKED &&
		    (pd->reason != PVDIRTY_R_NO_DRIVER ||
		     pvd_is_bus_master(to_pci_dev(pd->dev))))
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

void pvd_devtable_set(struct pvd_dev *pd, u8 state, u8 reason)
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

void pvd_devtable_fill(void)
{
	struct pvd_dev *pd;

	list_for_each_entry(pd, &pvdirty.devs, node) {
		if (!pd->gone)
			publish(pd);
	}
}
