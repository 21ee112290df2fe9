/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What makes a bridge of QEMU's a port. A kind of port is a subclass of such a
 * bridge with a PVDirtyPort called "port" in its struct; port.c does the rest.
 */
#ifndef PVDIRTY_QEMU_PORT_H
#define PVDIRTY_QEMU_PORT_H

#include "hw/pci/pci_bridge.h"
#include "hw/qdev-properties.h"
#include "qom/object.h"
#include "vm.h"

#define TYPE_PVDIRTY_ROOT_PORT "pvdirty-root-port"
#define TYPE_PVDIRTY_BRIDGE "pvdirty-bridge"

/* An interface: every kind has it. */
#define TYPE_PVDIRTY_PORT "pvdirty-port"

typedef struct PVDirtyPortClass {
    InterfaceClass parent_class;
    size_t offset; /* of the PVDirtyPort in the device */
    /* Capabilities that the bridge lacks; or NULL. */
    bool (*add_capabilities)(PCIDevice *d, Error **errp);
    /* What the bridge does that port.c extends. */
    DeviceRealize parent_realize;
    DeviceReset parent_reset;
    PCIConfigWriteFunc *parent_config_write;
    PCIUnregisterFunc *parent_exit;
} PVDirtyPortClass;

DECLARE_CLASS_CHECKERS(PVDirtyPortClass, PVDIRTY_PORT, TYPE_PVDIRTY_PORT)

/* Properties of a port in a device of this type. */
#define PVDIRTY_PORT_PROPS(type)                                              \
    DEFINE_PROP_BOOL("touch", type, port.touch, true),                        \
    DEFINE_PROP_BOOL("bitmap", type, port.bitmap, true),                      \
    DEFINE_PROP_BOOL("inflight", type, port.inflight, true),                  \
    DEFINE_PROP_BOOL("x-test-untracked", type, port.test_untracked, false),   \
    DEFINE_PROP_BOOL("x-test-blind", type, port.test_blind, false),           \
    DEFINE_PROP_UINT32("x-test-drop-marks", type, port.test_drop_marks, 0),   \
    DEFINE_PROP_BOOL("x-test-drop-in-flight", type, port.test_drop_in_flight, \
                     false)

/* Its part of the device's vmstate, with pre_save and post_load. */
#define VMSTATE_PVDIRTY_PORT(type) \
    VMSTATE_UINT8_ARRAY(port.state, type, PVD_PORT_STATE_LEN)
int pvdirty_port_pre_save(void *device);
int pvdirty_port_post_load(void *device, int version_id);

/* For the kind's class_init, when all else is set; and its finalize. */
void pvdirty_port_class_init(ObjectClass *oc, size_t offset);
void pvdirty_port_finalize(Object *device);

/* root-port.c */
void pvdirty_root_port_register(void);

/* bridge.c */
void pvdirty_bridge_register(void);

#define TYPE_PCI_BRIDGE_DEV "pci-bridge"

/*
 * An instance of pci-bridge, whose struct QEMU keeps to itself. Only its size
 * counts: plugin.c holds it against QEMU's, as all others.
 */
typedef struct PVDirtyStockBridge {
    PCIBridge parent_obj;
    MemoryRegion shpc_bar;
    uint8_t chassis_nr;
    uint32_t flags;
    OnOffAuto msi;
    PCIResReserve res_reserve;
} PVDirtyStockBridge;

#endif /* PVDIRTY_QEMU_PORT_H */
