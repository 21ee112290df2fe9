// SPDX-License-Identifier: GPL-2.0
/*
 * Why the DMA of a device cannot be tracked as things are, whichever way it is
 * tracked.
 */
#include <linux/iommu.h>
#include <linux/pci.h>
#include <linux/string.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

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

/* ---- what its driver makes of it ------------------------------------------- */

bool pvd_is_bus_master(struct pci_dev *pdev)
{
	u16 command;

	return !pci_read_config_word(pdev, PCI_COMMAND, &command) &&
	       !PCI_POSSIBLE_ERROR(command) && (command & PCI_COMMAND_MASTER);
}

bool pvd_drives_user_dma(struct device *dev)
{
	static const char *const names[] = {
		"uio_pci_generic", "igb_uio", "vp-vdpa", "ifcvf", "usnic_verbs",
	};

	return to_pci_driver(dev->driver)->driver_managed_dma ||
	       match_string(names, ARRAY_SIZE(names), dev->driver->name) >= 0;
}

/*
 * Without VIRTIO_F_ACCESS_PLATFORM virtio's drivers give the device physical
 * addresses, and nobody maps anything. What the device offers of it is taken.
 */
static bool is_virtio(struct device *dev)
{
	return !strcmp(dev->driver->name, "virtio-pci");
}

static int has_platform_access(struct device *child, void *data)
{
	struct virtio_device *vdev;

	if (!child->bus || strcmp(child->bus->name, "virtio"))
		return 0;
	vdev = dev_to_virtio(child);
	return !!(vdev->config->get_features(vdev) &
		  BIT_ULL(VIRTIO_F_ACCESS_PLATFORM));
}

static int is_uio(struct device *child, void *data)
{
	return child->class && !strcmp(child->class->name, "uio");
}

bool pvd_open_until_probed(struct device *dev)
{
	/* What a virtio device offers shows once it has been probed. */
	return is_virtio(dev) || pvd_is_bus_master(to_pci_dev(dev));
}

u8 pvd_probed_obstacle(struct device *dev)
{
	if (is_virtio(dev) &&
	    !device_for_each_child(dev, NULL, has_platform_access))
		return PVDIRTY_R_NO_DMA_API;
	if (device_for_each_child(dev, NULL, is_uio))
		return PVDIRTY_R_USER_DMA;
	return PVDIRTY_R_NONE;
}
