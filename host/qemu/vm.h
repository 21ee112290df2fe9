/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plug-in's view of the VM: one domain of libpvdirty, its ports, guest RAM
 * and the migration around it. Everything runs under the BQL unless said.
 */
#ifndef PVDIRTY_QEMU_VM_H
#define PVDIRTY_QEMU_VM_H

#include "exec/memory.h"
#include "hw/pci/pci.h"
#include "pvdirty/pvdirty.h"
#include "pvdirty_abi.h"
#include "qom/object.h"

typedef struct PVDirtyUntracked PVDirtyUntracked;

/* A port: what devices of each kind have in them, see port.h. */
typedef struct PVDirtyPort {
    PCIDevice *pci;               /* the device it is in */
    bool touch, bitmap, inflight; /* feature offers */
    bool test_untracked;          /* x-test-untracked */
    bool test_blind;              /* x-test-blind */
    uint32_t test_drop_marks;     /* x-test-drop-marks */
    bool test_drop_in_flight;     /* x-test-drop-in-flight */

    struct pvd_port *port;        /* NULL until realized */
    uint8_t cap;                  /* config offset of our capability */
    uint8_t state[PVD_PORT_STATE_LEN];
    PVDirtyUntracked *untracked;  /* NULL without x-test-untracked */
    QTAILQ_ENTRY(PVDirtyPort) next;
} PVDirtyPort;

/* A stretch of guest RAM: writable, migratable, mapped at gpa. */
typedef struct PVDirtyRam {
    hwaddr gpa;
    uint64_t size;
    MemoryRegion *mr; /* referenced */
    hwaddr offset;    /* in mr */
} PVDirtyRam;

typedef struct PVDirtyVM {
    struct pvd_domain *domain;
    QTAILQ_HEAD(, PVDirtyPort) ports;
    struct pvd_policy policy; /* .blind is atomic: some port is x-test-blind */
    GArray *ram;             /* PVDirtyRam, ascending by gpa */
    uint64_t last_pass_pages;
    uint64_t answered_all_dirty;
} PVDirtyVM;

/* The one VM of this process. */
extern PVDirtyVM pvdirty_vm;

/* Registers the listeners; before any device is created. */
void pvdirty_vm_init(const struct pvd_policy *policy);

/* A port comes and goes; @p->port is set and cleared here. */
void pvdirty_vm_add_port(PVDirtyPort *p);
void pvdirty_vm_remove_port(PVDirtyPort *p);

/* Looks at completeness again: the capability, the blocker. */
void pvdirty_vm_refresh(void);

/* The stretch of RAM that holds gpa, or NULL. */
const PVDirtyRam *pvdirty_vm_ram_at(hwaddr gpa);

/*
 * dirty.c: guest RAM was written behind QEMU's back; dirty bitmaps, and TCG's
 * code.
 */
void pvdirty_ram_set_dirty(const PVDirtyRam *ram, hwaddr gpa, uint64_t len);

/*
 * The same for those of 64 pages whose bit is set; false if that must be done
 * by ranges.
 */
bool pvdirty_ram_set_dirty_mask(const PVDirtyRam *ram, hwaddr gpa,
                                uint64_t mask);

/*
 * Takes a page's bit, for a client that no vCPU's TLB has anything to do with.
 */
bool pvdirty_ram_take_dirty_page(MemoryRegion *mr, hwaddr offset, int client);

/*
 * All migratable RAM, also what is not mapped just now, or only for reading; not
 * what virtio-mem has unplugged.
 */
void pvdirty_ram_set_all_dirty(void);

/* Bytes of guest RAM in pvdirty_vm.ram. */
uint64_t pvdirty_vm_ram_bytes(void);

/* devices.c: covered devices. */
void pvdirty_devices_init(void);
/* A port goes, and what is below it. */
void pvdirty_devices_forget(PVDirtyPort *p);
/*
 * A migration begins: what it waits for may be unplugged meanwhile, as stock
 * QEMU does not allow. Or it is over: nothing is waited for any more.
 */
void pvdirty_devices_let_go(bool migrating);

/* operator.c: /pvdirty, what an operator sees and sets. */
void pvdirty_operator_init(void);
/* Its "devices" and "hold-for" are devices.c's. */
void pvdirty_devices_class_init(ObjectClass *oc);

/* migrate.c: the migration stream, refusals, pending bytes. */
void pvdirty_migrate_init(void);
void pvdirty_migrate_refresh(void);
/* The final pass, and the migration itself asks: nobody else decides then. */
bool pvdirty_migrate_final(void);
/* After the harvest of the final pass: must it send all RAM? */
bool pvdirty_migrate_all_dirty(void);
int pvdirty_migrate_pre_save(PVDirtyPort *p);
void pvdirty_migrate_set_ram_bytes(uint64_t bytes);
/* The dirty log has been read, and taken over by whoever asked. */
void pvdirty_migrate_synced(void);

/* How far the migration is from its end, as of its last round. */
typedef struct PVDirtyRest {
    bool holding;   /* it waits for a device to go */
    bool converged; /* without waiting, it would end */
    uint64_t bytes; /* dirty and in flight at the last sync */
    uint64_t threshold; /* bytes that the VM may be stopped for */
} PVDirtyRest;
PVDirtyRest pvdirty_migrate_rest(void);

/* tcg.c: what stock QEMU 7.2 needs under TCG. */
void pvdirty_tcg_init(void);
void pvdirty_tcg_invalidate(MemoryRegion *mr, hwaddr offset, uint64_t len);

/* port.c: the kinds of ports. */
void pvdirty_port_register(void);
/* The port that a device is, or NULL. */
PVDirtyPort *pvdirty_port(PCIDevice *d);
/* Its id, or what stands for it in messages. */
const char *pvdirty_port_name(const PVDirtyPort *p);

/* stats.c: QOM properties of a port. */
void pvdirty_stats_class_init(ObjectClass *oc);

/* dump.c: x-test-dump. */
bool pvdirty_dump(const char *dir, Error **errp);

#endif /* PVDIRTY_QEMU_VM_H */
