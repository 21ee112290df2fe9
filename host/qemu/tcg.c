/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCG in stock QEMU 7.2 loses CPU writes in a migration: the fast path of the
 * dirty bitmap sync (include/exec/ram_addr.h) clears dirty bits, but leaves
 * TLB entries that let later stores bypass them. The cure is to flush the TLBs
 * of all vCPUs after the bits are cleared and before any page is read, which
 * is where log_global_after_sync is called. Stock TCG already waits for each
 * vCPU there, so this adds no new place to wait.
 */
#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "sysemu/tcg.h"
#include "target-only.h"
#include "vm.h"

static void flush_one(CPUState *cpu, run_on_cpu_data data)
{
    tlb_flush(cpu);
}

static void after_sync(MemoryListener *listener)
{
    CPUState *cpu;

    if (!tcg_enabled()) {
        return;
    }
    CPU_FOREACH(cpu) {
        run_on_cpu(cpu, flush_one, RUN_ON_CPU_NULL);
    }
}

static MemoryListener tcg_listener = {
    .name = "pvdirty-tcg",
    .log_global_after_sync = after_sync,
};

void pvdirty_tcg_init(void)
{
    memory_listener_register(&tcg_listener, &address_space_memory);
}

/*
 * Setting dirty bits also sets TCG's CODE bit, which says "no translated code
 * here": drop such code first, or the guest runs what the page held before.
 */
void pvdirty_tcg_invalidate(MemoryRegion *mr, hwaddr offset, uint64_t len)
{
    if (tcg_enabled()) {
        ram_addr_t start = memory_region_get_ram_addr(mr) + offset;

        tb_invalidate_phys_range(start, start + len);
    }
}
