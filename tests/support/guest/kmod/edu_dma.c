// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for QEMU's edu device that has it write to memory without an end,
 * a kilobyte about ten times a second, each to a place of its own. In which
 * way it comes by the addresses is what the tests want to know of.
 */
#include <linux/auxiliary_bus.h>
#include <linux/delay.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/uio_driver.h>
#include <linux/workqueue.h>

static char *how = "own";
module_param(how, charp, 0444);
MODULE_PARM_DESC(how, "own: maps with the PCI function; quiet-auxiliary: likewise, and makes a child; auxiliary, platform: maps with a child; own-ops, auxiliary-ops: likewise, by operations of this driver; uio: leaves it to user space, and writes nothing; domain, idle-domain: makes a PCI domain with a function that is a bus master, and writes where nobody mapped anything, or one that is none, and maps with its own");

static unsigned long writes;
module_param(writes, ulong, 0444);
MODULE_PARM_DESC(writes, "how often edu has written so far");

#define EDU_SRC 0x80
#define EDU_DST 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_RUN BIT(0)
#define EDU_TO_RAM BIT(1)
#define EDU_BUFFER 0x40000

#define PAGES 1024
#define PIECE 1024 /* bytes; the buffer's last byte is out of the device's reach */
#define PATTERN 0xa5

struct edu {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct device *mapper; /* whose mask and operations are used, or NULL */
	struct page *source;
	struct page *pages[PAGES];
	dma_addr_t addr[PAGES];
	unsigned int mapped;
	struct delayed_work work;

	const struct dma_map_ops *replaced; /* of the mapper */
	struct auxiliary_device auxdev;
	bool added; /* the auxiliary device */
	struct platform_device *platform;
	struct uio_info uio;
	struct pci_sysdata sysdata;
	struct resource buses;
	struct pci_bus *domain;
	u32 config[PCI_CFG_SPACE_SIZE / 4];
};

/* ---- writing --------------------------------------------------------------- */

static bool busy(struct edu *edu)
{
	return readl(edu->regs + EDU_COMMAND) & EDU_RUN;
}

static void transfer(struct edu *edu, u64 src, u64 dst, u64 command)
{
	writeq(src, edu->regs + EDU_SRC);
	writeq(dst, edu->regs + EDU_DST);
	writeq(PIECE, edu->regs + EDU_COUNT);
	writeq(EDU_RUN | command, edu->regs + EDU_COMMAND);
}

static void write_next(struct work_struct *work)
{
	struct edu *edu = container_of(work, struct edu, work.work);
	unsigned int page = writes % PAGES;
	unsigned int piece = writes / PAGES % (PAGE_SIZE / PIECE);

	if (!busy(edu)) {
		transfer(edu, EDU_BUFFER, edu->addr[page] + piece * PIECE,
			 EDU_TO_RAM);
		writes++;
	}
	schedule_delayed_work(&edu->work, HZ / 50);
}

static void unmap(struct edu *edu)
{
	while (edu->mapped) {
		edu->mapped--;
		if (edu->mapper)
			dma_unmap_page(edu->mapper, edu->addr[edu->mapped],
				       PAGE_SIZE, DMA_FROM_DEVICE);
	}
}

static int map(struct edu *edu)
{
	for (edu->mapped = 0; edu->mapped < PAGES; edu->mapped++) {
		unsigned int i = edu->mapped;

		edu->addr[i] = page_to_phys(edu->pages[i]);
		if (!edu->mapper)
			continue;
		edu->addr[i] = dma_map_page(edu->mapper, edu->pages[i], 0,
					    PAGE_SIZE, DMA_FROM_DEVICE);
		if (dma_mapping_error(edu->mapper, edu->addr[i]))
			return -ENOMEM;
	}
	return 0;
}

static int start(struct edu *edu)
{
	struct device *dev = &edu->pdev->dev;
	dma_addr_t source;
	int ret;

	ret = map(edu);
	if (ret)
		return ret;
	memset(page_address(edu->source), PATTERN, PIECE);
	source = dma_map_page(dev, edu->source, 0, PAGE_SIZE, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, source))
		return -ENOMEM;
	transfer(edu, source, EDU_BUFFER, 0);
	while (busy(edu))
		msleep(20);
	dma_unmap_page(dev, source, PAGE_SIZE, DMA_TO_DEVICE);
	schedule_delayed_work(&edu->work, 0);
	dev_info(dev, "writes, how=%s, first page %#llx\n", how,
		 (u64)page_to_phys(edu->pages[0]));
	return 0;
}

static void stop(struct edu *edu)
{
	cancel_delayed_work_sync(&edu->work);
	while (busy(edu))
		msleep(20);
	unmap(edu);
}

/* ---- ways to come by an address -------------------------------------------- */

static dma_addr_t identity_map_page(struct device *dev, struct page *page,
				    unsigned long offset, size_t size,
				    enum dma_data_direction dir,
				    unsigned long attrs)
{
	return page_to_phys(page) + offset;
}

static void identity_unmap_page(struct device *dev, dma_addr_t addr,
				size_t size, enum dma_data_direction dir,
				unsigned long attrs)
{
}

static const struct dma_map_ops identity_ops = {
	.map_page = identity_map_page,
	.unmap_page = identity_unmap_page,
};

static void take_own_ops(struct edu *edu)
{
	edu->replaced = get_dma_ops(edu->mapper);
	set_dma_ops(edu->mapper, &identity_ops);
}

static void give_back_ops(struct edu *edu)
{
	if (edu->mapper && get_dma_ops(edu->mapper) == &identity_ops)
		set_dma_ops(edu->mapper, edu->replaced);
}

static void release_auxiliary(struct device *dev)
{
}

static int make_auxiliary(struct edu *edu)
{
	struct auxiliary_device *auxdev = &edu->auxdev;
	int ret;

	auxdev->name = "child";
	auxdev->dev.parent = &edu->pdev->dev;
	auxdev->dev.release = release_auxiliary;
	ret = auxiliary_device_init(auxdev);
	if (ret)
		return ret;
	ret = auxiliary_device_add(auxdev);
	if (ret) {
		auxiliary_device_uninit(auxdev);
		return ret;
	}
	edu->added = true;
	return dma_coerce_mask_and_coherent(&auxdev->dev, DMA_BIT_MASK(64));
}

static int make_platform(struct edu *edu)
{
	edu->platform = platform_device_register_data(&edu->pdev->dev,
						      "edu_child",
						      PLATFORM_DEVID_NONE,
						      NULL, 0);
	if (IS_ERR(edu->platform))
		return PTR_ERR(edu->platform);
	edu->mapper = &edu->platform->dev;
	return dma_set_mask_and_coherent(edu->mapper, DMA_BIT_MASK(64));
}

static int make_uio(struct edu *edu)
{
	edu->uio.name = "edu_dma";
	edu->uio.version = "1";
	edu->uio.irq = UIO_IRQ_NONE;
	return uio_register_device(&edu->pdev->dev, &edu->uio);
}

static struct edu *edu_of(const struct pci_bus *bus)
{
	return container_of(to_pci_sysdata(bus), struct edu, sysdata);
}

/* One function without a capability or a BAR; its command can be written. */
static int config_read(struct pci_bus *bus, unsigned int devfn, int where,
		       int size, u32 *value)
{
	if (devfn || where + size > PCI_CFG_SPACE_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	*value = 0;
	memcpy(value, (u8 *)edu_of(bus)->config + where, size);
	return PCIBIOS_SUCCESSFUL;
}

static int config_write(struct pci_bus *bus, unsigned int devfn, int where,
			int size, u32 value)
{
	if (devfn || where + size > PCI_CFG_SPACE_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	if (where == PCI_COMMAND)
		memcpy((u8 *)edu_of(bus)->config + where, &value, 2);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops config_ops = {
	.read = config_read,
	.write = config_write,
};

static int make_domain(struct edu *edu, u16 command)
{
	LIST_HEAD(resources);

	edu->config[0] = 0x11e9 << 16 | 0x1234;
	edu->config[PCI_COMMAND / 4] = command;
	edu->config[PCI_CLASS_REVISION / 4] = 0xff0000 << 8;
	edu->sysdata.domain = 0x10000;
	edu->sysdata.node = NUMA_NO_NODE;
	edu->buses = (struct resource) {
		.name = "edu_dma",
		.start = 0,
		.end = 0,
		.flags = IORESOURCE_BUS | IORESOURCE_PCI_FIXED,
	};
	pci_add_resource(&resources, &edu->buses);
	edu->domain = pci_create_root_bus(&edu->pdev->dev, 0, &config_ops,
					  &edu->sysdata, &resources);
	if (!edu->domain) {
		pci_free_resource_list(&resources);
		return -ENODEV;
	}
	pci_scan_child_bus(edu->domain);
	pci_bus_add_devices(edu->domain);
	if (command & PCI_COMMAND_MASTER)
		edu->mapper = NULL;
	return 0;
}

static int begin(struct edu *edu)
{
	int ret = 0;

	if (!strcmp(how, "uio"))
		return make_uio(edu);
	if (strstr(how, "auxiliary"))
		ret = make_auxiliary(edu);
	else if (!strcmp(how, "platform"))
		ret = make_platform(edu);
	else if (!strcmp(how, "domain"))
		ret = make_domain(edu, PCI_COMMAND_MASTER);
	else if (!strcmp(how, "idle-domain"))
		ret = make_domain(edu, 0);
	else if (strcmp(how, "own") && strcmp(how, "own-ops"))
		ret = -EINVAL;
	if (!strncmp(how, "auxiliary", strlen("auxiliary")))
		edu->mapper = &edu->auxdev.dev;
	if (!ret && strstr(how, "-ops"))
		take_own_ops(edu);
	return ret ?: start(edu);
}

/* Whatever begin() has made, if only a part of it. */
static void end(struct edu *edu)
{
	stop(edu);
	give_back_ops(edu);
	if (edu->domain) {
		pci_stop_root_bus(edu->domain);
		pci_remove_root_bus(edu->domain);
	}
	if (edu->uio.uio_dev)
		uio_unregister_device(&edu->uio);
	if (!IS_ERR_OR_NULL(edu->platform))
		platform_device_unregister(edu->platform);
	if (edu->added) {
		auxiliary_device_delete(&edu->auxdev);
		auxiliary_device_uninit(&edu->auxdev);
	}
}

/* ---- the driver ------------------------------------------------------------ */

static int allocate_pages(struct edu *edu)
{
	unsigned int i;

	edu->source = alloc_page(GFP_KERNEL | __GFP_ZERO);
	for (i = 0; i < PAGES; i++) {
		edu->pages[i] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!edu->pages[i])
			return -ENOMEM;
	}
	return edu->source ? 0 : -ENOMEM;
}

static void free_pages_of(struct edu *edu)
{
	unsigned int i;

	for (i = 0; i < PAGES && edu->pages[i]; i++)
		__free_page(edu->pages[i]);
	if (edu->source)
		__free_page(edu->source);
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu *edu = kvzalloc(sizeof(*edu), GFP_KERNEL);
	int ret;

	if (!edu)
		return -ENOMEM;
	edu->pdev = pdev;
	edu->mapper = &pdev->dev;
	INIT_DELAYED_WORK(&edu->work, write_next);
	pci_set_drvdata(pdev, edu);
	ret = allocate_pages(edu);
	if (ret)
		goto out_free;
	ret = pci_enable_device(pdev);
	if (ret)
		goto out_free;
	pci_set_master(pdev);
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		goto out_disable;
	edu->regs = pci_iomap(pdev, 0, 0);
	if (!edu->regs) {
		ret = -ENOMEM;
		goto out_disable;
	}
	ret = begin(edu);
	if (!ret)
		return 0;

	end(edu);
	pci_iounmap(pdev, edu->regs);
out_disable:
	pci_disable_device(pdev);
out_free:
	free_pages_of(edu);
	kvfree(edu);
	return ret;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	end(edu);
	pci_iounmap(pdev, edu->regs);
	pci_disable_device(pdev);
	free_pages_of(edu);
	kvfree(edu);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "edu_dma",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Has QEMU's edu device write to memory, for the tests of pvdirty");
MODULE_LICENSE("GPL");
