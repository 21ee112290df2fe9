/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Setting QEMU's dirty bits for what the guest reported. QEMU's own functions
 * take ranges, and cost as much for one page as for thousands; a guest that
 * marks every other page of a TiB would keep the BQL for a minute. So a mask
 * of 64 pages goes into the bitmap as the word that it is, like KVM's own
 * dirty log does.
 */
#include "qemu/osdep.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "exec/ramlist.h"
#include "exec/target_page.h"
#include "sysemu/xen.h"
#include "qemu/rcu.h"
#include "sysemu/tcg.h"
#include "target-only.h"
#include "vm.h"

QEMU_BUILD_BUG_ON(sizeof(unsigned long) * BITS_PER_BYTE != 64);

void pvdirty_ram_set_dirty(const PVDirtyRam *ram, hwaddr gpa, uint64_t len)
{
    hwaddr offset = ram->offset + (gpa - ram->gpa);

    pvdirty_tcg_invalidate(ram->mr, offset, len);
    memory_region_set_dirty(ram->mr, offset, len);
    if (global_dirty_tracking & GLOBAL_DIRTY_DIRTY_RATE) {
        /* What devices write is part of the rate, as KVM's own log would be. */
        total_dirty_pages += len >> PVDIRTY_PAGE_SHIFT;
    }
}

/* The word of a dirty bitmap that has this page. Under RCU. */
static unsigned long *dirty_word(int client, ram_addr_t page)
{
    DirtyMemoryBlocks *b = qatomic_rcu_read(&ram_list.dirty_memory[client]);

    return b->blocks[page / DIRTY_MEMORY_BLOCK_SIZE] +
           page % DIRTY_MEMORY_BLOCK_SIZE / 64;
}

bool pvdirty_ram_set_dirty_mask(const PVDirtyRam *ram, hwaddr gpa,
                                uint64_t mask)
{
    ram_addr_t page = (memory_region_get_ram_addr(ram->mr) + ram->offset +
                       (gpa - ram->gpa)) >> PVDIRTY_PAGE_SHIFT;

    /* Only the migration wants to know: no display, no rate measurement. */
    if (page % 64 || global_dirty_tracking != GLOBAL_DIRTY_MIGRATION ||
        ram->mr->dirty_log_mask || xen_enabled() ||
        !qemu_ram_is_migratable(ram->mr->ram_block) ||
        qemu_target_page_bits() != PVDIRTY_PAGE_SHIFT) {
        return false;
    }
    RCU_READ_LOCK_GUARD();
    /* A bit that is 0 stands for translated code, which must be dropped. */
    if (tcg_enabled() &&
        (mask & ~qatomic_read(dirty_word(DIRTY_MEMORY_CODE, page)))) {
        return false;
    }
    qatomic_or(dirty_word(DIRTY_MEMORY_MIGRATION, page), mask);
    return true;
}

bool pvdirty_ram_take_dirty_page(MemoryRegion *mr, hwaddr offset, int client)
{
    ram_addr_t page = (memory_region_get_ram_addr(mr) + offset) >>
                      PVDIRTY_PAGE_SHIFT;
    unsigned long mask = 1UL << (page % 64);

    RCU_READ_LOCK_GUARD();
    return qatomic_fetch_and(dirty_word(client, page), ~mask) & mask;
}

static int dirty_section(MemoryRegionSection *s, void *opaque)
{
    uint64_t len = int128_get64(s->size);

    pvdirty_tcg_invalidate(s->mr, s->offset_within_region, len);
    memory_region_set_dirty(s->mr, s->offset_within_region, len);
    return 0;
}

static int dirty_block(RAMBlock *rb, void *opaque)
{
    MemoryRegionSection s = {
        .size = int128_make64(qemu_ram_get_used_length(rb)),
    };

    if (!qemu_ram_is_migratable(rb)) {
        return 0;
    }
    s.mr = memory_region_from_host(qemu_ram_get_host_addr(rb),
                                   &s.offset_within_region);
    if (!s.mr) {
        return 0;
    }
    if (memory_region_has_ram_discard_manager(s.mr)) {
        /* virtio-mem: what is unplugged has no content, and takes no memory. */
        return ram_discard_manager_replay_populated(
            memory_region_get_ram_discard_manager(s.mr), &s, dirty_section,
            NULL);
    }
    return dirty_section(&s, NULL);
}

void pvdirty_ram_set_all_dirty(void)
{
    qemu_ram_foreach_block(dirty_block, NULL);
}
