/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test only: makes the emulated devices below a port do DMA that no dirty log
 * sees, as a pass-through device does.
 *
 * They get an address space in which guest RAM appears as other RAM blocks,
 * over a second mapping of the same memory: QEMU marks those blocks dirty, and
 * the guest's own page looks clean. In front stands an IOMMU region whose
 * translations are the identity, or those of a vIOMMU that the guest has;
 * through it every page that is handed to a device for writing passes by, for
 * the oracle and for TCG, whose translated code such a write would not
 * invalidate.
 *
 * Each shadow of a stretch of RAM is an object with a mapping of its own.
 * address_space_unmap() finds the region by host address, so no two may share
 * one; and flat views and mapped DMA hold references to the region's owner, so
 * the mapping goes when the last of them has gone.
 */
#include "qemu/osdep.h"
#include <sys/mman.h>
#include "exec/address-spaces.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_bus.h"
#include "oracle.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "target-only.h"
#include "untracked.h"
#include "vm.h"

#define TYPE_PVDIRTY_SHADOW "pvdirty-shadow"
OBJECT_DECLARE_SIMPLE_TYPE(PVDirtyShadow, PVDIRTY_SHADOW)

/* A stretch of guest RAM as devices see it. */
struct PVDirtyShadow {
    Object parent_obj;
    PVDirtyRam ram; /* what it shadows; no reference: only compared */
    MemoryRegion mr;
    void *map;      /* its mapping, of whole pages of the RAM's size */
    size_t map_len;
    bool seen;
    QLIST_ENTRY(PVDirtyShadow) next;
};

#define TYPE_PVDIRTY_IOMMU "pvdirty-iommu-memory-region"

struct PVDirtyUntracked {
    MemoryRegion root;   /* shadows over an alias of all else */
    MemoryRegion system; /* the alias: MMIO of other devices, ROM */
    AddressSpace as;
    IOMMUMemoryRegion iommu;
    AddressSpace iommu_as;
    AddressSpace *viommu; /* what the guest's IOMMU gives the device, or NULL */
    QLIST_HEAD(, PVDirtyShadow) shadows;
    bool live;
    bool updating;
};

/* What was finished before the page is handed out again. */
static void take_written_page(PVDirtyUntracked *u, hwaddr gpa)
{
    PVDirtyShadow *s;

    QLIST_FOREACH(s, &u->shadows, next) {
        if (gpa - s->ram.gpa < s->ram.size) {
            if (pvdirty_oracle_was_handed(gpa) &&
                pvdirty_ram_take_dirty_page(&s->mr, gpa - s->ram.gpa,
                                            DIRTY_MEMORY_VGA)) {
                pvdirty_oracle_written(gpa);
            }
            return;
        }
    }
}

static IOMMUTLBEntry translate(IOMMUMemoryRegion *iommu, hwaddr addr,
                               IOMMUAccessFlags flag, int iommu_idx)
{
    PVDirtyUntracked *u = container_of(iommu, PVDirtyUntracked, iommu);
    hwaddr iova = addr & ~(hwaddr)(PVDIRTY_PAGE_SIZE - 1), page = iova;

    if (u->viommu) {
        IOMMUTLBEntry e = address_space_get_iotlb_entry(u->viommu, iova,
                                                        flag != IOMMU_RO,
                                                        MEMTXATTRS_UNSPECIFIED);

        if (e.perm == IOMMU_NONE) {
            return e;
        }
        page = e.translated_addr | (iova & e.addr_mask);
    }
    if (flag != IOMMU_RO) {
        const PVDirtyRam *r = pvdirty_vm_ram_at(page);

        if (r) {
            pvdirty_tcg_invalidate(r->mr, r->offset + (page - r->gpa),
                                   PVDIRTY_PAGE_SIZE);
            take_written_page(u, page);
            pvdirty_oracle_handed(page);
        }
    }
    return (IOMMUTLBEntry) {
        .target_as = &u->as,
        .iova = iova,
        .translated_addr = page,
        .addr_mask = PVDIRTY_PAGE_SIZE - 1,
        .perm = IOMMU_RW,
    };
}

/* The address space that a vIOMMU would give the function without us. */
static AddressSpace *space_above(PVDirtyPort *p, PCIBus *bus, int devfn)
{
    PCIBus *up = pci_get_bus(p->pci);

    while (up && !up->iommu_fn) {
        up = up->parent_dev ? pci_get_bus(up->parent_dev) : NULL;
    }
    return up ? up->iommu_fn(bus, up->iommu_opaque, devfn)
              : &address_space_memory;
}

static AddressSpace *device_address_space(PCIBus *bus, void *opaque, int devfn)
{
    PVDirtyPort *p = opaque;
    PVDirtyUntracked *u = p->untracked;
    AddressSpace *above = space_above(p, bus, devfn);

    if (above == &address_space_memory) {
        return &u->iommu_as;
    }
    /* There is one IOMMU region: of the first function behind a vIOMMU. */
    if (u->viommu && u->viommu != above) {
        warn_report_once("pvdirty: x-test-untracked=on serves one function "
                         "behind a vIOMMU: QEMU tracks the others");
        return above;
    }
    u->viommu = above;
    return &u->iommu_as;
}

/* QEMU's dirty bits of the shadow, which it sets when a write is finished. */
static DirtyBitmapSnapshot *take_bits(PVDirtyShadow *s)
{
    return cpu_physical_memory_snapshot_and_clear_dirty(&s->mr, 0, s->ram.size,
                                                        DIRTY_MEMORY_VGA);
}

static void take_written(PVDirtyShadow *s)
{
    g_autofree DirtyBitmapSnapshot *bits = take_bits(s);

    for (hwaddr at = 0; at < s->ram.size; at += PVDIRTY_PAGE_SIZE) {
        if (pvdirty_oracle_was_handed(s->ram.gpa + at) &&
            memory_region_snapshot_get_dirty(&s->mr, bits, at,
                                             PVDIRTY_PAGE_SIZE)) {
            pvdirty_oracle_written(s->ram.gpa + at);
        }
    }
}

static PVDirtyShadow *shadow_new(PVDirtyPort *p, const PVDirtyRam *r)
{
    PVDirtyUntracked *u = p->untracked;
    PVDirtyShadow *s;
    g_autofree char *name = NULL;
    RAMBlock *rb = r->mr->ram_block;
    int fd = qemu_ram_get_fd(rb);
    uint64_t start = QEMU_ALIGN_DOWN(r->offset, qemu_ram_pagesize(rb));
    size_t len = QEMU_ALIGN_UP(r->offset + r->size, qemu_ram_pagesize(rb)) -
                 start;
    void *map;

    if (fd < 0 || !qemu_ram_is_shared(rb)) {
        return NULL; /* stays visible through the alias, and tracked */
    }
    map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
    if (map == MAP_FAILED) {
        error_report("pvdirty: cannot map guest RAM at 0x%" HWADDR_PRIx
                     " a second time: %s", r->gpa, strerror(errno));
        pvdirty_oracle_spoil();
        return NULL;
    }
    s = PVDIRTY_SHADOW(object_new(TYPE_PVDIRTY_SHADOW));
    s->ram = *r;
    s->map = map;
    s->map_len = len;
    name = g_strdup_printf("pvdirty-shadow-%" HWADDR_PRIx, r->gpa);
    memory_region_init_ram_ptr(&s->mr, OBJECT(s), name, r->size,
                               map + (r->offset - start));
    memory_region_set_log(&s->mr, true, DIRTY_MEMORY_VGA);
    g_free(take_bits(s)); /* a new block is all dirty */
    memory_region_add_subregion_overlap(&u->root, r->gpa, &s->mr, 1);
    QLIST_INSERT_HEAD(&u->shadows, s, next);
    return s;
}

static void shadow_remove(PVDirtyUntracked *u, PVDirtyShadow *s)
{
    take_written(s);
    memory_region_del_subregion(&u->root, &s->mr);
    QLIST_REMOVE(s, next);
    object_unref(OBJECT(s));
}

static void shadow_finalize(Object *o)
{
    PVDirtyShadow *s = PVDIRTY_SHADOW(o);

    if (s->map) {
        munmap(s->map, s->map_len);
    }
}

static PVDirtyShadow *shadow_of(PVDirtyUntracked *u, const PVDirtyRam *r)
{
    PVDirtyShadow *s;

    QLIST_FOREACH(s, &u->shadows, next) {
        if (s->ram.gpa == r->gpa && s->ram.size == r->size &&
            s->ram.mr == r->mr && s->ram.offset == r->offset) {
            return s;
        }
    }
    return NULL;
}

void pvdirty_untracked_update(PVDirtyPort *p)
{
    PVDirtyUntracked *u = p->untracked;
    PVDirtyShadow *s, *tmp;

    /* Our own changes to the map come back here as a nested commit. */
    if (!u || !u->live || u->updating) {
        return;
    }
    u->updating = true;
    memory_region_transaction_begin();
    QLIST_FOREACH(s, &u->shadows, next) {
        s->seen = false;
    }
    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);

        s = shadow_of(u, r);
        if (!s) {
            s = shadow_new(p, r);
        }
        if (s) {
            s->seen = true;
        }
    }
    QLIST_FOREACH_SAFE(s, &u->shadows, next, tmp) {
        if (!s->seen) {
            shadow_remove(u, s);
        }
    }
    memory_region_transaction_commit();
    u->updating = false;
    pvdirty_oracle_resize();
}

void pvdirty_untracked_take_written(PVDirtyPort *p)
{
    PVDirtyShadow *s;

    if (p->untracked && p->untracked->live) {
        QLIST_FOREACH(s, &p->untracked->shadows, next) {
            take_written(s);
        }
    }
}

bool pvdirty_untracked_realize(PVDirtyPort *p, Error **errp)
{
    RAMBlock *ram = current_machine->ram ? current_machine->ram->ram_block
                                         : NULL;
    PVDirtyUntracked *u;

    if (!ram || qemu_ram_get_fd(ram) < 0 || !qemu_ram_is_shared(ram)) {
        error_setg(errp, "pvdirty: x-test-untracked=on needs guest RAM "
                   "in a shared file: add -object memory-backend-memfd,"
                   "id=m0,size=SIZE,share=on -machine memory-backend=m0");
        return false;
    }
    u = p->untracked = g_new0(PVDirtyUntracked, 1);
    QLIST_INIT(&u->shadows);
    memory_region_init(&u->root, OBJECT(p->pci), "pvdirty-untracked",
                       UINT64_MAX);
    memory_region_init_alias(&u->system, OBJECT(p->pci), "pvdirty-system",
                             get_system_memory(), 0, UINT64_MAX);
    memory_region_add_subregion_overlap(&u->root, 0, &u->system, 0);
    address_space_init(&u->as, &u->root, "pvdirty-untracked");
    memory_region_init_iommu(&u->iommu, sizeof(u->iommu), TYPE_PVDIRTY_IOMMU,
                             OBJECT(p->pci), "pvdirty-iommu", UINT64_MAX);
    address_space_init(&u->iommu_as, MEMORY_REGION(&u->iommu),
                       "pvdirty-iommu");
    u->live = true;
    pvdirty_oracle_enable();
    pvdirty_untracked_update(p);
    if (QLIST_EMPTY(&u->shadows)) {
        error_setg(errp, "pvdirty: cannot map guest RAM a second time");
        pvdirty_untracked_exit(p);
        return false;
    }
    pci_setup_iommu(pci_bridge_get_sec_bus(PCI_BRIDGE(p->pci)),
                    device_address_space, p);
    return true;
}

void pvdirty_untracked_exit(PVDirtyPort *p)
{
    PVDirtyUntracked *u = p->untracked;
    PVDirtyShadow *s, *tmp;

    if (!u || !u->live) {
        return;
    }
    u->live = false;
    memory_region_transaction_begin();
    QLIST_FOREACH_SAFE(s, &u->shadows, next, tmp) {
        shadow_remove(u, s);
    }
    /* Region and container have one owner: the alias would keep it alive. */
    memory_region_del_subregion(&u->root, &u->system);
    memory_region_transaction_commit();
    address_space_destroy(&u->iommu_as);
    address_space_destroy(&u->as);
}

void pvdirty_untracked_finalize(PVDirtyPort *p)
{
    g_free(p->untracked); /* its regions were children of the port */
}

static void iommu_class_init(ObjectClass *oc, void *data)
{
    IOMMU_MEMORY_REGION_CLASS(oc)->translate = translate;
}

static const TypeInfo iommu_info = {
    .name = TYPE_PVDIRTY_IOMMU,
    .parent = TYPE_IOMMU_MEMORY_REGION,
    .class_init = iommu_class_init,
};

static const TypeInfo shadow_info = {
    .name = TYPE_PVDIRTY_SHADOW,
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(PVDirtyShadow),
    .instance_finalize = shadow_finalize,
};

void pvdirty_untracked_register(void)
{
    type_register_static(&iommu_info);
    type_register_static(&shadow_info);
}
