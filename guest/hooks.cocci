// SPDX-License-Identifier: GPL-2.0
//
// Places the calls of hooks.h in kernel/dma/mapping.c, where the debug_dma_*
// calls stand: above the choice between direct mapping, swiotlb and IOMMU.
// What comes is counted once it has succeeded, which the debug calls do not
// ask; what goes, and what the CPU is about to read, is looked at first, while
// the address is valid. One description for Linux 6.1 to 6.12: guest/apply
// checks that every rule has found its place, and that no debug call stands
// where no rule looks.
//
// Nothing is to be done for resources, which are no RAM, and for syncs for the
// device, since the pages stay mapped.

@include@
@@
 #include "direct.h"
+#include "pvdirty/guest/hooks.h"

@map_page@
typedef dma_addr_t;
identifier dev, page, offset, size, dir, attrs, addr;
@@
 dma_addr_t dma_map_page_attrs(struct device *dev, struct page *page,
		size_t offset, size_t size, enum dma_data_direction dir,
		unsigned long attrs)
 {
 <...
 debug_dma_map_page(dev, page, offset, size, dir, addr, attrs);
+pvdirty_map(dev, addr, size, dir);
 ...>
 }

@unmap_page@
identifier dev, addr, size, dir, attrs;
@@
 void dma_unmap_page_attrs(struct device *dev, dma_addr_t addr, size_t size,
		enum dma_data_direction dir, unsigned long attrs)
 {
 <...
 BUG_ON(!valid_dma_direction(dir));
+pvdirty_unmap(dev, addr, size, dir);
 ...>
 }

@map_sg@
identifier dev, sg, nents, dir, attrs, ents;
@@
 int __dma_map_sg_attrs(struct device *dev, struct scatterlist *sg, int nents,
		enum dma_data_direction dir, unsigned long attrs)
 {
 <...
 debug_dma_map_sg(dev, sg, nents, ents, dir, attrs);
+pvdirty_map_sg(dev, sg, ents, dir);
 ...>
 }

@unmap_sg@
identifier dev, sg, nents, dir, attrs;
@@
 void dma_unmap_sg_attrs(struct device *dev, struct scatterlist *sg, int nents,
		enum dma_data_direction dir, unsigned long attrs)
 {
 <...
 BUG_ON(!valid_dma_direction(dir));
+pvdirty_unmap_sg(dev, sg, nents, dir);
 ...>
 }

// Behind an inline wrapper since 6.10, which leaves it out for some devices.
@sync@
identifier dev, addr, size, dir;
identifier f =~ "dma_sync_single_for_cpu$";
@@
 void f(struct device *dev, dma_addr_t addr, size_t size,
		enum dma_data_direction dir)
 {
 <...
 BUG_ON(!valid_dma_direction(dir));
+pvdirty_sync(dev, addr, size, dir);
 ...>
 }

@sync_sg@
identifier dev, sg, nelems, dir;
identifier f =~ "dma_sync_sg_for_cpu$";
@@
 void f(struct device *dev, struct scatterlist *sg, int nelems,
		enum dma_data_direction dir)
 {
 <...
 BUG_ON(!valid_dma_direction(dir));
+pvdirty_sync_sg(dev, sg, nelems, dir);
 ...>
 }

// Drivers that ask may leave the syncs out themselves.
@need_sync@
typedef bool;
identifier dev, addr, ops;
identifier f =~ "dma_need_sync$";
@@
 bool f(struct device *dev, dma_addr_t addr)
 {
 const struct dma_map_ops *ops = get_dma_ops(dev);
+
+if (pvdirty_wants_sync(dev))
+	return true;
 ...
 }

// Called by dma_set_mask(), with a driver at work: the choice is made before.
@setup_need_sync@
identifier dev, ops;
@@
 void dma_setup_need_sync(struct device *dev)
 {
 const struct dma_map_ops *ops = get_dma_ops(dev);
+
+if (pvdirty_wants_sync(dev))
+	return;
 ...
 }

// Coherent memory of the device's own returns earlier, here and when freed.
@alloc@
typedef gfp_t;
identifier dev, size, handle, flag, attrs, cpu_addr;
@@
 void *dma_alloc_attrs(struct device *dev, size_t size, dma_addr_t *handle,
		gfp_t flag, unsigned long attrs)
 {
 <...
 debug_dma_alloc_coherent(dev, size, *handle, cpu_addr, attrs);
+if (cpu_addr)
+	pvdirty_map(dev, *handle, size, DMA_BIDIRECTIONAL);
 ...>
 }

@free@
identifier dev, size, cpu_addr, handle, attrs;
@@
 void dma_free_attrs(struct device *dev, size_t size, void *cpu_addr,
		dma_addr_t handle, unsigned long attrs)
 {
 <...
+pvdirty_unmap(dev, handle, size, DMA_BIDIRECTIONAL);
 debug_dma_free_coherent(dev, size, cpu_addr, handle);
 ...>
 }

@alloc_pages@
identifier dev, size, handle, dir, gfp, page;
@@
 struct page *dma_alloc_pages(struct device *dev, size_t size,
		dma_addr_t *handle, enum dma_data_direction dir, gfp_t gfp)
 {
 <...
(
 debug_dma_map_page(dev, page, 0, size, dir, *handle, 0);
+pvdirty_map(dev, *handle, size, dir);
|
 debug_dma_alloc_pages(dev, page, size, dir, *handle, 0);
+pvdirty_map(dev, *handle, size, dir);
)
 ...>
 }

@free_pages@
identifier dev, size, page, handle, dir;
@@
 void dma_free_pages(struct device *dev, size_t size, struct page *page,
		dma_addr_t handle, enum dma_data_direction dir)
 {
+pvdirty_unmap(dev, handle, size, dir);
 ...
 }

@alloc_noncontiguous@
identifier dev, size, dir, gfp, attrs, sgt;
@@
 struct sg_table *dma_alloc_noncontiguous(struct device *dev, size_t size,
		enum dma_data_direction dir, gfp_t gfp, unsigned long attrs)
 {
 <...
 debug_dma_map_sg(dev, sgt->sgl, sgt->orig_nents, 1, dir, attrs);
+pvdirty_map_sg(dev, sgt->sgl, sgt->nents, dir);
 ...>
 }

@free_noncontiguous@
identifier dev, size, sgt, dir;
@@
 void dma_free_noncontiguous(struct device *dev, size_t size,
		struct sg_table *sgt, enum dma_data_direction dir)
 {
 <...
+pvdirty_unmap_sg(dev, sgt->sgl, sgt->orig_nents, dir);
 debug_dma_unmap_sg(dev, sgt->sgl, sgt->orig_nents, dir);
 ...>
 }
