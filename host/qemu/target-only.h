/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Functions that the binary exports, but that QEMU 7.2 declares in headers
 * which only code compiled for one target can include.
 */
#ifndef PVDIRTY_QEMU_TARGET_ONLY_H
#define PVDIRTY_QEMU_TARGET_ONLY_H

#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"

/* exec/ram_addr.h; what calc-dirty-rate counts; under the BQL */
extern uint64_t total_dirty_pages;
/* exec/exec-all.h */
void tlb_flush(CPUState *cpu);
/* exec/translate-all.h; end is not included */
void tb_invalidate_phys_range(ram_addr_t start, ram_addr_t end);
/* exec/ram_addr.h; the caller frees what it returns */
DirtyBitmapSnapshot *cpu_physical_memory_snapshot_and_clear_dirty(
    MemoryRegion *mr, hwaddr offset, hwaddr length, unsigned client);

#endif /* PVDIRTY_QEMU_TARGET_ONLY_H */
