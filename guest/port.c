// SPDX-License-Identifier: GPL-2.0
/*
 * Ports: emulated bridges with our vendor capability, and the handshake that
 * registers the log through them. portdrv owns root ports, so this is no PCI
 * driver: the bus notifier tells of each device that comes and goes.
 *
 * Each port does its own handshake; all of them register the same log. The
 * order of states and registers is that of virtio, see shared/SPEC.md.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/slab.h>

#include "alloc.h"
#include "pvdirty.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define CAP(member) offsetof(struct pvdirty_cap, member)

static const char *const error_text[] = {
	[PVDIRTY_OK] = "no reason given",
	[PVDIRTY_E_STATE] = "register not writable in this state",
	[PVDIRTY_E_FEATURES] = "features not accepted",
	[PVDIRTY_E_LOG_ADDR] = "log not in writable RAM",
	[PVDIRTY_E_LOG_SIZE] = "log size does not fit",
	[PVDIRTY_E_LOG_HEADER] = "log header not understood",
	[PVDIRTY_E_SECTION_COUNT] = "number of sections",
	[PVDIRTY_E_SECTION_RANGE] = "range of a section",
	[PVDIRTY_E_SECTION_ADDR] = "section's memory not in writable RAM",
	[PVDIRTY_E_LOG_BUSY] = "another log is registered",
	[PVDIRTY_E_LOG_GONE] = "memory of the log is gone",
};

static u8 read8(const struct pvd_port *port, int offset)
{
	u8 value = 0;

	pci_read_config_byte(port->pdev, port->cap + offset, &value);
	return value;
}

static u16 read16(const struct pvd_port *port, int offset)
{
	u16 value = 0;

	pci_read_config_word(port->pdev, port->cap + offset, &value);
	return value;
}

static u32 read32(const struct pvd_port *port, int offset)
{
	u32 value = 0;

	pci_read_config_dword(port->pdev, port->cap + offset, &value);
	return value;
}

static void write32(const struct pvd_port *port, int offset, u32 value)
{
	pci_write_config_dword(port->pdev, port->cap + offset, value);
}

/* Set the status; true if the host took it. */
static bool write_status(const struct pvd_port *port, u8 status)
{
	pci_write_config_byte(port->pdev, port->cap + CAP(device_status),
			      status);
	return read8(port, CAP(device_status)) == status;
}

/* Offset of our capability, 0 if there is none: it is not the only one. */
static int find_cap(struct pci_dev *pdev)
{
	int pos = pci_find_capability(pdev, PCI_CAP_ID_VNDR);

	while (pos) {
		u32 signature = 0;
		u8 len = 0, type = 0;

		pci_read_config_byte(pdev, pos + CAP(cap_len), &len);
		pci_read_config_byte(pdev, pos + CAP(cfg_type), &type);
		if (len >= PVDIRTY_CAP_LEN && type == PVDIRTY_CAP_TYPE) {
			pci_read_config_dword(pdev, pos + CAP(signature),
					      &signature);
			if (signature == PVDIRTY_CAP_SIGNATURE)
				return pos;
		}
		pos = pci_find_next_capability(pdev, pos, PCI_CAP_ID_VNDR);
	}
	return 0;
}

static u32 wanted_features(const struct pvd_port *port)
{
	u32 features = read32(port, CAP(host_features)) & PVDIRTY_FEATURES_ALL;

	/* Touching is for hosts that take no marks; counts need marks. */
	if (features & BIT(PVDIRTY_F_BITMAP))
		return features & PVDIRTY_FEATURES_LOG;
	return features & BIT(PVDIRTY_F_TOUCH);
}

static bool handshake(struct pvd_port *port, u32 features)
{
	u8 status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	if (!write_status(port, 0) || !write_status(port, status))
		return false;
	status |= VIRTIO_CONFIG_S_DRIVER;
	if (!write_status(port, status))
		return false;
	write32(port, CAP(guest_features), features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	if (!write_status(port, status))
		return false;
	if (features & PVDIRTY_FEATURES_LOG) {
		phys_addr_t phys = pvd_log_phys();

		write32(port, CAP(log_addr_lo), lower_32_bits(phys));
		write32(port, CAP(log_addr_hi), upper_32_bits(phys));
		write32(port, CAP(log_pages), pvdirty.log_pages);
	}
	wmb(); /* the log's header and table before DRIVER_OK */
	status |= VIRTIO_CONFIG_S_DRIVER_OK;
	return write_status(port, status);
}

static void register_port(struct pvd_port *port)
{
	u32 features = wanted_features(port);
	const char *name = pci_name(port->pdev);
	u16 error;

	if (port->registered)
		return;
	if (!features) {
		pr_warn("%s: the host offers no feature that this guest knows, devices below are not tracked\n",
			name);
		return;
	}
	if ((features & PVDIRTY_FEATURES_LOG) && pvd_log_alloc()) {
		/* Said why. Touching still helps a host that takes it. */
		features = read32(port, CAP(host_features)) &
			   BIT(PVDIRTY_F_TOUCH);
		if (!features)
			return;
	}
	port->registered = handshake(port, features);
	error = read16(port, CAP(error));
	trace_pvdirty_port(name, port->registered, features, error);
	if (!port->registered) {
		pr_warn("%s: the host refused to register: %s (error %u)\n",
			name,
			error < ARRAY_SIZE(error_text) ? error_text[error] :
							 "unknown error",
			error);
		write_status(port, VIRTIO_CONFIG_S_FAILED);
		/* Counting goes on, for a later registration. */
	}
	port->features = features;
	if (port->registered)
		pr_info("%s: port registered:%s%s%s\n", name,
			features & BIT(PVDIRTY_F_BITMAP) ? " bitmap" : "",
			features & BIT(PVDIRTY_F_INFLIGHT) ? " inflight" : "",
			features & BIT(PVDIRTY_F_TOUCH) ? " touch" : "");
}

static void unregister_port(struct pvd_port *port)
{
	if (!port->registered)
		return;
	port->registered = false;
	write_status(port, 0);
	trace_pvdirty_port(pci_name(port->pdev), false, 0, 0);
	pr_info("%s: port unregistered\n", pci_name(port->pdev));
}

void pvd_port_add(struct pci_dev *pdev)
{
	bool had_log = pvd_have_log();
	struct pvd_port *port;
	u32 domain;
	u16 version;
	int cap;

	if (!pci_is_bridge(pdev))
		return;
	cap = find_cap(pdev);
	if (!cap)
		return;
	list_for_each_entry(port, &pvdirty.ports, node) {
		if (port->pdev == pdev)
			return;
	}

	port = pvd_alloc(kzalloc(sizeof(*port), GFP_KERNEL));
	if (!port)
		goto no_memory;
	port->pdev = pdev;
	port->cap = cap;
	version = read16(port, CAP(version));
	if (version != PVDIRTY_VERSION) {
		pr_warn("%s: host speaks version %u, this guest %u: devices below are not tracked\n",
			pci_name(pdev), version, PVDIRTY_VERSION);
		goto out_free;
	}
	domain = read32(port, CAP(domain));
	if (!list_empty(&pvdirty.ports) && domain != pvdirty.domain) {
		pr_warn("%s: port of domain %u, but the log is of domain %u: devices below are not tracked\n",
			pci_name(pdev), domain, pvdirty.domain);
		goto out_free;
	}
	pvdirty.domain = domain;
	list_add_tail(&port->node, &pvdirty.ports);
	register_port(port);
	if (!had_log && pvd_have_log())
		pvd_devtable_fill();
	return;

no_memory:
	pr_warn("%s: no memory, devices below this port are not tracked\n",
		pci_name(pdev));
	return;

out_free:
	kfree(port);
}

void pvd_port_remove(struct pci_dev *pdev)
{
	struct pvd_port *port, *next;
	struct pvd_dev *pd;

	list_for_each_entry_safe(port, next, &pvdirty.ports, node) {
		if (port->pdev != pdev)
			continue;
		unregister_port(port);
		list_for_each_entry(pd, &pvdirty.devs, node) {
			if (pd->port == port)
				pd->port = NULL;
		}
		list_del(&port->node);
		kfree(port);
	}
}

struct pvd_port *pvd_port_above(struct device *dev)
{
	struct pvd_port *port;

	if (list_empty(&pvdirty.ports))
		return NULL;
	for (dev = dev->parent; dev; dev = dev->parent) {
		list_for_each_entry(port, &pvdirty.ports, node) {
			if (dev == &port->pdev->dev)
				return port;
		}
	}
	return NULL;
}

void pvd_ports_notify(void)
{
	struct pvd_port *port;

	list_for_each_entry(port, &pvdirty.ports, node) {
		if (port->registered) {
			write32(port, CAP(notify), 1);
			return;
		}
	}
}

void pvd_ports_register(void)
{
	struct pvd_port *port;

	list_for_each_entry(port, &pvdirty.ports, node)
		register_port(port);
}

bool pvd_ports_unregister(void)
{
	struct pvd_port *port;
	bool any = false;

	list_for_each_entry(port, &pvdirty.ports, node) {
		any |= port->registered;
		unregister_port(port);
	}
	return any;
}

void pvd_ports_free(void)
{
	struct pvd_port *port, *next;

	list_for_each_entry_safe(port, next, &pvdirty.ports, node) {
		list_del(&port->node);
		kfree(port);
	}
}
