/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The layer of dma_map_ops over one device: ops.c has what it does, attach.c
 * puts it on and takes it off.
 */
#ifndef PVDIRTY_LAYER_H
#define PVDIRTY_LAYER_H

#include <linux/completion.h>
#include <linux/device.h>
#include <linux/dma-map-ops.h>

#include "pvdirty.h"

/**
 * struct pvd_layer - the layer of one device.
 * @ops: the device's dma_ops point here
 * @log: the log, or NULL when touching was negotiated
 * @held: mappings and allocations of any direction, sum over all CPUs
 * @plain: what dma-direct maps within the mask is the physical address, and
 *	needs nothing else; decided before a driver probes
 * @bounced: it has mapped something otherwise; that never ends
 * @shadow: what dma-direct sees; never added to the driver core
 * @dev: the device
 * @spoilt: enum pvdirty_dev_reason, from when the log lost sight of something
 *	that the device did; it never ends
 * @freed: who frees the layer waits for this
 */
struct pvd_layer {
	const struct dma_map_ops ops;
	/* What each operation reads is together. */
	struct pvd_log *log;
	long __percpu *held;
	bool plain;
	bool bounced;
	struct device shadow;
	struct device *dev;
	u8 spoilt;
	struct completion *freed;
};

/* The operations; each layer has a copy of its own. */
extern const struct dma_map_ops pvd_layer_ops;

#endif /* PVDIRTY_LAYER_H */
