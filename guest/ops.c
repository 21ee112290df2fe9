// SPDX-License-Identifier: GPL-2.0
/*
 * Tracking by a layer of dma_map_ops, for kernels that do not have the hook
 * built in. The layer counts and marks, and calls the same DMA API on a
 * shadow of the device that has no ops, so that dma-direct and swiotlb do the
 * work as ever. Where dma-direct has nothing to do but to name the physical
 * address, that is done here: it is what most mappings are.
 *
 * Each device has an operations table of its own, so the way from the device
 * to its layer is a container_of().
 *
 * Order: counted before the driver gets the address; marked and counted out
 * before the address becomes invalid.
 */
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/percpu.h>

#include "compat.h"
#include "layer.h"
#include "pages.h"
#include "pvdirty.h"

static inline struct pvd_layer *to_layer(struct device *dev)
{
	return container_of(dev->dma_ops, struct pvd_layer, ops);
}

static inline phys_addr_t to_phys(struct pvd_layer *layer, dma_addr_t addr)
{
	return likely(layer->plain) ? addr : dma_to_phys(&layer->shadow, addr);
}

static __always_inline void hold_pages(struct pvd_layer *layer,
				       phys_addr_t phys, size_t size)
{
	if (!pvd_page_part_hold(layer->log, phys, size))
		pvd_range_hold(layer, layer->log, phys, size);
}

static __always_inline void hold(struct pvd_layer *layer, dma_addr_t addr,
				 size_t size)
{
	hold_pages(layer, to_phys(layer, addr), size);
}

static __always_inline void release(struct pvd_layer *layer, dma_addr_t addr,
				    size_t size)
{
	phys_addr_t phys = to_phys(layer, addr);

	if (!pvd_page_part_release(layer->log, phys, size))
		pvd_range_release(layer->log, phys, size);
}

static __always_inline void sync(struct pvd_layer *layer, dma_addr_t addr,
				 size_t size)
{
	phys_addr_t phys = to_phys(layer, addr);

	if (!pvd_page_part_sync(layer->log, phys, size))
		pvd_range_sync(layer->log, phys, size);
}

/* ---- what dma-direct is not needed for -------------------------------------- */

static inline bool is_plain(const struct pvd_layer *layer, phys_addr_t phys,
			    size_t size)
{
	return likely(layer->plain) &&
	       likely(phys + size - 1 <= *layer->shadow.dma_mask);
}

/* dma-direct has mapped it. Who gives it back must not forget what it did. */
static inline void note_bounce(struct pvd_layer *layer, bool bounced)
{
	if (bounced && !READ_ONCE(layer->bounced))
		WRITE_ONCE(layer->bounced, true);
}

/* Has dma-direct anything to do with a mapping of this device? */
static inline bool needs_direct(const struct pvd_layer *layer)
{
	return unlikely(!layer->plain || READ_ONCE(layer->bounced));
}

/* Gives a list its addresses, unless it has entries that dma-direct must see. */
static bool map_sg_plain(struct pvd_layer *layer, struct scatterlist *sgl,
			 int nents)
{
	struct scatterlist *sg;
	int i;

	for_each_sg(sgl, sg, nents, i) {
		phys_addr_t phys = sg_phys(sg);

		if (!is_plain(layer, phys, sg->length) ||
		    is_pci_p2pdma_page(sg_page(sg)))
			return false;
		sg_dma_address(sg) = phys;
		sg_dma_len(sg) = sg->length;
	}
	return true;
}

/* ---- the operations -------------------------------------------------------- */

/* Drivers may set the mask of the device at any time. */
static inline void take_coherent_mask(struct pvd_layer *layer)
{
	if (layer->shadow.coherent_dma_mask != layer->dev->coherent_dma_mask)
		layer->shadow.coherent_dma_mask = layer->dev->coherent_dma_mask;
}

static void *op_alloc(struct device *dev, size_t size, dma_addr_t *handle,
		      gfp_t gfp, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);
	void *vaddr;

	take_coherent_mask(layer);
	vaddr = dma_alloc_attrs(&layer->shadow, size, handle, gfp, attrs);
	if (vaddr) {
		this_cpu_inc(*layer->held);
		hold(layer, *handle, size);
	}
	return vaddr;
}

static void op_free(struct device *dev, size_t size, void *vaddr,
		    dma_addr_t handle, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);

	release(layer, handle, size);
	dma_free_attrs(&layer->shadow, size, vaddr, handle, attrs);
	this_cpu_dec(*layer->held);
}

static struct page *op_alloc_pages(struct device *dev, size_t size,
				   dma_addr_t *handle,
				   enum dma_data_direction dir, gfp_t gfp)
{
	struct pvd_layer *layer = to_layer(dev);
	struct page *page;

	take_coherent_mask(layer);
	page = dma_alloc_pages(&layer->shadow, size, handle, dir, gfp);
	if (page) {
		this_cpu_inc(*layer->held);
		hold(layer, *handle, size);
	}
	return page;
}

static void op_free_pages(struct device *dev, size_t size, struct page *page,
			  dma_addr_t handle, enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);

	release(layer, handle, size);
	dma_free_pages(&layer->shadow, size, page, handle, dir);
	this_cpu_dec(*layer->held);
}

static int op_mmap(struct device *dev, struct vm_area_struct *vma, void *vaddr,
		   dma_addr_t handle, size_t size, unsigned long attrs)
{
	return dma_mmap_attrs(&to_layer(dev)->shadow, vma, vaddr, handle, size,
			      attrs);
}

static int op_get_sgtable(struct device *dev, struct sg_table *sgt,
			  void *vaddr, dma_addr_t handle, size_t size,
			  unsigned long attrs)
{
	return dma_get_sgtable_attrs(&to_layer(dev)->shadow, sgt, vaddr, handle,
				     size, attrs);
}

/* Apart, so that the usual case keeps hardly any register for its sake. */
static noinline dma_addr_t map_page_direct(struct device *dev,
					   struct page *page,
					   unsigned long offset, size_t size,
					   enum dma_data_direction dir,
					   unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);
	dma_addr_t addr;

	addr = dma_map_page_attrs(&layer->shadow, page, offset, size, dir,
				  attrs);
	if (unlikely(dma_mapping_error(&layer->shadow, addr)))
		return addr;
	note_bounce(layer, addr != page_to_phys(page) + offset);
	this_cpu_inc(*layer->held);
	if (pvd_device_writes(dir))
		hold(layer, addr, size);
	return addr;
}

static dma_addr_t op_map_page(struct device *dev, struct page *page,
			      unsigned long offset, size_t size,
			      enum dma_data_direction dir, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);
	phys_addr_t phys = page_to_phys(page) + offset;

	if (!is_plain(layer, phys, size))
		return map_page_direct(dev, page, offset, size, dir, attrs);
	this_cpu_inc(*layer->held);
	if (pvd_device_writes(dir))
		hold_pages(layer, phys, size);
	return phys;
}

static noinline void unmap_page_direct(struct device *dev, dma_addr_t addr,
				       size_t size,
				       enum dma_data_direction dir,
				       unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);

	if (pvd_device_writes(dir))
		release(layer, addr, size);
	dma_unmap_page_attrs(&layer->shadow, addr, size, dir, attrs);
	this_cpu_dec(*layer->held);
}

static void op_unmap_page(struct device *dev, dma_addr_t addr, size_t size,
			  enum dma_data_direction dir, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);

	if (needs_direct(layer)) {
		unmap_page_direct(dev, addr, size, dir, attrs);
		return;
	}
	if (pvd_device_writes(dir))
		release(layer, addr, size);
	this_cpu_dec(*layer->held);
}

static int op_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		     enum dma_data_direction dir, unsigned long attrs)
{
	struct sg_table sgt = { .sgl = sgl, .orig_nents = nents };
	struct pvd_layer *layer = to_layer(dev);
	struct scatterlist *sg;
	int i, ret;

	if (map_sg_plain(layer, sgl, nents)) {
		sgt.nents = nents;
	} else {
		/* Of the two this is the call that tells the error. */
		ret = dma_map_sgtable(&layer->shadow, &sgt, dir, attrs);
		if (unlikely(ret))
			return ret;
		for_each_sg(sgl, sg, sgt.nents, i)
			note_bounce(layer,
				    sg_dma_address(sg) != sg_phys(sg) ||
				    pvd_sg_is_bus_address(sg));
	}
	this_cpu_inc(*layer->held);
	if (pvd_device_writes(dir)) {
		for_each_sg(sgl, sg, sgt.nents, i) {
			if (pvd_sg_in_ram(sg))
				hold(layer, sg_dma_address(sg), sg_dma_len(sg));
		}
	}
	return sgt.nents;
}

static void op_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
			enum dma_data_direction dir, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);
	struct scatterlist *sg;
	int i;

	/*
	 * nents is what the driver gave to map; entries past those that were
	 * used have no DMA length.
	 */
	if (pvd_device_writes(dir)) {
		for_each_sg(sgl, sg, nents, i) {
			if (pvd_sg_in_ram(sg))
				release(layer, sg_dma_address(sg),
					sg_dma_len(sg));
		}
	}
	if (needs_direct(layer))
		dma_unmap_sg_attrs(&layer->shadow, sgl, nents, dir, attrs);
	this_cpu_dec(*layer->held);
}

/* A resource is no RAM: nothing to count. */
static dma_addr_t op_map_resource(struct device *dev, phys_addr_t phys,
				  size_t size, enum dma_data_direction dir,
				  unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);
	dma_addr_t addr;

	addr = dma_map_resource(&layer->shadow, phys, size, dir, attrs);
	if (!dma_mapping_error(&layer->shadow, addr))
		this_cpu_inc(*layer->held);
	return addr;
}

static void op_unmap_resource(struct device *dev, dma_addr_t addr, size_t size,
			      enum dma_data_direction dir, unsigned long attrs)
{
	struct pvd_layer *layer = to_layer(dev);

	dma_unmap_resource(&layer->shadow, addr, size, dir, attrs);
	this_cpu_dec(*layer->held);
}

static noinline void sync_single_direct(struct device *dev, dma_addr_t addr,
					size_t size,
					enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);

	if (pvd_device_writes(dir))
		sync(layer, addr, size);
	dma_sync_single_for_cpu(&layer->shadow, addr, size, dir);
}

static void op_sync_single_for_cpu(struct device *dev, dma_addr_t addr,
				   size_t size, enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);

	if (needs_direct(layer))
		sync_single_direct(dev, addr, size, dir);
	else if (pvd_device_writes(dir))
		sync(layer, addr, size);
}

static void op_sync_single_for_device(struct device *dev, dma_addr_t addr,
				      size_t size, enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);

	if (needs_direct(layer))
		dma_sync_single_for_device(&layer->shadow, addr, size, dir);
}

static void op_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl,
			       int nents, enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);
	struct scatterlist *sg;
	int i;

	if (pvd_device_writes(dir)) {
		for_each_sg(sgl, sg, nents, i) {
			if (pvd_sg_in_ram(sg))
				sync(layer, sg_dma_address(sg), sg_dma_len(sg));
		}
	}
	if (needs_direct(layer))
		dma_sync_sg_for_cpu(&layer->shadow, sgl, nents, dir);
}

static void op_sync_sg_for_device(struct device *dev, struct scatterlist *sgl,
				  int nents, enum dma_data_direction dir)
{
	struct pvd_layer *layer = to_layer(dev);

	if (needs_direct(layer))
		dma_sync_sg_for_device(&layer->shadow, sgl, nents, dir);
}

static int op_dma_supported(struct device *dev, u64 mask)
{
	struct pvd_layer *layer = to_layer(dev);
	bool supported;

	/*
	 * dma_supported() is not exported. Setting the shadow's coherent mask
	 * asks it, and has no other effect: the mask is read anew from the
	 * device before each use. A driver may have moved the pointer of the
	 * other mask just before it asked (dma_coerce_mask_and_coherent()).
	 */
	layer->shadow.dma_mask = dev->dma_mask;
	supported = !dma_set_coherent_mask(&layer->shadow, mask);
	take_coherent_mask(layer);
	return supported;
}

static u64 op_get_required_mask(struct device *dev)
{
	return dma_get_required_mask(&to_layer(dev)->shadow);
}

static size_t op_max_mapping_size(struct device *dev)
{
	return dma_max_mapping_size(&to_layer(dev)->shadow);
}

/*
 * Without an operation of ours dma-mapping does what dma-direct does:
 * noncontiguous allocations are contiguous ones, there is no optimal mapping
 * size below the maximum, and nothing is merged. P2PDMA is not announced.
 */
const struct dma_map_ops pvd_layer_ops = {
	.alloc = op_alloc,
	.free = op_free,
	.PVD_OP_ALLOC_PAGES = op_alloc_pages,
	.free_pages = op_free_pages,
	.mmap = op_mmap,
	.get_sgtable = op_get_sgtable,
	.map_page = op_map_page,
	.unmap_page = op_unmap_page,
	.map_sg = op_map_sg,
	.unmap_sg = op_unmap_sg,
	.map_resource = op_map_resource,
	.unmap_resource = op_unmap_resource,
	.sync_single_for_cpu = op_sync_single_for_cpu,
	.sync_single_for_device = op_sync_single_for_device,
	.sync_sg_for_cpu = op_sync_sg_for_cpu,
	.sync_sg_for_device = op_sync_sg_for_device,
	.dma_supported = op_dma_supported,
	.get_required_mask = op_get_required_mask,
	.max_mapping_size = op_max_mapping_size,
};
