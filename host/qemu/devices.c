/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Covered devices: the PCI functions below our ports, from realize to the end
 * of the object. Between unrealize and that end a device has left its bus, but
 * not the VM: VFIO, for one, unmaps guest RAM from the IOMMU last.
 *
 * A device whose state QEMU cannot save makes QEMU refuse every migration. For
 * the covered ones the library answers instead: it lets a migration start that
 * waits until they are gone, and no other.
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_bus.h"
#include "hw/qdev-core.h"
#include "hw/vfio/pci.h"
#include "migration/blocker.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "qapi/visitor.h"
#include "qemu/main-loop.h"
#include "vm.h"

#define COVERED_PROPERTY "pvdirty-covered"

typedef struct Covered {
    PCIDevice *pci;
    struct pvd_device *device;
    char *id;                  /* or QOM path */
    char *port;
    bool migratable;
    bool unplugged;            /* it or its port, not finalized yet */
    bool hold;
    QTAILQ_ENTRY(Covered) next;
} Covered;

static QTAILQ_HEAD(, Covered) covered = QTAILQ_HEAD_INITIALIZER(covered);

/* ---- coming and going ---- */

/* The port above a device, at any height, or NULL. */
static PVDirtyPort *port_above(PCIDevice *dev)
{
    PCIDevice *up;

    for (up = pci_get_bus(dev)->parent_dev; up;
         up = pci_get_bus(up)->parent_dev) {
        PVDirtyPort *p = pvdirty_port(up);

        if (p) {
            return p;
        }
    }
    return NULL;
}

/*
 * The vmstate of a device is registered after the listeners have heard of it.
 * Without it QEMU does not refuse; pvd_may_migrate() does.
 */
static void drop_unmigratable_states(void *opaque)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (!c->migratable) {
            vmstate_unregister(VMSTATE_IF(c->pci),
                               qdev_get_vmsd(DEVICE(c->pci)), c->pci);
        }
    }
}

/* The object ends, with the next thing that it does. */
static void covered_finalized(Object *o, const char *name, void *opaque)
{
    Covered *c = opaque;

    pvd_device_remove(c->device);
    QTAILQ_REMOVE(&covered, c, next);
    g_free(c->id);
    g_free(c->port);
    g_free(c);
    pvdirty_vm_refresh();
}

/* True if a VFIO device's blocker stood in the way. QEMU itself frees it. */
static bool drop_vfio_blocker(DeviceState *dev)
{
    Object *o = object_dynamic_cast(OBJECT(dev), TYPE_VFIO_PCI);
    Error *reason = o ? VFIO_PCI(o)->vbasedev.migration_blocker : NULL;

    if (reason) {
        migrate_del_blocker(reason);
    }
    return reason;
}

static void set_hold(Covered *c, bool hold)
{
    c->hold = hold;
    pvd_device_hold(c->device, hold);
}

/* Was a migration to wait for it, the last time that it was realized? */
static bool forget_former(PCIDevice *pci)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (c->pci == pci) {
            bool hold = c->hold;

            object_property_del(OBJECT(pci), COVERED_PROPERTY); /* frees c */
            return hold;
        }
    }
    return false;
}

static void device_realized(DeviceListener *listener, DeviceState *dev)
{
    PCIDevice *pci = (PCIDevice *)object_dynamic_cast(OBJECT(dev),
                                                      TYPE_PCI_DEVICE);
    PVDirtyPort *p = pci && !PCI_DEVICE_GET_CLASS(pci)->is_bridge
                         ? port_above(pci) : NULL;
    const VMStateDescription *vmsd = qdev_get_vmsd(dev);
    bool hold;
    Covered *c;

    if (!p || !p->port) {
        return;
    }
    /* Unrealized and not finalized, it may be realized again (by qom-set). */
    hold = forget_former(pci);
    c = g_new0(Covered, 1);
    c->pci = pci;
    c->id = dev->id ? g_strdup(dev->id)
                    : object_get_canonical_path(OBJECT(dev));
    c->port = g_strdup(pvdirty_port_name(p));
    c->migratable = !(vmsd && vmsd->unmigratable) && !drop_vfio_blocker(dev);
    c->device = pvd_device_add(p->port,
                               dev->id ? dev->id
                                       : object_get_typename(OBJECT(dev)),
                               pci);
    pvd_device_set_migratable(c->device, c->migratable);
    set_hold(c, hold);
    QTAILQ_INSERT_TAIL(&covered, c, next);
    /* Its release is the only word of an object's end. */
    object_property_add(OBJECT(dev), COVERED_PROPERTY, "bool", NULL, NULL,
                        covered_finalized, c);
    if (!c->migratable) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(),
                                drop_unmigratable_states, NULL);
    }
    pvdirty_vm_refresh();
}

static void device_unrealized(DeviceListener *listener, DeviceState *dev)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (DEVICE(c->pci) == dev && !c->unplugged) {
            c->unplugged = true;
            pvd_device_unplugged(c->device);
            pvdirty_vm_refresh();
        }
    }
}

static DeviceListener device_listener = {
    .realize = device_realized,
    .unrealize = device_unrealized,
};

void pvdirty_devices_forget(PVDirtyPort *p)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (!c->unplugged && port_above(c->pci) == p) {
            c->unplugged = true;
        }
    }
}

void pvdirty_devices_init(void)
{
    device_listener_register(&device_listener);
}

/* ---- waiting for them ---- */

void pvdirty_devices_let_go(bool migrating)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        /* QEMU's own failover takes its primary out by the same word. */
        DEVICE(c->pci)->allow_unplug_during_migration =
            (migrating && c->hold) || c->pci->failover_pair_id;
        if (!migrating) {
            set_hold(c, false);
        }
    }
}

static Covered *plugged(const char *id)
{
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (!c->unplugged && !strcmp(c->id, id)) {
            return c;
        }
    }
    return NULL;
}

static void set_hold_for(Object *o, const char *value, Error **errp)
{
    g_auto(GStrv) ids = g_strsplit(value, ",", -1);
    Covered *c;

    if (!migration_is_idle()) {
        error_setg(errp, "pvdirty: a migration is running");
        return;
    }
    for (char **id = ids; *id; id++) {
        if (!plugged(*id)) {
            error_setg(errp, "pvdirty: '%s' is no device below a port", *id);
            return;
        }
    }
    QTAILQ_FOREACH(c, &covered, next) {
        set_hold(c, !c->unplugged &&
                    g_strv_contains((const char *const *)ids, c->id));
    }
    pvdirty_vm_refresh();
}

static char *get_hold_for(Object *o, Error **errp)
{
    GString *ids = g_string_new(NULL);
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        if (c->hold) {
            g_string_append_printf(ids, "%s%s", ids->len ? "," : "", c->id);
        }
    }
    return g_string_free(ids, false);
}

/* ---- what there is ---- */

static QDict *device_add_arguments(DeviceState *dev)
{
    QDict *add = qdict_clone_shallow(dev->opts);

    qdict_put_str(add, "driver", object_get_typename(OBJECT(dev)));
    qdict_put_str(add, "bus", dev->parent_bus->name);
    if (dev->id) {
        qdict_put_str(add, "id", dev->id);
    }
    return add;
}

/*
 * Appends what device_add needs for a device and for all on its buses, parents
 * first. What has no options was made by its parent, and will be so again.
 * False if device_add would not do.
 */
static bool append_device_add(QList *list, DeviceState *dev)
{
    BusState *bus;

    if (dev->opts) {
        qlist_append(list, device_add_arguments(dev));
    }
    QLIST_FOREACH(bus, &dev->child_bus, sibling) {
        BusChild *kid;

        /* The one that came first stands last. */
        QTAILQ_FOREACH_REVERSE(kid, &bus->children, sibling) {
            if ((kid->child->opts && !qbus_is_hotpluggable(bus)) ||
                !append_device_add(list, kid->child)) {
                return false;
            }
        }
    }
    return true;
}

static QDict *describe(const Covered *c)
{
    DeviceState *dev = DEVICE(c->pci);
    g_autoptr(QList) add = qlist_new();
    QDict *d = qdict_new();
    char why[256] = "unplugged";
    bool tracked = false;

    if (!c->unplugged) {
        tracked = pvd_device_tracked(c->device, why, sizeof(why));
    }
    qdict_put_str(d, "id", c->id);
    qdict_put_str(d, "port", c->port);
    qdict_put_str(d, "type", object_get_typename(OBJECT(c->pci)));
    qdict_put_bool(d, "migratable", c->migratable);
    qdict_put_bool(d, "tracked", tracked);
    qdict_put_str(d, "why", tracked ? "" : why);
    qdict_put_str(d, "state", c->unplugged ? "leaving" : "plugged");
    qdict_put_bool(d, "hold", c->hold);
    if (!c->unplugged && dev->opts && append_device_add(add, dev)) {
        qdict_put(d, "device-add", qobject_ref(add));
    } else {
        qdict_put_null(d, "device-add");
    }
    return d;
}

static void get_devices(Object *o, Visitor *v, const char *name, void *opaque,
                        Error **errp)
{
    g_autoptr(QList) list = qlist_new();
    QObject *any = QOBJECT(list);
    Covered *c;

    QTAILQ_FOREACH(c, &covered, next) {
        qlist_append(list, describe(c));
    }
    visit_type_any(v, name, &any, errp);
}

void pvdirty_devices_class_init(ObjectClass *oc)
{
    object_class_property_add(oc, "devices", "any", get_devices, NULL, NULL,
                              NULL);
    object_class_property_set_description(oc, "devices",
        "covered devices, until nothing is left of them");
    object_class_property_add_str(oc, "hold-for", get_hold_for, set_hold_for);
    object_class_property_set_description(oc, "hold-for",
        "ids of covered devices, with commas, that must have been unplugged "
        "and be gone before the next migration ends");
}
