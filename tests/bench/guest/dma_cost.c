// SPDX-License-Identifier: GPL-2.0
/*
 * Counts the instructions that calls of the DMA API take. Under QEMU's
 * -icount shift=0 the time stamp counter counts one for each instruction, so
 * with interrupts off the counts are exact. A driver for QEMU's edu device,
 * which does nothing: only its struct device is used.
 *
 * Write a device's address to the parameter "measure", then read the counts
 * from it: a line for each loop, with the instructions of all its rounds in
 * two runs, less those that the empty loop took.
 */
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <asm/msr.h>

#define ROUNDS 512 /* also the pages of a block */
#define BLOCK_ORDER 9
#define LARGE_ORDER 4 /* 64 KiB */
#define WORD_ORDER 6 /* pages of a word of marks: where in it one lies counts */
#define ENTRIES 16
#define RUNS 2

/* What the loops work on, all of it new for each run. */
struct ground {
	struct device *dev;
	void *block; /* ROUNDS pages that no device had before */
	void *page;
	void *large;
	dma_addr_t mapped; /* a page */
	struct sg_table list; /* every second page of a part of the block */
};

static char report[PAGE_SIZE];
static DEFINE_MUTEX(measuring);

/*
 * Every loop is a function of its own: what is around it does not change its
 * code, and it is the same whatever the state of pvdirty.
 */
#define LOOP(name, body)						\
static noinline u64 name(struct ground *g)				\
{									\
	u64 begin = rdtsc_ordered();					\
	unsigned int i;							\
									\
	for (i = 0; i < ROUNDS; i++) {					\
		body;							\
		barrier();						\
	}								\
	return rdtsc_ordered() - begin;					\
}

#define PAIR(cpu, size, dir)						\
	dma_unmap_single(g->dev,					\
			 dma_map_single(g->dev, cpu, size, dir), size, dir)

LOOP(loop_empty, (void)0)
LOOP(loop_ten, asm volatile(".rept 10; nop; .endr"))
LOOP(loop_fresh, PAIR(g->block + i * PAGE_SIZE, PAGE_SIZE, DMA_FROM_DEVICE))
LOOP(loop_pair, PAIR(g->page, PAGE_SIZE, DMA_FROM_DEVICE))
LOOP(loop_read, PAIR(g->page, PAGE_SIZE, DMA_TO_DEVICE))
LOOP(loop_sync, dma_sync_single_for_cpu(g->dev, g->mapped, PAGE_SIZE,
					DMA_FROM_DEVICE))
LOOP(loop_large, PAIR(g->large, PAGE_SIZE << LARGE_ORDER, DMA_FROM_DEVICE))
LOOP(loop_list, ({
	dma_map_sg(g->dev, g->list.sgl, ENTRIES, DMA_FROM_DEVICE);
	dma_unmap_sg(g->dev, g->list.sgl, ENTRIES, DMA_FROM_DEVICE);
}))

static const struct {
	const char *name;
	u64 (*run)(struct ground *g);
	bool once; /* the second time it would find the bits of its pages set */
} loops[] = {
	{ "ten", loop_ten },
	{ "pair", loop_pair },
	{ "fresh", loop_fresh, true },
	{ "read", loop_read },
	{ "sync", loop_sync },
	{ "large", loop_large },
	{ "list", loop_list },
};

static u64 count(u64 (*run)(struct ground *g), struct ground *g)
{
	unsigned long flags;
	u64 counted;

	local_irq_save(flags);
	counted = run(g);
	local_irq_restore(flags);
	return counted;
}

static int prepare(struct ground *g)
{
	struct scatterlist *sg;
	unsigned int i;

	g->block = (void *)__get_free_pages(GFP_KERNEL, BLOCK_ORDER);
	g->large = (void *)__get_free_pages(GFP_KERNEL, WORD_ORDER);
	g->page = (void *)__get_free_page(GFP_KERNEL);
	if (!g->block || !g->large || !g->page ||
	    sg_alloc_table(&g->list, ENTRIES, GFP_KERNEL))
		return -ENOMEM;
	for_each_sg(g->list.sgl, sg, ENTRIES, i)
		sg_set_buf(sg, g->block + 2 * i * PAGE_SIZE, PAGE_SIZE);
	g->mapped = dma_map_single(g->dev, g->page, PAGE_SIZE, DMA_FROM_DEVICE);
	return dma_mapping_error(g->dev, g->mapped) ? -ENOMEM : 0;
}

static void clean_up(struct ground *g)
{
	if (g->mapped && !dma_mapping_error(g->dev, g->mapped))
		dma_unmap_single(g->dev, g->mapped, PAGE_SIZE, DMA_FROM_DEVICE);
	sg_free_table(&g->list);
	free_page((unsigned long)g->page);
	free_pages((unsigned long)g->large, WORD_ORDER);
	free_pages((unsigned long)g->block, BLOCK_ORDER);
}

struct counted {
	u64 instructions[RUNS][ARRAY_SIZE(loops)];
};

static int measure(struct device *dev, struct counted *counted)
{
	struct ground grounds[RUNS] = {};
	unsigned int run, i;
	u64 empty;
	int ret = 0;

	/* All of it before any run: no run gets pages that another one had. */
	for (run = 0; run < RUNS && !ret; run++) {
		grounds[run].dev = dev;
		ret = prepare(&grounds[run]);
	}
	for (run = 0; run < RUNS && !ret; run++) {
		empty = count(loop_empty, &grounds[run]);
		for (i = 0; i < ARRAY_SIZE(loops); i++) {
			/* The bits are set, and the code is there. */
			if (!loops[i].once)
				count(loops[i].run, &grounds[run]);
			counted->instructions[run][i] =
				count(loops[i].run, &grounds[run]) - empty;
		}
	}
	for (run = 0; run < RUNS; run++)
		clean_up(&grounds[run]);
	return ret;
}

static int set_measure(const char *value, const struct kernel_param *param)
{
	struct counted counted = {};
	struct device *dev;
	char name[32] = "";
	unsigned int i;
	int ret, at = 0;

	strscpy(name, value, sizeof(name));
	dev = bus_find_device_by_name(&pci_bus_type, NULL, strim(name));
	if (!dev)
		return -ENODEV;
	mutex_lock(&measuring);
	ret = dev->driver ? measure(dev, &counted) : -ENODEV;
	for (i = 0; i < ARRAY_SIZE(loops); i++)
		at += scnprintf(report + at, sizeof(report) - at,
				"%s %llu %llu / %u\n", loops[i].name,
				counted.instructions[0][i],
				counted.instructions[1][i], ROUNDS);
	mutex_unlock(&measuring);
	put_device(dev);
	return ret;
}

static int get_measure(char *buffer, const struct kernel_param *param)
{
	int length;

	mutex_lock(&measuring);
	length = scnprintf(buffer, PAGE_SIZE, "%s", report);
	mutex_unlock(&measuring);
	return length;
}

static const struct kernel_param_ops measure_ops = {
	.set = set_measure,
	.get = get_measure,
};
module_param_cb(measure, &measure_ops, NULL, 0600);
MODULE_PARM_DESC(measure, "write the address of a device that has this driver, then read the counts");

static int dma_cost_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
}

static void dma_cost_remove(struct pci_dev *pdev)
{
}

static const struct pci_device_id dma_cost_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};
MODULE_DEVICE_TABLE(pci, dma_cost_ids);

static struct pci_driver dma_cost_driver = {
	.name = "dma_cost",
	.id_table = dma_cost_ids,
	.probe = dma_cost_probe,
	.remove = dma_cost_remove,
};
module_pci_driver(dma_cost_driver);

MODULE_DESCRIPTION("Counts the instructions of DMA API calls, for the tests of pvdirty");
MODULE_LICENSE("GPL");
