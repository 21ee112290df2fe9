/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ports: bridges whose vendor capability tells the guest that the host wants
 * to know what the devices below write by DMA. The capability's logic is
 * libpvdirty's; here are QEMU's ends of it, the same for all kinds of ports.
 */
#include "qemu/osdep.h"
#include "port.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "untracked.h"

PVDirtyPort *pvdirty_port(PCIDevice *d)
{
    ObjectClass *oc = object_class_dynamic_cast(object_get_class(OBJECT(d)),
                                                TYPE_PVDIRTY_PORT);

    return oc ? (void *)d + PVDIRTY_PORT_CLASS(oc)->offset : NULL;
}

const char *pvdirty_port_name(const PVDirtyPort *p)
{
    return DEVICE(p->pci)->id ? DEVICE(p->pci)->id : p->pci->name;
}

static void port_config_write(PCIDevice *d, uint32_t addr, uint32_t val,
                              int len)
{
    PVDirtyPort *p = pvdirty_port(d);

    PVDIRTY_PORT_GET_CLASS(d)->parent_config_write(d, addr, val, len);
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
    PVDirtyPort *p = pvdirty_port(PCI_DEVICE(dev));

    PVDIRTY_PORT_GET_CLASS(dev)->parent_reset(dev);
    pvd_port_reset(p->port);
    pvdirty_vm_refresh();
}

static bool add_capability(PVDirtyPort *p, Error **errp)
{
    PVDirtyPortClass *pc = PVDIRTY_PORT_GET_CLASS(p->pci);
    PCIDevice *d = p->pci;
    int at;

    if (pc->add_capabilities && !pc->add_capabilities(d, errp)) {
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
    PVDirtyPort *p = pvdirty_port(PCI_DEVICE(dev));
    Error *err = NULL;

    p->pci = PCI_DEVICE(dev);
    if (p->inflight && !p->bitmap) {
        error_setg(errp, "%s: inflight=on needs bitmap=on",
                   object_get_typename(OBJECT(dev)));
        return;
    }
    /* The parent's realize resets and writes config: have the port first. */
    pvdirty_vm_add_port(p);
    PVDIRTY_PORT_GET_CLASS(dev)->parent_realize(dev, &err);
    if (err) {
        error_propagate(errp, err);
        pvdirty_vm_remove_port(p);
        return;
    }
    if (!add_capability(p, errp) ||
        (p->test_untracked && !pvdirty_untracked_realize(p, errp))) {
        /* The parent is realized: all of it must go, our port_exit() too. */
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
    PVDirtyPort *p = pvdirty_port(d);

    pvdirty_untracked_exit(p);
    PVDIRTY_PORT_GET_CLASS(d)->parent_exit(d);
    pvdirty_vm_remove_port(p);
}

int pvdirty_port_pre_save(void *device)
{
    return pvdirty_migrate_pre_save(pvdirty_port(device));
}

int pvdirty_port_post_load(void *device, int version_id)
{
    PVDirtyPort *p = pvdirty_port(device);
    char why[256];

    if (!pvd_port_load(p->port, p->state, sizeof(p->state), why,
                       sizeof(why))) {
        error_report("pvdirty: port %s: %s", pvdirty_port_name(p), why);
        return -EINVAL;
    }
    pvdirty_vm_refresh();
    return 0;
}

void pvdirty_port_class_init(ObjectClass *oc, size_t offset)
{
    PVDirtyPortClass *pc = PVDIRTY_PORT_CLASS(oc);
    DeviceClass *dc = DEVICE_CLASS(oc);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(oc);

    pc->offset = offset;
    device_class_set_parent_realize(dc, port_realize, &pc->parent_realize);
    device_class_set_parent_reset(dc, port_reset, &pc->parent_reset);
    pc->parent_config_write = k->config_write;
    k->config_write = port_config_write;
    pc->parent_exit = k->exit;
    k->exit = port_exit;
    pvdirty_stats_class_init(oc);
}

void pvdirty_port_finalize(Object *device)
{
    pvdirty_untracked_finalize(pvdirty_port(PCI_DEVICE(device)));
}

static const TypeInfo port_info = {
    .name = TYPE_PVDIRTY_PORT,
    .parent = TYPE_INTERFACE,
    .class_size = sizeof(PVDirtyPortClass),
};

void pvdirty_port_register(void)
{
    type_register_static(&port_info);
    pvdirty_root_port_register();
    pvdirty_bridge_register();
}
