// SPDX-License-Identifier: GPL-2.0
/*
 * The tripwire of a module: DMA operations of which whichever is called first
 * tells child.c, which takes them off, and has the DMA API do what was asked.
 */
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>

#include "compat.h"
#include "pvdirty.h"

static void *trip_alloc(struct device *dev, size_t size, dma_addr_t *handle,
			gfp_t gfp, unsigned long attrs)
{
	pvd_child_trip(dev);
	return dma_alloc_attrs(dev, size, handle, gfp, attrs);
}

static void trip_free(struct device *dev, size_t size, void *vaddr,
		      dma_addr_t handle, unsigned long attrs)
{
	pvd_child_trip(dev);
	dma_free_attrs(dev, size, vaddr, handle, attrs);
}

static struct page *trip_alloc_pages(struct device *dev, size_t size,
				     dma_addr_t *handle,
				     enum dma_data_direction dir, gfp_t gfp)
{
	pvd_child_trip(dev);
	return dma_alloc_pages(dev, size, handle, dir, gfp);
}

static void trip_free_pages(struct device *dev, size_t size, struct page *page,
			    dma_addr_t handle, enum dma_data_direction dir)
{
	pvd_child_trip(dev);
	dma_free_pages(dev, size, page, handle, dir);
}

static dma_addr_t trip_map_page(struct device *dev, struct page *page,
				unsigned long offset, size_t size,
				enum dma_data_direction dir,
				unsigned long attrs)
{
	pvd_child_trip(dev);
	return dma_map_page_attrs(dev, page, offset, size, dir, attrs);
}

static void trip_unmap_page(struct device *dev, dma_addr_t addr, size_t size,
			    enum dma_data_direction dir, unsigned long attrs)
{
	pvd_child_trip(dev);
	dma_unmap_page_attrs(dev, addr, size, dir, attrs);
}

static int trip_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		       enum dma_data_direction dir, unsigned long attrs)
{
	struct sg_table sgt = { .sgl = sgl, .orig_nents = nents };
	int ret;

	pvd_child_trip(dev);
	/* Of the two this is the call that tells the error. */
	ret = dma_map_sgtable(dev, &sgt, dir, attrs);
	return ret ?: sgt.nents;
}

static void trip_unmap_sg(struct device *dev, struct scatterlist *sgl,
			  int nents, enum dma_data_direction dir,
			  unsigned long attrs)
{
	pvd_child_trip(dev);
	dma_unmap_sg_attrs(dev, sgl, nents, dir, attrs);
}

static dma_addr_t trip_map_resource(struct device *dev, phys_addr_t phys,
				    size_t size, enum dma_data_direction dir,
				    unsigned long attrs)
{
	pvd_child_trip(dev);
	return dma_map_resource(dev, phys, size, dir, attrs);
}

/* Nobody asks who does not mean to do DMA. */
static size_t trip_max_mapping_size(struct device *dev)
{
	pvd_child_trip(dev);
	return dma_max_mapping_size(dev);
}

static u64 trip_get_required_mask(struct device *dev)
{
	pvd_child_trip(dev);
	return dma_get_required_mask(dev);
}

/*
 * Whatever else there is comes after one of these. A mask is taken without an
 * operation to ask: what a device can address shows when it is mapped for.
 */
static const struct dma_map_ops tripwire = {
	.alloc = trip_alloc,
	.free = trip_free,
	.PVD_OP_ALLOC_PAGES = trip_alloc_pages,
	.free_pages = trip_free_pages,
	.map_page = trip_map_page,
	.unmap_page = trip_unmap_page,
	.map_sg = trip_map_sg,
	.unmap_sg = trip_unmap_sg,
	.map_resource = trip_map_resource,
	.max_mapping_size = trip_max_mapping_size,
	.get_required_mask = trip_get_required_mask,
};

bool pvd_tripwire_put(struct device *dev)
{
	if (dev->dma_ops)
		return false;
	set_dma_ops(dev, &tripwire);
	return true;
}

bool pvd_tripwire_is_on(const struct device *dev)
{
	return READ_ONCE(dev->dma_ops) == &tripwire;
}

void pvd_tripwire_take(struct device *dev)
{
	set_dma_ops(dev, NULL);
}
