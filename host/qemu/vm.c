/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Glue between the VM and libpvdirty's domain: guest RAM, the global dirty
 * log, ports.
 */
#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bus.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "qemu/thread.h"
#include "oracle.h"
#include "sysemu/runstate.h"
#include "untracked.h"
#include "vm.h"

PVDirtyVM pvdirty_vm = {
    .ports = QTAILQ_HEAD_INITIALIZER(pvdirty_vm.ports),
};

/* What region_add and region_nop have said since begin. */
static GArray *next_ram;

/* ---- guest RAM ---- */

static gint ram_compare(gconstpointer a, gconstpointer b)
{
    const PVDirtyRam *x = a, *y = b;

    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static void ram_unref(gpointer p)
{
    memory_region_unref(((PVDirtyRam *)p)->mr);
}

static GArray *ram_array_new(void)
{
    GArray *a = g_array_new(false, false, sizeof(PVDirtyRam));

    g_array_set_clear_func(a, ram_unref);
    return a;
}

/* Index of the first stretch that ends above gpa. */
static guint ram_index(hwaddr gpa)
{
    guint lo = 0, hi = pvdirty_vm.ram->len;

    while (lo < hi) {
        guint mid = lo + (hi - lo) / 2;
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, mid);

        if (gpa >= r->gpa + r->size) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

const PVDirtyRam *pvdirty_vm_ram_at(hwaddr gpa)
{
    guint i = ram_index(gpa);
    const PVDirtyRam *r;

    if (i == pvdirty_vm.ram->len) {
        return NULL;
    }
    r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);
    return r->gpa <= gpa ? r : NULL;
}

uint64_t pvdirty_vm_ram_bytes(void)
{
    uint64_t sum = 0;

    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        sum += g_array_index(pvdirty_vm.ram, PVDirtyRam, i).size;
    }
    return sum;
}

/*
 * Dirties what is RAM of [gpa, gpa + len). A guest may mark what is not, and
 * often: the search ends where the stretches do.
 */
static void set_dirty(hwaddr gpa, uint64_t len)
{
    hwaddr end = gpa + len;

    for (guint i = ram_index(gpa); i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);
        hwaddr from = MAX(gpa, r->gpa), to = MIN(end, r->gpa + r->size);

        if (from >= to) {
            break;
        }
        pvdirty_ram_set_dirty(r, from, to - from);
    }
}

/*
 * Whether it is migratable too is asked when the log is put there: a DIMM is
 * mapped first and becomes migratable later, without another commit.
 */
static bool is_guest_ram(const MemoryRegionSection *s)
{
    return memory_region_is_ram(s->mr) && !memory_region_is_ram_device(s->mr) &&
           !memory_region_is_romd(s->mr) && !s->readonly;
}

static void map_begin(MemoryListener *listener)
{
    if (next_ram) {
        g_array_unref(next_ram);
    }
    next_ram = ram_array_new();
}

static void map_add(MemoryListener *listener, MemoryRegionSection *s)
{
    PVDirtyRam r = {
        .gpa = s->offset_within_address_space,
        .size = int128_get64(s->size),
        .mr = s->mr,
        .offset = s->offset_within_region,
    };

    if (is_guest_ram(s)) {
        memory_region_ref(s->mr);
        g_array_append_val(next_ram, r);
    }
}

/* The VMM's global dirty log is on. */
static bool dirty_logging;

/*
 * RAM is no longer mapped at gpa. The log names pages by their GPA: what was
 * written there and is not harvested yet could not be told from now on, but
 * the guest may see the memory again (a BAR, the PAM registers).
 */
static void ram_removed(const PVDirtyRam *old, hwaddr gpa, uint64_t len)
{
    if (dirty_logging) {
        pvdirty_ram_set_dirty(old, gpa, len);
    }
    pvd_ram_removed(pvdirty_vm.domain, gpa, len);
}

/*
 * Reports every part of old that is no longer mapped there; true if there was
 * one.
 */
static bool report_removed(const PVDirtyRam *old)
{
    hwaddr at = old->gpa, end = old->gpa + old->size;
    bool any = false;

    for (guint i = 0; i < pvdirty_vm.ram->len && at < end; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);

        if (r->gpa + r->size <= at || r->gpa >= end || r->mr != old->mr ||
            r->gpa - r->offset != old->gpa - old->offset) {
            continue;
        }
        if (r->gpa > at) {
            ram_removed(old, at, r->gpa - at);
            any = true;
        }
        at = r->gpa + r->size;
    }
    if (at < end) {
        ram_removed(old, at, end - at);
        any = true;
    }
    return any;
}

static void map_commit(MemoryListener *listener)
{
    g_autoptr(GArray) old = NULL;
    bool removed = false;
    PVDirtyPort *p;

    if (!next_ram) {
        return; /* a commit nested in ours has seen to it */
    }
    old = pvdirty_vm.ram;
    g_array_sort(next_ram, ram_compare);
    pvdirty_vm.ram = g_steal_pointer(&next_ram);
    for (guint i = 0; i < old->len; i++) {
        removed |= report_removed(&g_array_index(old, PVDirtyRam, i));
    }
    pvdirty_migrate_set_ram_bytes(pvdirty_vm_ram_bytes());
    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        pvdirty_untracked_update(p);
    }
    if (removed) {
        pvdirty_vm_refresh(); /* the log may be gone: the guest can see it */
    }
}

static struct pvd_ram vmm_ram_hold(void *opaque, uint64_t gpa, uint64_t len)
{
    const PVDirtyRam *r = pvdirty_vm_ram_at(gpa);

    if (!r || len > r->size - (gpa - r->gpa) ||
        !qemu_ram_is_migratable(r->mr->ram_block)) {
        return (struct pvd_ram) { NULL, NULL };
    }
    memory_region_ref(r->mr);
    return (struct pvd_ram) {
        .host = (uint8_t *)memory_region_get_ram_ptr(r->mr) + r->offset +
                (gpa - r->gpa),
        .region = r->mr,
    };
}

static void vmm_ram_release(void *opaque, struct pvd_ram ram)
{
    memory_region_unref(ram.region);
}

static void vmm_ram_written(void *opaque, uint64_t gpa, uint64_t len)
{
    set_dirty(gpa, len);
}

static int vmm_device_rid(void *opaque, void *device_opaque)
{
    PCIDevice *dev = device_opaque;

    /*
     * Bus 0 behind a bridge: the guest has not numbered it. No bus: its realize
     * has failed after the listeners heard of it.
     */
    return DEVICE(dev)->parent_bus && pci_dev_bus_num(dev) ? pci_get_bdf(dev)
                                                           : -1;
}

static const struct pvd_vmm_ops vmm_ops = {
    .ram_hold = vmm_ram_hold,
    .ram_release = vmm_ram_release,
    .ram_written = vmm_ram_written,
    .device_rid = vmm_device_rid,
};

/* ---- ports ---- */

/*
 * Windows in which this VM can ever have RAM: what there is at the start lies
 * below and above the PCI hole, the rest is plugged into one stretch, where
 * each slot may waste up to 1 GiB for its alignment. A stretch that begins and
 * ends within a window touches two more than its size says.
 */
static uint32_t max_windows(void)
{
    return DIV_ROUND_UP(current_machine->maxram_size,
                        (uint64_t)PVDIRTY_WINDOW_PAGES << PVDIRTY_PAGE_SHIFT) +
           current_machine->ram_slots + 3 * 2;
}

void pvdirty_vm_add_port(PVDirtyPort *p)
{
    uint32_t features = p->touch << PVDIRTY_F_TOUCH |
                        p->bitmap << PVDIRTY_F_BITMAP |
                        p->inflight << PVDIRTY_F_INFLIGHT;

    pvd_domain_limit_sections(pvdirty_vm.domain, max_windows());
    p->port = pvd_port_new(pvdirty_vm.domain, pvdirty_port_name(p), features);
    QTAILQ_INSERT_TAIL(&pvdirty_vm.ports, p, next);
}

void pvdirty_vm_remove_port(PVDirtyPort *p)
{
    QTAILQ_REMOVE(&pvdirty_vm.ports, p, next);
    /* pvd_port_free() unplugs its devices; so must we. */
    pvdirty_devices_forget(p);
    pvd_port_free(p->port);
    p->port = NULL;
    pvdirty_vm_refresh();
}

void pvdirty_vm_refresh(void)
{
    bool blind = false;
    PVDirtyPort *p;

    /* The capability's first two bytes are QEMU's: id and next. */
    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        blind |= p->test_blind;
        if (p->cap) {
            memcpy(p->pci->config + p->cap + 2,
                   pvd_port_config(p->port) + 2, PVDIRTY_CAP_LEN - 2);
        }
    }
    qatomic_set(&pvdirty_vm.policy.blind, blind);
    pvdirty_migrate_refresh();
}

/* ---- the global dirty log ---- */

static void log_start(MemoryListener *listener)
{
    dirty_logging = true;
    pvd_logging(pvdirty_vm.domain, PVD_LOGGER_DIRTY_LOG, true);
}

static void log_stop(MemoryListener *listener)
{
    dirty_logging = false;
    pvd_logging(pvdirty_vm.domain, PVD_LOGGER_DIRTY_LOG, false);
}

/* Those of 64 pages whose bit is set, one stretch of them after the other. */
static void dirty_ranges(uint64_t first_pfn, uint64_t mask)
{
    while (mask) {
        int from = ctz64(mask);
        int n = cto64(mask >> from);

        set_dirty((first_pfn + from) << PVDIRTY_PAGE_SHIFT,
                  (uint64_t)n << PVDIRTY_PAGE_SHIFT);
        mask = from + n == 64 ? 0 : mask & (~0ULL << (from + n));
    }
}

static void dirty_pages(void *opaque, uint64_t first_pfn,
                        const uint64_t *masks)
{
    hwaddr word_bytes = 64 << PVDIRTY_PAGE_SHIFT;
    hwaddr gpa = first_pfn << PVDIRTY_PAGE_SHIFT;
    hwaddr end = gpa + PVD_GROUP_WORDS * word_bytes;
    guint i = ram_index(gpa);
    const PVDirtyRam *r;

    if (i == pvdirty_vm.ram->len) {
        return;
    }
    r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);
    if (r->gpa >= end) {
        return; /* a guest may mark pages that do not exist */
    }
    for (int w = 0; w < PVD_GROUP_WORDS; w++, gpa += word_bytes) {
        bool inside = r->gpa <= gpa && gpa + word_bytes <= r->gpa + r->size;

        if (masks[w] &&
            !(inside && pvdirty_ram_set_dirty_mask(r, gpa, masks[w]))) {
            dirty_ranges(first_pfn + 64 * w, masks[w]);
        }
    }
}

/* In the main loop, where displays are refreshed: no harvest before this. */
static int64_t next_refresh_us;
static QemuThread main_loop;

/*
 * Pages in flight, and "all dirty", only go in once the VM is stopped to
 * finish: at every sync they would keep the migration from converging.
 *
 * A display's refresh syncs too, many times a second, and has no use for the
 * marks: it gets a tenth of the time at most, or a guest that marks all it has
 * would keep the BQL by it. What it leaves is there for the migration's sync.
 */
static void log_sync(MemoryListener *listener)
{
    bool final = pvdirty_migrate_final();
    struct pvd_sink sink = {
        .in_flight = final ? dirty_pages : NULL,
        .marked = dirty_pages,
    };
    struct pvd_harvest_result result;
    int64_t start = g_get_monotonic_time(), end;

    if (!dirty_logging || (!final && start < next_refresh_us &&
                           qemu_thread_is_self(&main_loop))) {
        return;
    }
    if (pvdirty_oracle_enabled()) {
        result = pvdirty_oracle_harvest(&sink);
    } else {
        result = pvd_harvest(pvdirty_vm.domain, &sink);
    }
    end = g_get_monotonic_time();
    next_refresh_us = end + 9 * (end - start);
    if (result.all_dirty && !pvdirty_vm.policy.blind) {
        pvdirty_vm.answered_all_dirty++;
    }
    if (final && pvdirty_migrate_all_dirty()) {
        pvdirty_ram_set_all_dirty();
    }
}

static void after_sync(MemoryListener *listener)
{
    pvdirty_migrate_synced();
}

static MemoryListener vm_listener = {
    .name = "pvdirty",
    /*
     * The last to commit: the test port changes the map in our commit, and
     * vhost does not take a commit nested in its own.
     */
    .priority = INT_MAX,
    .begin = map_begin,
    .region_add = map_add,
    .region_nop = map_add,
    .commit = map_commit,
    .log_global_start = log_start,
    .log_global_stop = log_stop,
    .log_sync_global = log_sync,
    .log_global_after_sync = after_sync,
};

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    if (running) {
        pvd_domain_running(pvdirty_vm.domain);
        pvdirty_vm_refresh();
    }
}

void pvdirty_vm_init(const struct pvd_policy *policy)
{
    pvdirty_vm.policy = *policy;
    pvdirty_vm.ram = ram_array_new();
    pvdirty_vm.domain = pvd_domain_new(&vmm_ops, NULL, 1);
    qemu_thread_get_self(&main_loop);
    memory_listener_register(&vm_listener, &address_space_memory);
    pvdirty_devices_init();
    qemu_add_vm_change_state_handler(vm_state_changed, NULL);
    pvdirty_migrate_init();
    pvdirty_tcg_init();
}
