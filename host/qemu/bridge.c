/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvdirty-bridge: the port that is a conventional PCI bridge. It is QEMU's
 * pci-bridge, with its SHPC, and our capability added: guests see a bridge that
 * they know, and nothing of it is written anew here.
 */
#include "qemu/osdep.h"
#include "hw/pci/shpc.h"
#include "migration/vmstate.h"
#include "port.h"
#include "qemu/module.h"

OBJECT_DECLARE_SIMPLE_TYPE(PVDirtyBridge, PVDIRTY_BRIDGE)

struct PVDirtyBridge {
    /*< private >*/
    PVDirtyStockBridge parent_obj;
    /*< public >*/
    PVDirtyPort port;
};

static bool bridge_has_shpc(void *opaque, int version_id)
{
    return shpc_present(PCI_DEVICE(opaque));
}

static const VMStateDescription bridge_vmstate = {
    .name = TYPE_PVDIRTY_BRIDGE,
    .priority = MIG_PRI_PCI_BUS,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = pvdirty_port_pre_save,
    .post_load = pvdirty_port_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj.parent_obj, PVDirtyStockBridge),
        SHPC_VMSTATE(shpc, PCIDevice, bridge_has_shpc),
        VMSTATE_PVDIRTY_PORT(PVDirtyBridge),
        VMSTATE_END_OF_LIST()
    }
};

static Property bridge_props[] = {
    PVDIRTY_PORT_PROPS(PVDirtyBridge),
    DEFINE_PROP_END_OF_LIST()
};

static void bridge_class_init(ObjectClass *oc, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);

    dc->desc = "PCI bridge through which the guest reports DMA writes";
    dc->vmsd = &bridge_vmstate;
    device_class_set_props(dc, bridge_props);
    pvdirty_port_class_init(oc, offsetof(PVDirtyBridge, port));
}

static const TypeInfo bridge_info = {
    .name = TYPE_PVDIRTY_BRIDGE,
    .parent = TYPE_PCI_BRIDGE_DEV,
    .instance_size = sizeof(PVDirtyBridge),
    .instance_finalize = pvdirty_port_finalize,
    .class_init = bridge_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_PVDIRTY_PORT },
        { }
    }
};

void pvdirty_bridge_register(void)
{
    type_register_static(&bridge_info);
}
