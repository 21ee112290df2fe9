/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvdirty-root-port: a PCIe root port whose vendor capability tells the guest
 * that the host wants to know what the devices below write by DMA. The
 * capability's logic is libpvdirty's; here are QEMU's ends of it.
 */
#include "qemu/osdep.h"
#include "hw/pci/msi.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pcie_port.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "untracked.h"
#include "vm.h"

#define AER_OFFSET 0x100
#define ACS_OFFSET (AER_OFFSET + PCI_ERR_SIZEOF)

/* What pcie-root-port-base does that we extend. */
static void (*base_config_write)(PCIDevice *d, uint32_t addr, uint32_t val,
                                 int len);
static void (*base_exit)(PCIDevice *d);
static DeviceReset base_reset;

static uint8_t port_aer_vector(const PCIDevice *d)
{
    return 0;
}

/* MSI, not MSI-X: the stock port's MSI-X takes one of a bridge's two BARs. */
static int port_interrupts_init(PCIDevice *d, Error **errp)
{
    return msi_init(d, 0, 1, true, true, errp);
}

static void port_interrupts_uninit(PCIDevice *d)
{
    msi_uninit(d);
}

static void port_config_write(PCIDevice *d, uint32_t addr, uint32_t val,
                              int len)
{
    PVDirtyPort *p = PVDIRTY_ROOT_PORT(d);

    base_config_write(d, addr, val, len);
    if (addr == PCI_BASE_ADDRESS_0 && len == 4 && val == UINT32_MAX) {
        pvd_port_enumerated(p->port);
        pvdirty_vm_refresh();
    } else if (p->cap && addr >= p->cap &&
               addr + len <= p->cap + PVDIRTY_CAP_LEN) {
        pvd_port_config_write(p->port, addr - p->cap, val, len);
        pvdirty_vm_refresh();
    }
}

static void port_reset(DeviceState *dev)
{
    PVDirtyPort *p = PVDIRTY_ROOT_PORT(dev);

    base_reset(dev);
    pvd_port_reset(p->port);
    pvdirty_vm_refresh();
}

static bool add_capability(PVDirtyPort *p, Error **errp)
{
    PCIDevice *d = PCI_DEVICE(p);
    int at = pci_bridge_qemu_reserve_cap_init(d, 0, p->res_reserve, errp);

    if (at < 0) {
        return false;
    }
    at = pci_add_capability(d, PCI_CAP_ID_VNDR, 0, PVDIRTY_CAP_LEN, errp);
    if (at < 0) {
        return false;
    }
    /* Hosts may differ in it: the state section decides, not a compare. */
    memset(d->cmask + at + PCI_CAP_FLAGS, 0, PVDIRTY_CAP_LEN - PCI_CAP_FLAGS);
    p->cap = at;
    return true;
}

static void port_realize(DeviceState *dev, Error **errp)
{
    PVDirtyPort *p = PVDIRTY_ROOT_PORT(dev);
    PCIERootPortClass *rpc = PCIE_ROOT_PORT_GET_CLASS(dev);
    Error *err = NULL;

    if (p->inflight && !p->bitmap) {
        error_setg(errp, "pvdirty-root-port: inflight=on needs bitmap=on");
        return;
    }
    /* The base's realize resets and writes config: have the port first. */
    pvdirty_vm_add_port(p);
    rpc->parent_realize(dev, &err);
    if (err) {
        error_propagate(errp, err);
        pvdirty_vm_remove_port(p);
        return;
    }
    if (!add_capability(p, errp) ||
        (p->test_untracked && !pvdirty_untracked_realize(p, errp))) {
        /* The base is realized: all of it must go, our port_exit() too. */
        DEVICE_GET_CLASS(dev)->unrealize(dev);
        return;
    }
    if (p->test_blind) {
        warn_report("pvdirty: x-test-blind=on: untracked devices are taken "
                    "for clean and a migration LOSES DATA; for tests only");
    }
    pvdirty_vm_refresh();
}

static void port_exit(PCIDevice *d)
{
    PVDirtyPort *p = PVDIRTY_ROOT_PORT(d);

    pvdirty_untracked_exit(p);
    base_exit(d);
    pvdirty_vm_remove_port(p);
}

static int port_pre_save(void *opaque)
{
    return pvdirty_migrate_pre_save(opaque);
}

static int port_post_load(void *opaque, int version_id)
{
    PVDirtyPort *p = opaque;
    char why[256];
    int ret = pcie_cap_slot_post_load(opaque, version_id);

    if (ret < 0) {
        return ret;
    }
    if (!pvd_port_load(p->port, p->state, sizeof(p->state), why,
                       sizeof(why))) {
        error_report("pvdirty: port %s: %s",
                     DEVICE(p)->id ? DEVICE(p)->id : PCI_DEVICE(p)->name, why);
        return -EINVAL;
    }
    pvdirty_vm_refresh();
    return 0;
}

static const VMStateDescription port_vmstate = {
    .name = TYPE_PVDIRTY_ROOT_PORT,
    .priority = MIG_PRI_PCI_BUS,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = port_pre_save,
    .post_load = port_post_load,
    .fields = (VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj.parent_obj.parent_obj, PCIESlot),
        VMSTATE_STRUCT(parent_obj.parent_obj.parent_obj.exp.aer_log, PCIESlot,
                       0, vmstate_pcie_aer_log, PCIEAERLog),
        VMSTATE_UINT8_ARRAY(state, PVDirtyPort, PVD_PORT_STATE_LEN),
        VMSTATE_END_OF_LIST()
    }
};

static Property port_props[] = {
    DEFINE_PROP_UINT32("bus-reserve", PVDirtyPort, res_reserve.bus, -1),
    DEFINE_PROP_SIZE("io-reserve", PVDirtyPort, res_reserve.io, -1),
    DEFINE_PROP_SIZE("mem-reserve", PVDirtyPort, res_reserve.mem_non_pref, -1),
    DEFINE_PROP_SIZE("pref32-reserve", PVDirtyPort, res_reserve.mem_pref_32,
                     -1),
    DEFINE_PROP_SIZE("pref64-reserve", PVDirtyPort, res_reserve.mem_pref_64,
                     -1),
    DEFINE_PROP_BOOL("touch", PVDirtyPort, touch, true),
    DEFINE_PROP_BOOL("bitmap", PVDirtyPort, bitmap, true),
    DEFINE_PROP_BOOL("inflight", PVDirtyPort, inflight, true),
    DEFINE_PROP_BOOL("x-test-untracked", PVDirtyPort, test_untracked, false),
    DEFINE_PROP_BOOL("x-test-blind", PVDirtyPort, test_blind, false),
    DEFINE_PROP_UINT32("x-test-drop-marks", PVDirtyPort, test_drop_marks, 0),
    DEFINE_PROP_END_OF_LIST()
};

static void port_class_init(ObjectClass *oc, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(oc);
    PCIERootPortClass *rpc = PCIE_ROOT_PORT_CLASS(oc);

    k->vendor_id = PCI_VENDOR_ID_REDHAT;
    k->device_id = PCI_DEVICE_ID_REDHAT_PCIE_RP;
    dc->desc = "PCIe root port through which the guest reports DMA writes";
    dc->vmsd = &port_vmstate;
    device_class_set_props(dc, port_props);
    device_class_set_parent_realize(dc, port_realize, &rpc->parent_realize);
    device_class_set_parent_reset(dc, port_reset, &base_reset);
    base_config_write = k->config_write;
    k->config_write = port_config_write;
    base_exit = k->exit;
    k->exit = port_exit;
    rpc->aer_vector = port_aer_vector;
    rpc->interrupts_init = port_interrupts_init;
    rpc->interrupts_uninit = port_interrupts_uninit;
    rpc->aer_offset = AER_OFFSET;
    rpc->acs_offset = ACS_OFFSET;
    pvdirty_stats_class_init(oc);
}

static void port_finalize(Object *o)
{
    pvdirty_untracked_finalize(PVDIRTY_ROOT_PORT(o));
}

static const TypeInfo port_info = {
    .name = TYPE_PVDIRTY_ROOT_PORT,
    .parent = TYPE_PCIE_ROOT_PORT,
    .instance_size = sizeof(PVDirtyPort),
    .instance_finalize = port_finalize,
    .class_init = port_class_init,
};

void pvdirty_port_register(void)
{
    type_register_static(&port_info);
}
