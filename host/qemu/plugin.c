/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entry of libpvdirty-qemu.so, loaded by -plugin into a stock QEMU: before any
 * device is created, with any accelerator. It uses QEMU's internal structures,
 * so it first makes sure that they are those it was compiled with.
 */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pcie_port.h"
#include "hw/vfio/pci.h"
#include "migration/migration.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-machine.h"
#include "qapi/qapi-commands-misc.h"
#include "qapi/qapi-commands-control.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/qemu-plugin.h"
#include "qom/object.h"
#include "port.h"
#include "untracked.h"
#include "vm.h"

/* A test builds a plug-in for another version, to see it refused. */
#ifndef PVDIRTY_QEMU_VERSION
#define PVDIRTY_QEMU_VERSION QEMU_VERSION
#endif

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static const struct {
    const char *type;
    size_t size;
} layout[] = {
    { TYPE_DEVICE, sizeof(DeviceState) },
    { TYPE_PCI_DEVICE, sizeof(PCIDevice) },
    { TYPE_PCI_BRIDGE, sizeof(PCIBridge) },
    { TYPE_PCI_BRIDGE_DEV, sizeof(PVDirtyStockBridge) },
    { TYPE_PCIE_PORT, sizeof(PCIEPort) },
    { TYPE_PCIE_SLOT, sizeof(PCIESlot) },
    { TYPE_MEMORY_REGION, sizeof(MemoryRegion) },
    { TYPE_IOMMU_MEMORY_REGION, sizeof(IOMMUMemoryRegion) },
    { TYPE_BUS, sizeof(BusState) },
    { TYPE_PCI_BUS, sizeof(PCIBus) },
    { TYPE_MACHINE, sizeof(MachineState) },
    { TYPE_VFIO_PCI, sizeof(VFIOPCIDevice) },
    { TYPE_CPU, sizeof(CPUState) },
    { TYPE_MIGRATION, sizeof(MigrationState) },
};

static bool same_qemu(void)
{
    g_autoptr(VersionInfo) v = qmp_query_version(&error_abort);
    g_autofree char *running =
        g_strdup_printf("%" PRId64 ".%" PRId64 ".%" PRId64, v->qemu->major,
                        v->qemu->minor, v->qemu->micro);

    if (strcmp(running, PVDIRTY_QEMU_VERSION)) {
        error_report("pvdirty: this plug-in is for QEMU %s and refuses QEMU "
                     "%s (%s); build it against that version's source",
                     PVDIRTY_QEMU_VERSION, running, v->package);
        return false;
    }
    for (int i = 0; i < ARRAY_SIZE(layout); i++) {
        size_t size = object_type_get_instance_size(layout[i].type);

        if (size != layout[i].size) {
            error_report("pvdirty: this QEMU %s (%s) lays out %s in %zu bytes, "
                         "the plug-in's headers in %zu; build it against this "
                         "package's source", running, v->package,
                         layout[i].type, size, layout[i].size);
            return false;
        }
    }
    info_report("pvdirty: plug-in for QEMU %s, loaded into %s (%s)",
                PVDIRTY_QEMU_VERSION, running, v->package);
    return true;
}

static bool parse_argument(const char *arg, struct pvd_policy *policy)
{
    const char *value;

    if (strstart(arg, "on-incomplete=", &value)) {
        if (!strcmp(value, "refuse")) {
            policy->on_incomplete = PVD_REFUSE;
            return true;
        }
        if (!strcmp(value, "all-dirty")) {
            policy->on_incomplete = PVD_ALL_DIRTY;
            return true;
        }
    } else if (strstart(arg, "final-limit=", &value)) {
        if (!qemu_strtosz(value, NULL, &policy->final_limit) &&
            policy->final_limit) {
            return true;
        }
    }
    error_report("pvdirty: bad argument '%s'; known are "
                 "on-incomplete=refuse|all-dirty and final-limit=SIZE", arg);
    return false;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    struct pvd_policy policy = { .on_incomplete = PVD_REFUSE };

    if (object_class_by_name(TYPE_PVDIRTY_ROOT_PORT)) {
        error_report("pvdirty: the plug-in is loaded already; give -plugin "
                     "for it once");
        return 1;
    }
    for (int i = 0; i < argc; i++) {
        if (!parse_argument(argv[i], &policy)) {
            return 1;
        }
    }
    if (!same_qemu()) {
        return 1;
    }
    pvdirty_port_register();
    pvdirty_untracked_register();
    pvdirty_vm_init(&policy);
    pvdirty_operator_init();
    return 0;
}
