/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The hook in the DMA core: kernel/dma/mapping.c calls these where hooks.cocci
 * has placed the calls. Each costs a no-op while no device is covered, and
 * nothing at all without CONFIG_PVDIRTY=y.
 *
 * A mapping is counted when it has succeeded, before the driver gets its
 * address; it is marked and counted out while the address is still valid. Any
 * context.
 */
#ifndef PVDIRTY_HOOKS_H
#define PVDIRTY_HOOKS_H

#include <linux/dma-direction.h>
#include <linux/jump_label.h>
#include <linux/types.h>
#include <asm/asm.h>

struct device;
struct scatterlist;

#if IS_BUILTIN(CONFIG_PVDIRTY)
/* On while a device is covered; see pvd_hooks_update(). */
DECLARE_STATIC_KEY_FALSE(pvdirty_key);
#define pvdirty_on() static_branch_unlikely(&pvdirty_key)
#if !__has_attribute(__no_caller_saved_registers__)
#error "CONFIG_PVDIRTY=y needs a compiler with no_caller_saved_registers"
#endif
#else
#define pvdirty_on() false
#endif

/* Called when the DMA core has done its work, and needs few registers more. */
void __pvdirty_map(struct device *dev, dma_addr_t addr, size_t size,
		   enum dma_data_direction dir);
void __pvdirty_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
		      enum dma_data_direction dir);

/*
 * Called before. These save every register that they use, and the compiler does
 * not see that they are called. So the functions of the DMA core keep hardly any
 * register for our sake: while no device is covered it is little more than the
 * no-op. They are not traced, since tracing keeps fewer registers.
 */
notrace __no_caller_saved_registers
void __pvdirty_unmap(struct device *dev, dma_addr_t addr, size_t size,
		     enum dma_data_direction dir);
notrace __no_caller_saved_registers
void __pvdirty_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
			enum dma_data_direction dir);
notrace __no_caller_saved_registers
void __pvdirty_sync(struct device *dev, dma_addr_t addr, size_t size,
		    enum dma_data_direction dir);
notrace __no_caller_saved_registers
void __pvdirty_sync_sg(struct device *dev, struct scatterlist *sgl, int nents,
		       enum dma_data_direction dir);

bool __pvdirty_wants_sync(struct device *dev);

#define pvdirty_call(hook, a, b, c, d) ({				\
	asm volatile("call " #hook					\
		     : ASM_CALL_CONSTRAINT				\
		     : "D" (a), "S" (b), "d" (c), "c" (d)		\
		     : "memory", "cc");					\
})

/**
 * pvdirty_map() - a mapping was made, or memory allocated.
 * @dev: the device it is for
 * @addr: its DMA address, or DMA_MAPPING_ERROR
 * @size: its size in bytes
 * @dir: whether the device may write it
 */
static __always_inline void pvdirty_map(struct device *dev, dma_addr_t addr,
					size_t size,
					enum dma_data_direction dir)
{
	if (pvdirty_on())
		__pvdirty_map(dev, addr, size, dir);
}

/**
 * pvdirty_map_sg() - a list was mapped, or memory allocated as a list.
 * @dev: the device it is for
 * @sgl: the list
 * @nents: how many entries have a DMA address
 * @dir: whether the device may write it
 */
static __always_inline void pvdirty_map_sg(struct device *dev,
					   struct scatterlist *sgl, int nents,
					   enum dma_data_direction dir)
{
	if (pvdirty_on())
		__pvdirty_map_sg(dev, sgl, nents, dir);
}

/* A mapping of pvdirty_map() is about to be given back. */
static __always_inline void pvdirty_unmap(struct device *dev, dma_addr_t addr,
					  size_t size,
					  enum dma_data_direction dir)
{
	if (pvdirty_on())
		pvdirty_call(__pvdirty_unmap, dev, addr, size, dir);
}

/*
 * A list of pvdirty_map_sg() is about to be given back. @nents is what the
 * driver had it mapped with; entries past those that were used have no length.
 */
static __always_inline void pvdirty_unmap_sg(struct device *dev,
					     struct scatterlist *sgl, int nents,
					     enum dma_data_direction dir)
{
	if (pvdirty_on())
		pvdirty_call(__pvdirty_unmap_sg, dev, sgl, nents, dir);
}

/* The driver is about to read from a mapping that stays. */
static __always_inline void pvdirty_sync(struct device *dev, dma_addr_t addr,
					 size_t size,
					 enum dma_data_direction dir)
{
	if (pvdirty_on())
		pvdirty_call(__pvdirty_sync, dev, addr, size, dir);
}

/* The same for a list; @nents as in pvdirty_unmap_sg(). */
static __always_inline void pvdirty_sync_sg(struct device *dev,
					    struct scatterlist *sgl, int nents,
					    enum dma_data_direction dir)
{
	if (pvdirty_on())
		pvdirty_call(__pvdirty_sync_sg, dev, sgl, nents, dir);
}

/**
 * pvdirty_wants_sync() - must every sync call for the CPU come through?
 * @dev: a device
 *
 * Decided before a driver probes the device, and the same until it is unbound.
 * Not so when pages are counted in flight: these are reported without it.
 */
static __always_inline bool pvdirty_wants_sync(struct device *dev)
{
	return pvdirty_on() && __pvdirty_wants_sync(dev);
}

#endif /* PVDIRTY_HOOKS_H */
