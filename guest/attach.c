// SPDX-License-Identifier: GPL-2.0
/*
 * Puts the layer of dma_map_ops (ops.c) on a device, takes it off, and finds
 * out whether it can serve: it sits only where the DMA API asks the device's
 * ops, and it sees only mappings that are made through them.
 */
#include <linux/dma-direct.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>

#include "compat.h"
#include "layer.h"
#include "pages.h"
#include "pvdirty.h"

/* Why the layer cannot serve the device as things are. */
static u8 obstacle(const struct pvd_layer *layer)
{
	return pvd_obstacle(layer->dev, &layer->ops);
}

static void release_shadow(struct device *shadow)
{
	struct pvd_layer *layer = container_of(shadow, struct pvd_layer, shadow);
	struct completion *freed = layer->freed;

	free_percpu(layer->held);
	kfree(layer);
	complete(freed);
}

/*
 * The driver core frees the device's map when a driver is unbound, but
 * coherent memory may be freed later. So the shadow has a copy, and keeps it
 * as long as it lives.
 */
static int copy_range_map(struct pvd_layer *layer)
{
	const struct bus_dma_region *map = layer->dev->dma_range_map, *copy;
	struct device *shadow = &layer->shadow;

	if (!map) {
		shadow->dma_range_map = NULL;
		return 0;
	}
	copy = devm_kmemdup(shadow, map, pvd_ranges_bytes(map), GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	shadow->dma_range_map = copy;
	return 0;
}

/*
 * Is what dma-direct maps for the device, within its mask, the physical address
 * and nothing else? Debugging wants to hear of it in any case.
 */
static bool is_plain(struct device *shadow)
{
	return !IS_ENABLED(CONFIG_DMA_API_DEBUG) && !shadow->dma_range_map &&
	       !shadow->bus_dma_limit && !phys_to_dma(shadow, 0) &&
	       dev_is_dma_coherent(shadow) && !is_swiotlb_force_bounce(shadow);
}

/* Take over what may have changed since the last driver. */
static int refresh_shadow(struct pvd_layer *layer)
{
	struct device *shadow = &layer->shadow, *dev = layer->dev;

	shadow->dma_mask = dev->dma_mask;
	shadow->coherent_dma_mask = dev->coherent_dma_mask;
	shadow->bus_dma_limit = dev->bus_dma_limit;
	shadow->dma_parms = dev->dma_parms;
	set_dev_node(shadow, dev_to_node(dev));
#ifdef CONFIG_DMA_CMA
	shadow->cma_area = dev->cma_area;
#endif
#ifdef CONFIG_SWIOTLB
	shadow->dma_io_tlb_mem = dev->dma_io_tlb_mem;
#endif
#if defined(CONFIG_ARCH_HAS_SYNC_DMA_FOR_DEVICE) || \
	defined(CONFIG_ARCH_HAS_SYNC_DMA_FOR_CPU) || \
	defined(CONFIG_ARCH_HAS_SYNC_DMA_FOR_CPU_ALL)
	shadow->dma_coherent = dev->dma_coherent;
#endif
	if (copy_range_map(layer))
		return -ENOMEM;
	layer->plain = is_plain(shadow);
	return 0;
}

static void put_on(struct pvd_layer *layer)
{
	pvd_want_sync(layer->dev);
	set_dma_ops(layer->dev, &layer->ops);
}

struct pvd_layer *pvd_attach_new(struct device *dev)
{
	struct pvd_layer *layer = kzalloc(sizeof(*layer), GFP_KERNEL);
	struct device *shadow;

	if (!layer)
		return NULL;
	layer->held = alloc_percpu(long);
	if (!layer->held) {
		kfree(layer);
		return NULL;
	}
	layer->dev = dev;
	/* Constant from here on, as all code expects of operations. */
	memcpy((void *)&layer->ops, &pvd_layer_ops, sizeof(layer->ops));
	shadow = &layer->shadow;
	device_initialize(shadow);
	shadow->release = release_shadow;
	if (dev_set_name(shadow, "pvdirty:%s", dev_name(dev)) ||
	    refresh_shadow(layer)) {
		pvd_attach_free(layer);
		return NULL;
	}
	if (obstacle(layer) == PVDIRTY_R_NONE)
		put_on(layer);
	return layer;
}

u8 pvd_attach_bind(struct pvd_layer *layer, u32 features)
{
	u8 reason = obstacle(layer);

	layer->log = features & PVDIRTY_FEATURES_LOG ? &pvdirty.log : NULL;
	if (!reason && refresh_shadow(layer))
		reason = PVDIRTY_R_NO_MEMORY;
	if (reason) {
		pvd_attach_remove(layer);
		return reason;
	}
	/* The IOMMU code may have reset the ops since they were put on. */
	put_on(layer);
	if ((features & PVDIRTY_FEATURES_LOG) != PVDIRTY_FEATURES_LOG)
		return PVDIRTY_R_NO_LOG;
	return pvd_private_memory(layer->dev) ?: pvd_attach_spoilt(layer);
}

u8 pvd_attach_check(const struct pvd_layer *layer)
{
	u8 reason = obstacle(layer);

	if (!reason && layer->dev->dma_ops != &layer->ops)
		reason = PVDIRTY_R_OTHER_OPS;
	return reason ?: pvd_private_memory(layer->dev) ?: pvd_attach_spoilt(layer);
}

void pvd_attach_spoil(struct pvd_layer *layer, u8 reason)
{
	WRITE_ONCE(layer->spoilt, reason);
}

u8 pvd_attach_spoilt(const struct pvd_layer *layer)
{
	return READ_ONCE(layer->spoilt);
}

long pvd_attach_outstanding(const struct pvd_layer *layer)
{
	long sum = 0;
	int cpu;

	/*
	 * Exact once no driver maps any more: what is read then can only be
	 * too high.
	 */
	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(layer->held, cpu));
	return sum;
}

void pvd_attach_remove(struct pvd_layer *layer)
{
	if (layer->dev->dma_ops == &layer->ops)
		set_dma_ops(layer->dev, NULL);
}

void pvd_attach_free(struct pvd_layer *layer)
{
	DECLARE_COMPLETION_ONSTACK(freed);

	/* The copy is freed with the shadow's other managed memory. */
	layer->shadow.dma_range_map = NULL;
	layer->freed = &freed;
	put_device(&layer->shadow);
	/* A debugging kernel releases later; our code must not go before. */
	wait_for_completion(&freed);
}
