/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pvdirty-root-port: the port that is a PCIe root port. */
#include "qemu/osdep.h"
#include "hw/pci/msi.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pcie_port.h"
#include "migration/vmstate.h"
#include "port.h"
#include "qemu/module.h"

#define AER_OFFSET 0x100
#define ACS_OFFSET (AER_OFFSET + PCI_ERR_SIZEOF)

OBJECT_DECLARE_SIMPLE_TYPE(PVDirtyRootPort, PVDIRTY_ROOT_PORT)

struct PVDirtyRootPort {
    /*< private >*/
    PCIESlot parent_obj;
    /*< public >*/
    PCIResReserve res_reserve;
    PVDirtyPort port;
};

static uint8_t root_port_aer_vector(const PCIDevice *d)
{
    return 0;
}

/* MSI, not MSI-X: the stock port's MSI-X takes one of a bridge's two BARs. */
static int root_port_interrupts_init(PCIDevice *d, Error **errp)
{
    return msi_init(d, 0, 1, true, true, errp);
}

static void root_port_interrupts_uninit(PCIDevice *d)
{
    msi_uninit(d);
}

static bool root_port_add_capabilities(PCIDevice *d, Error **errp)
{
    PVDirtyRootPort *rp = PVDIRTY_ROOT_PORT(d);

    return pci_bridge_qemu_reserve_cap_init(d, 0, rp->res_reserve, errp) >= 0;
}

static int root_port_post_load(void *opaque, int version_id)
{
    int ret = pcie_cap_slot_post_load(opaque, version_id);

    return ret < 0 ? ret : pvdirty_port_post_load(opaque, version_id);
}

static const VMStateDescription root_port_vmstate = {
    .name = TYPE_PVDIRTY_ROOT_PORT,
    .priority = MIG_PRI_PCI_BUS,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = pvdirty_port_pre_save,
    .post_load = root_port_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj.parent_obj.parent_obj, PCIESlot),
        VMSTATE_STRUCT(parent_obj.parent_obj.parent_obj.exp.aer_log, PCIESlot,
                       0, vmstate_pcie_aer_log, PCIEAERLog),
        VMSTATE_PVDIRTY_PORT(PVDirtyRootPort),
        VMSTATE_END_OF_LIST()
    }
};

static Property root_port_props[] = {
    DEFINE_PROP_UINT32("bus-reserve", PVDirtyRootPort, res_reserve.bus, -1),
    DEFINE_PROP_SIZE("io-reserve", PVDirtyRootPort, res_reserve.io, -1),
    DEFINE_PROP_SIZE("mem-reserve", PVDirtyRootPort, res_reserve.mem_non_pref,
                     -1),
    DEFINE_PROP_SIZE("pref32-reserve", PVDirtyRootPort,
                     res_reserve.mem_pref_32, -1),
    DEFINE_PROP_SIZE("pref64-reserve", PVDirtyRootPort,
                     res_reserve.mem_pref_64, -1),
    PVDIRTY_PORT_PROPS(PVDirtyRootPort),
    DEFINE_PROP_END_OF_LIST()
};

static void root_port_class_init(ObjectClass *oc, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(oc);
    PCIERootPortClass *rpc = PCIE_ROOT_PORT_CLASS(oc);

    k->vendor_id = PCI_VENDOR_ID_REDHAT;
    k->device_id = PCI_DEVICE_ID_REDHAT_PCIE_RP;
    dc->desc = "PCIe root port through which the guest reports DMA writes";
    dc->vmsd = &root_port_vmstate;
    device_class_set_props(dc, root_port_props);
    rpc->aer_vector = root_port_aer_vector;
    rpc->interrupts_init = root_port_interrupts_init;
    rpc->interrupts_uninit = root_port_interrupts_uninit;
    rpc->aer_offset = AER_OFFSET;
    rpc->acs_offset = ACS_OFFSET;
    PVDIRTY_PORT_CLASS(oc)->add_capabilities = root_port_add_capabilities;
    pvdirty_port_class_init(oc, offsetof(PVDirtyRootPort, port));
}

static const TypeInfo root_port_info = {
    .name = TYPE_PVDIRTY_ROOT_PORT,
    .parent = TYPE_PCIE_ROOT_PORT,
    .instance_size = sizeof(PVDirtyRootPort),
    .instance_finalize = pvdirty_port_finalize,
    .class_init = root_port_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_PVDIRTY_PORT },
        { }
    }
};

void pvdirty_root_port_register(void)
{
    type_register_static(&root_port_info);
}
