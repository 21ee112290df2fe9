/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between kernel versions; the only place that tests for one.
 */
#ifndef PVDIRTY_COMPAT_H
#define PVDIRTY_COMPAT_H

#include <linux/dma-map-ops.h>
#include <linux/scatterlist.h>
#include <linux/version.h>

#if KERNEL_VERSION(6, 1, 0) > LINUX_VERSION_CODE
#error "pvdirty needs Linux 6.1 or later"
#endif

/* The operation is named alloc_pages_op since alloc_pages() is a macro. */
#if KERNEL_VERSION(6, 10, 0) <= LINUX_VERSION_CODE
#define PVD_OP_ALLOC_PAGES alloc_pages_op
#else
#define PVD_OP_ALLOC_PAGES alloc_pages
#endif

/* Is this entry peer-to-peer traffic that never touches RAM? */
static inline bool pvd_sg_is_bus_address(struct scatterlist *sg)
{
#if KERNEL_VERSION(6, 5, 0) <= LINUX_VERSION_CODE
	return sg_dma_is_bus_address(sg);
#else
	return sg_is_dma_bus_address(sg);
#endif
}

/* Does the DMA API go to the IOMMU without asking the device's ops? */
#if KERNEL_VERSION(6, 12, 0) <= LINUX_VERSION_CODE
#include <linux/iommu-dma.h>

static inline bool pvd_uses_dma_iommu(struct device *dev)
{
	return use_dma_iommu(dev);
}
#else
static inline bool pvd_uses_dma_iommu(struct device *dev)
{
	return false;
}
#endif

/*
 * Sync calls must reach the device's ops. dma_set_mask() decides the same for
 * a device whose ops have sync operations, but not every driver calls it.
 */
static inline void pvd_want_sync(struct device *dev)
{
#ifdef CONFIG_DMA_NEED_SYNC /* 6.10 */
	dev->dma_skip_sync = false;
#endif
}

#endif /* PVDIRTY_COMPAT_H */
