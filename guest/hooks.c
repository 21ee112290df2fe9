// SPDX-License-Identifier: GPL-2.0
/*
 * Tracking by the hook in the DMA core (hooks.h), for kernels that have pvdirty
 * built in. A device that is tracked has a pointer to its layer, set before a
 * driver probes it and cleared when nobody else holds the device any more: so
 * memory that a driver frees late is still counted out.
 */
#include <linux/device.h>
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/mutex.h>
#include <linux/slab.h>

#include "alloc.h"
#include "compat.h"
#include "hooks.h"
#include "pages.h"
#include "pvdirty.h"

/**
 * struct pvd_layer - how a device is tracked.
 * @plain: the log, if addresses are physical; or NULL
 * @log: the log, or NULL when touching was negotiated
 * @ranges: how its DMA addresses translate, or NULL if they are physical; a
 *	copy, since the driver core frees the device's own at unbind
 * @configured: a driver has probed it, so @ranges is valid
 * @dev: the device
 * @wants_sync: pages are not counted in flight, so what the driver reads
 *	between map and unmap must be told then
 * @spoilt: enum pvdirty_dev_reason, from when the log lost sight of something
 *	that the device did; it never ends
 */
struct pvd_layer {
	struct pvd_log *plain;
	struct pvd_log *log;
	const struct bus_dma_region *ranges;
	bool configured;
	struct device *dev;
	bool wants_sync;
	u8 spoilt;
};

DEFINE_STATIC_KEY_FALSE(pvdirty_key);

/* What a child has for a layer (see child.c), until it is mapped with. */
static struct pvd_layer tripwire;

/* ---- called by the DMA core ------------------------------------------------ */

static phys_addr_t translate(const struct pvd_layer *layer, dma_addr_t addr)
{
	const struct bus_dma_region *range;

	for (range = layer->ranges; range->size; range++) {
		if (addr >= range->dma_start &&
		    addr - range->dma_start < range->size)
			return range->cpu_start + (addr - range->dma_start);
	}
	/* Outside of the log, which then says so; adding a size cannot wrap. */
	return PHYS_ADDR_MAX / 2;
}

static inline phys_addr_t to_phys(const struct pvd_layer *layer,
				  dma_addr_t addr)
{
	return likely(!layer->ranges) ? addr : translate(layer, addr);
}

/* The layer of a device that may write what was mapped, or NULL. */
static __always_inline struct pvd_layer *layer_of(struct device *dev,
						  enum dma_data_direction dir)
{
	return pvd_device_writes(dir) ? READ_ONCE(dev->pvdirty) : NULL;
}

/*
 * Whatever a device has for a layer: the tripwire is come upon here, and NULL
 * returned.
 */
static struct pvd_layer *any_layer(struct device *dev)
{
	struct pvd_layer *layer = READ_ONCE(dev->pvdirty);

	if (layer != &tripwire)
		return layer;
	pvd_child_trip(dev);
	return NULL;
}

static pvd_aside void map_any(struct device *dev, dma_addr_t addr, size_t size)
{
	struct pvd_layer *layer = any_layer(dev);

	if (layer && addr != DMA_MAPPING_ERROR)
		pvd_range_hold(layer, READ_ONCE(layer->log),
			       to_phys(layer, addr), size);
}

static pvd_aside void unmap_any(struct device *dev, dma_addr_t addr,
				size_t size)
{
	struct pvd_layer *layer = any_layer(dev);

	if (layer)
		pvd_range_release(READ_ONCE(layer->log), to_phys(layer, addr),
				  size);
}

static pvd_aside void sync_any(struct device *dev, dma_addr_t addr, size_t size)
{
	struct pvd_layer *layer = any_layer(dev);

	if (layer)
		pvd_range_sync(READ_ONCE(layer->log), to_phys(layer, addr),
			       size);
}

/* What is done with bytes that a device may write. */
static __always_inline void map(struct device *dev, struct pvd_layer *layer,
				dma_addr_t addr, size_t size)
{
	if (!pvd_page_part_hold(READ_ONCE(layer->plain), addr, size))
		map_any(dev, addr, size);
}

static __always_inline void unmap(struct device *dev, struct pvd_layer *layer,
				  dma_addr_t addr, size_t size)
{
	if (!pvd_page_part_release(READ_ONCE(layer->plain), addr, size))
		unmap_any(dev, addr, size);
}

static __always_inline void sync(struct device *dev, struct pvd_layer *layer,
				 dma_addr_t addr, size_t size)
{
	if (!pvd_page_part_sync(READ_ONCE(layer->plain), addr, size))
		sync_any(dev, addr, size);
}

void __pvdirty_map(struct device *dev, dma_addr_t addr, size_t size,
		   enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);

	if (layer)
		map(dev, layer, addr, size);
}

void __pvdirty_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		      enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);
	struct scatterlist *sg;
	int i;

	if (!layer)
		return;
	for_each_sg(sgl, sg, nents, i) {
		if (pvd_sg_in_ram(sg))
			map(dev, layer, sg_dma_address(sg), sg_dma_len(sg));
	}
}

void __pvdirty_unmap(struct device *dev, dma_addr_t addr, size_t size,
		     enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);

	if (layer)
		unmap(dev, layer, addr, size);
}

void __pvdirty_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
			enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);
	struct scatterlist *sg;
	int i;

	if (!layer)
		return;
	for_each_sg(sgl, sg, nents, i) {
		if (pvd_sg_in_ram(sg))
			unmap(dev, layer, sg_dma_address(sg), sg_dma_len(sg));
	}
}

void __pvdirty_sync(struct device *dev, dma_addr_t addr, size_t size,
		    enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);

	if (layer)
		sync(dev, layer, addr, size);
}

void __pvdirty_sync_sg(struct device *dev, struct scatterlist *sgl, int nents,
		       enum dma_data_direction dir)
{
	struct pvd_layer *layer = layer_of(dev, dir);
	struct scatterlist *sg;
	int i;

	if (!layer)
		return;
	for_each_sg(sgl, sg, nents, i) {
		if (pvd_sg_in_ram(sg))
			sync(dev, layer, sg_dma_address(sg), sg_dma_len(sg));
	}
}

bool __pvdirty_wants_sync(struct device *dev)
{
	struct pvd_layer *layer = READ_ONCE(dev->pvdirty);

	return layer && layer->wants_sync;
}

/* ---- called by the rest of us ---------------------------------------------- */

/* Is there a device that may have a layer, or the tripwire? */
static bool hooks_wanted(void)
{
	bool wanted;

	mutex_lock(&pvdirty.lock);
	wanted = !list_empty(&pvdirty.devs) || pvd_child_any();
	mutex_unlock(&pvdirty.lock);
	return wanted;
}

void pvd_hooks_update(void)
{
	/* Whoever comes last decides by what is so then. */
	static DEFINE_MUTEX(turn);

	mutex_lock(&turn);
	if (hooks_wanted())
		static_branch_enable(&pvdirty_key);
	else
		static_branch_disable(&pvdirty_key);
	mutex_unlock(&turn);
}

bool pvd_tripwire_put(struct device *dev)
{
	WRITE_ONCE(dev->pvdirty, &tripwire);
	return true;
}

bool pvd_tripwire_is_on(const struct device *dev)
{
	return READ_ONCE(dev->pvdirty) == &tripwire;
}

void pvd_tripwire_take(struct device *dev)
{
	WRITE_ONCE(dev->pvdirty, NULL);
}

/*
 * Take over how the device's addresses translate: at the first driver, since
 * calls for what it frees late may run from then on.
 */
static u8 take_ranges(struct pvd_layer *layer)
{
	const struct bus_dma_region *map = layer->dev->dma_range_map;
	const struct bus_dma_region *mine = layer->ranges;
	size_t bytes = map ? pvd_ranges_bytes(map) : 0;

	if (layer->configured) {
		if (!map == !mine && (!map || !memcmp(map, mine, bytes)))
			return PVDIRTY_R_NONE;
		return PVDIRTY_R_OTHER_OPS;
	}
	if (map) {
		layer->ranges = pvd_alloc(kmemdup(map, bytes, GFP_KERNEL));
		if (!layer->ranges)
			return PVDIRTY_R_NO_MEMORY;
	}
	layer->configured = true;
	return PVDIRTY_R_NONE;
}

struct pvd_layer *pvd_attach_new(struct device *dev)
{
	struct pvd_layer *layer;

	layer = pvd_alloc(kzalloc(sizeof(*layer), GFP_KERNEL));
	if (!layer)
		return NULL;
	layer->dev = dev;
	return layer;
}

u8 pvd_attach_bind(struct pvd_layer *layer, u32 features)
{
	u8 reason = pvd_obstacle(layer->dev, NULL);
	struct pvd_log *log;

	if (!reason)
		reason = take_ranges(layer);
	if (reason) {
		pvd_attach_remove(layer);
		return reason;
	}
	log = features & PVDIRTY_FEATURES_LOG ? &pvdirty.log : NULL;
	/* The driver before may just be freeing something late. */
	WRITE_ONCE(layer->log, log);
	WRITE_ONCE(layer->plain, layer->ranges ? NULL : log);
	layer->wants_sync = !(features & BIT(PVDIRTY_F_INFLIGHT));
	if (layer->wants_sync)
		pvd_want_sync(layer->dev);
	WRITE_ONCE(layer->dev->pvdirty, layer);
	if ((features & PVDIRTY_FEATURES_LOG) != PVDIRTY_FEATURES_LOG)
		return PVDIRTY_R_NO_LOG;
	return pvd_private_memory(layer->dev) ?: pvd_attach_spoilt(layer);
}

u8 pvd_attach_check(const struct pvd_layer *layer)
{
	u8 reason = pvd_obstacle(layer->dev, NULL);

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
	return 0;
}

void pvd_attach_remove(struct pvd_layer *layer)
{
	WRITE_ONCE(layer->dev->pvdirty, NULL);
}

void pvd_attach_free(struct pvd_layer *layer)
{
	kfree(layer->ranges);
	kfree(layer);
}

#ifdef CONFIG_PVDIRTY_KUNIT_TEST
#include "hooks_kunit.c"
#endif
