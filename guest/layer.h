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
 * @shadow: what dma-direct sees; never added to the driver core
 * @log: the log, or NULL when touching was negotiated
 * @dev: the device
 * @spoilt: enum pvdirty_dev_reason, from when the log lost sight of something
 *	that the device did; it never ends
 * @held: mappings and allocations of any direction, sum over all CPUs
 * @freed: who frees the layer waits for this
 */
struct pvd_layer {
	const struct dma_map_ops ops;
	struct device shadow;
	struct pvd_log *log;
	struct device *dev;
	u8 spoilt;
	long __percpu *held;
	struct completion *freed;
};

/* The operations; each layer has a copy of its own. */
extern const struct dma_map_ops pvd_layer_ops;

#endif /* PVDIRTY_LAYER_H */
