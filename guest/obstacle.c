// SPDX-License-Identifier: GPL-2.0
/*
 * Why the DMA of a device cannot be tracked as things are, whichever way it is
 * tracked.
 */
#include <linux/iommu.h>
#include <linux/pci.h>

#include "compat.h"
#include "pvdirty.h"

u8 pvd_obstacle(struct device *dev, const struct dma_map_ops *ours)
{
	const struct dma_map_ops *ops = get_dma_ops(dev);
	struct iommu_domain *domain;

	if (pvd_uses_dma_iommu(dev))
		return PVDIRTY_R_IOMMU;
	domain = iommu_get_domain_for_dev(dev);
	if (domain && domain->type != IOMMU_DOMAIN_IDENTITY)
		return PVDIRTY_R_IOMMU;
#ifdef CONFIG_PCI_PASID
	/* Shared virtual addressing: DMA to pages that nobody maps for it. */
	if (to_pci_dev(dev)->pasid_enabled)
		return PVDIRTY_R_IOMMU;
#endif
	/* Ops of the platform show when the device has none. */
	if (ops && ops != ours)
		return PVDIRTY_R_OTHER_OPS;
	return PVDIRTY_R_NONE;
}

u8 pvd_private_memory(struct device *dev)
{
#ifdef CONFIG_DMA_DECLARE_COHERENT
	if (dev->dma_mem)
		return PVDIRTY_R_COHERENT_MEM;
#endif
	return PVDIRTY_R_NONE;
}
