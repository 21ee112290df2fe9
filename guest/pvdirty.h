/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of the guest share. Data travels: driver -> ops.c, or hooks.c
 * if we are built in -> core marks the log, which lies in guest RAM (logmem.c)
 * and was announced to the host through a port (port.c). cover.c knows which
 * devices are below a port and whether each is tracked, and devtable.c says so
 * in the log's device table.
 *
 * Nothing here is on a hot path, except the functions of core/.
 */
#ifndef PVDIRTY_H
#define PVDIRTY_H

#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/printk.h>
#include <linux/types.h>

#include "core/log.h"

/**
 * struct pvd_port - an emulated bridge with our capability.
 * @node: in pvdirty.ports
 * @pdev: the bridge; it outlives this structure (see pvd_port_remove())
 * @cap: offset of the capability in its config space
 * @features: taken, 1 << PVDIRTY_F_*; 0 until the host has accepted them
 * @registered: the host has accepted the handshake up to DRIVER_OK
 */
struct pvd_port {
	struct list_head node;
	struct pci_dev *pdev;
	int cap;
	u32 features;
	bool registered;
};

struct pvd_layer;

/**
 * struct pvd_dev - a covered device: a PCI function below a port, no bridge.
 * @node: in pvdirty.devs
 * @dev: the device, referenced
 * @port: the port above it, NULL once that is gone
 * @layer: what tracks its DMA, or NULL
 * @slot: its word in pvdirty_log.devices, or -1
 * @state: enum pvdirty_dev_state, as the host sees it
 * @reason: enum pvdirty_dev_reason
 * @bound: between BUS_NOTIFY_BIND_DRIVER and its end
 * @left: when the last driver went, in jiffies
 * @pinned: it holds a reference of the module
 * @gone: it has left the bus; kept for its outstanding mappings
 */
struct pvd_dev {
	struct list_head node;
	struct device *dev;
	struct pvd_port *port;
	struct pvd_layer *layer;
	int slot;
	u8 state;
	u8 reason;
	unsigned long left;
	bool bound;
	bool pinned;
	bool gone;
};

/**
 * struct pvdirty - all there is, once.
 * @lock: protects everything below and the registration. Hot paths never
 *	take it.
 * @ports: struct pvd_port
 * @devs: struct pvd_dev
 * @log: valid when log.ctl is set; then it stays until the module goes
 * @log_pages: size of the registered area, in pages of 4 KiB
 * @domain: domain id of the ports, valid while there is one
 * @stopping: the module is on its way out, nothing new is covered
 */
struct pvdirty {
	struct mutex lock; /* outermost but for device_lock() and hot-plug's */
	struct list_head ports;
	struct list_head devs;
	struct pvd_log log;
	u32 log_pages;
	u32 domain;
	bool stopping;
};

extern struct pvdirty pvdirty;

static inline bool pvd_have_log(void)
{
	return pvdirty.log.ctl;
}

/* ---- logmem.c: the log's memory ------------------------------------------ */

/**
 * pvd_log_alloc() - allocate the log for all RAM there is.
 *
 * Context: pvdirty.lock held, may sleep.
 * Return: 0, also if there is one already, or -errno after a message.
 */
int pvd_log_alloc(void);

/**
 * pvd_log_grow() - have the log describe memory that is about to be used.
 * @first: its first PFN
 * @last: its last PFN
 *
 * Registers anew through all ports if the log did not describe it yet.
 * Context: pvdirty.lock held, may sleep. Nothing maps these pages yet.
 * Return: 0, -ERANGE if nobody announced that memory may come there, -ENOMEM.
 */
int pvd_log_grow(u64 first, u64 last);

/* Free the log; nobody may use it any more. */
void pvd_log_free(void);

/* Physical address of the area to register. */
phys_addr_t pvd_log_phys(void);

/* Pages whose counter is not 0, by reading all counters. May sleep. */
u64 pvd_log_in_flight(void);

/* ---- port.c: ports and registration --------------------------------------- */

/**
 * pvd_port_add() - take a PCI device as a port if it is one.
 * @pdev: any PCI device that has come to the bus
 *
 * Allocates the log with the first port, and registers.
 * Context: pvdirty.lock held, may sleep.
 */
void pvd_port_add(struct pci_dev *pdev);

/* The bridge is about to go: unregister and forget it. Lock held. */
void pvd_port_remove(struct pci_dev *pdev);

/**
 * pvd_port_above() - the port that a device is below, at any depth.
 * @dev: a device on any bus
 *
 * Follows dev->parent, not the PCI bus: a PCI function can be the root of
 * another PCI domain (VMD).
 * Context: pvdirty.lock held.
 * Return: the port or NULL.
 */
struct pvd_port *pvd_port_above(struct device *dev);

/* Ask the host to look at the device table. Lock held, may sleep. */
void pvd_ports_notify(void);

/*
 * Register or unregister through all ports; was any registered? Lock held, may
 * sleep.
 */
void pvd_ports_register(void);
bool pvd_ports_unregister(void);

/* Free all ports, which must be unregistered. Lock held. */
void pvd_ports_free(void);

/* ---- cover.c: covered devices --------------------------------------------- */

/**
 * pvd_cover_add() - a PCI device has come; cover it if it is below a port.
 * @pdev: the device
 *
 * Context: takes the device lock and pvdirty.lock.
 */
void pvd_cover_add(struct pci_dev *pdev);

/*
 * A driver is about to probe (after dma_configure()), has bound, has gone (or
 * has failed to bind). The device lock is held; these take pvdirty.lock.
 */
void pvd_cover_bind(struct device *dev);
void pvd_cover_bound(struct device *dev);
void pvd_cover_unbound(struct device *dev, bool failed);

/* The device has left the bus. Takes pvdirty.lock. */
void pvd_cover_removed(struct device *dev);

/* The covered device that a device is below, or NULL. Lock held. */
struct pvd_dev *pvd_cover_above(struct device *dev);

/**
 * pvd_cover_spoil() - what a device does below a covered one is not seen.
 * @pd: the covered device, or NULL if there is none
 *
 * The log is marked incomplete, and the covered device named. Lock held.
 */
void pvd_cover_spoil(struct pvd_dev *pd);

/* Name soon the devices that the log has lost sight of. Any context. */
void pvd_cover_look_later(void);

/* Let go of all devices; pvdirty.stopping is set. Takes all locks. */
void pvd_cover_stop(void);

/* ---- devtable.c: what the host is told of them ----------------------------- */

/**
 * pvd_devtable_set() - tell the host what a covered device is now.
 * @pd: the device
 * @state: enum pvdirty_dev_state
 * @reason: enum pvdirty_dev_reason
 *
 * Raises a gap before it returns, if the device ceases to be tracked.
 * Context: pvdirty.lock held, may sleep.
 */
void pvd_devtable_set(struct pvd_dev *pd, u8 state, u8 reason);

/* There is a log now: enter the devices that came before it. Lock held. */
void pvd_devtable_fill(void);

/* Short text of enum pvdirty_dev_reason. */
const char *pvd_reason_text(u8 reason);

/* ---- obstacle.c: why a device's DMA cannot be tracked ---------------------- */

/**
 * pvd_obstacle() - why the DMA of a device cannot be tracked as things are.
 * @dev: the device
 * @ours: DMA operations that are no obstacle, or NULL
 *
 * Return: PVDIRTY_R_NONE or the reason.
 */
u8 pvd_obstacle(struct device *dev, const struct dma_map_ops *ours);

/* Returns PVDIRTY_R_COHERENT_MEM if the device has such, or PVDIRTY_R_NONE. */
u8 pvd_private_memory(struct device *dev);

/* Can it write by itself? A device that does not answer is gone. */
bool pvd_is_bus_master(struct pci_dev *pdev);

/*
 * Does the device's driver hand it to user space, which maps without us? Those
 * of uio that are not known by name show once they have made their uio device.
 */
bool pvd_drives_user_dma(struct device *dev);

/*
 * Is it open until its driver has probed whether the device can be tracked? One
 * that is bus master already, left so by firmware or by a kernel that crashed,
 * may write where nobody mapped anything until its driver has reset it.
 */
bool pvd_open_until_probed(struct device *dev);

/*
 * Its driver has probed it: PVDIRTY_R_NONE, or why what the driver has made of
 * it cannot be tracked.
 */
u8 pvd_probed_obstacle(struct device *dev);

/* ---- attach: how a device's DMA is tracked (attach.c or hooks.c) ---------- */

/**
 * pvd_hooks_update() - have the DMA core call us, or not any more.
 *
 * It does as long as there is a covered device, or a child with the tripwire.
 * Called when one has come, before anybody can map with it, and when one has
 * gone.
 * Context: may sleep. A device lock may be held, but not pvdirty.lock, which
 * is taken: patching code waits for CPUs that come or go, and so does memory
 * that comes, whose notifier waits for pvdirty.lock.
 */
#if IS_BUILTIN(CONFIG_PVDIRTY)
void pvd_hooks_update(void);
#else
static inline void pvd_hooks_update(void) {}
#endif

/**
 * pvd_attach_new() - make the layer for a device, and put it on if possible.
 * @dev: the device; its lock is held and no driver has probed it
 *
 * Return: the layer, or NULL without memory.
 */
struct pvd_layer *pvd_attach_new(struct device *dev);

/**
 * pvd_attach_bind() - make sure that the layer sits, before a driver probes.
 * @layer: of the device, whose lock is held
 * @features: what the port has negotiated
 *
 * Takes over masks and maps that dma_configure() has set.
 * Return: PVDIRTY_R_NONE, or why the device's DMA is not tracked.
 */
u8 pvd_attach_bind(struct pvd_layer *layer, u32 features);

/* Does the layer still sit, and does the log see all? Returns as above. */
u8 pvd_attach_check(const struct pvd_layer *layer);

/*
 * The log missed something that this device did, and says so: keep the reason,
 * and what it was or PVDIRTY_R_NONE. Any context.
 */
void pvd_attach_spoil(struct pvd_layer *layer, u8 reason);
u8 pvd_attach_spoilt(const struct pvd_layer *layer);

/*
 * Mappings and allocations that have not been given back. A kernel with the
 * hook built in does not count them, and says 0.
 */
long pvd_attach_outstanding(const struct pvd_layer *layer);

/* Take the layer off. The device lock is held. */
void pvd_attach_remove(struct pvd_layer *layer);

/* Free it: it is off and no call into it is running. */
void pvd_attach_free(struct pvd_layer *layer);

/* ---- child.c: devices below covered ones that are no PCI functions --------- */

int pvd_child_init(void);

/* Take those that were there before pvd_child_init(). */
void pvd_child_scan(void);

/* Say which of them does DMA of its own by now. Lock held. */
void pvd_child_look(void);

/* Is there one that got the tripwire? Lock held. */
bool pvd_child_any(void);

/* The tripwire of a device was come upon: tell, and take it off. Any context. */
void pvd_child_trip(struct device *dev);

/* None is there any more: each holds a reference of the module. */
void pvd_child_exit(void);

/* ---- the tripwire of a child (tripwire.c or hooks.c) ----------------------- */

/**
 * pvd_tripwire_put() - have pvd_child_trip() called before a device is mapped with.
 * @dev: the device; nobody maps with it yet
 *
 * Return: false if its DMA goes another way: it has operations of its own.
 */
bool pvd_tripwire_put(struct device *dev);
bool pvd_tripwire_is_on(const struct device *dev);

/* Take it off. Any context. */
void pvd_tripwire_take(struct device *dev);

/* ---- memplug.c: memory that comes while the log is in use ------------------ */

/**
 * pvd_memplug_ranges() - call a function for each range that may be plugged.
 * @range: gets the first and the last PFN of a range
 * @arg: handed to @range
 */
void pvd_memplug_ranges(void (*range)(u64 first, u64 last, void *arg),
			void *arg);

int pvd_memplug_init(void);
void pvd_memplug_exit(void);

/* ---- life.c, stats.c ------------------------------------------------------- */

/* Reboot and suspend: unregister in time, register again afterwards. */
int pvd_life_init(void);
void pvd_life_exit(void);

#ifdef CONFIG_PVDIRTY_STATS
/* debugfs: pvdirty/status and pvdirty/devices. */
void pvd_stats_init(void);
void pvd_stats_exit(void);
#else
static inline void pvd_stats_init(void) {}
static inline void pvd_stats_exit(void) {}
#endif

#endif /* PVDIRTY_H */
