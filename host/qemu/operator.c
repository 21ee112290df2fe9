/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object /pvdirty: what an operator, or the command pvdirty, sees of the
 * VM and sets, by qom-get and qom-set.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qlist.h"
#include "qapi/visitor.h"
#include "vm.h"

#define TYPE_PVDIRTY_VM "pvdirty-vm"

static void get_ports(Object *o, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    g_autoptr(QList) list = qlist_new();
    QObject *any = QOBJECT(list);
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        QDict *d = qdict_new();

        qdict_put_str(d, "id", pvdirty_port_name(p));
        qdict_put_bool(d, "registered", pvd_port_registered(p->port));
        qlist_append(list, d);
    }
    visit_type_any(v, name, &any, errp);
}

static bool get_holding(Object *o, Error **errp)
{
    return pvdirty_migrate_rest().holding;
}

static bool get_converged(Object *o, Error **errp)
{
    return pvdirty_migrate_rest().converged;
}

static void get_rest_bytes(Object *o, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    uint64_t bytes = pvdirty_migrate_rest().bytes;

    visit_type_uint64(v, name, &bytes, errp);
}

static void get_threshold_bytes(Object *o, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    uint64_t bytes = pvdirty_migrate_rest().threshold;

    visit_type_uint64(v, name, &bytes, errp);
}

static void operator_class_init(ObjectClass *oc, void *data)
{
    pvdirty_stats_class_init(oc);
    pvdirty_devices_class_init(oc);
    object_class_property_add(oc, "ports", "any", get_ports, NULL, NULL, NULL);
    object_class_property_add_bool(oc, "holding", get_holding, NULL);
    object_class_property_set_description(oc, "holding",
        "the migration waits for the devices of hold-for to go");
    object_class_property_add_bool(oc, "converged", get_converged, NULL);
    object_class_property_set_description(oc, "converged",
        "it would end by now if it did not wait");
    object_class_property_add(oc, "rest-bytes", "uint64", get_rest_bytes, NULL,
                              NULL, NULL);
    object_class_property_set_description(oc, "rest-bytes",
        "dirty or in flight at its last sync");
    object_class_property_add(oc, "threshold-bytes", "uint64",
                              get_threshold_bytes, NULL, NULL, NULL);
    object_class_property_set_description(oc, "threshold-bytes",
        "what it would stop the VM for");
}

static const TypeInfo operator_info = {
    .name = TYPE_PVDIRTY_VM,
    .parent = TYPE_OBJECT,
    .class_init = operator_class_init,
};

void pvdirty_operator_init(void)
{
    Object *o;

    type_register_static(&operator_info);
    o = object_new(TYPE_PVDIRTY_VM);
    object_property_add_child(object_get_root(), "pvdirty", o);
    object_unref(o);
}
