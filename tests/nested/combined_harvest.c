/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plug-in's harvest, made of a tracker of three sources: the marks of the
 * guest; the DMA log of a real VFIO device, tests/vfio/kmod/dma_log.c; and all
 * of what a device may write that nobody tracks, which is played here. While
 * the VM runs, these two devices write to pages that the guest leaves alone:
 * COMBINED_WINDOW in the environment is the address of 2 MiB, the first half
 * for the one that logs. The linker has the plug-in call this instead of the
 * library (--wrap).
 *
 * The controls: COMBINED_DEAF in the environment is the source that is left
 * out, "log" or "everything".
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "sysemu/runstate.h"
#include "pvdirty/tracking.h"
#include "vm.h"
#include <linux/vfio.h>
#include <sys/ioctl.h>

#define DEVICE "/sys/devices/platform/dma_log"
#define GROUP_PAGES (64 * PVD_GROUP_WORDS)
#define GROUP_BYTES (GROUP_PAGES * PVDIRTY_PAGE_SIZE)
#define HALF_PAGES 256
#define HALF_BYTES (HALF_PAGES * PVDIRTY_PAGE_SIZE)
#define PERIOD_NS (5 * SCALE_MS)

void __real_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on);
void __wrap_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on);
struct pvd_harvest_result __wrap_pvd_harvest(struct pvd_domain *d,
                                             const struct pvd_sink *sink);

static struct pvd_tracker *tracker;
static uint64_t window, end; /* addresses */
static int device;
static unsigned wrote;       /* pages, by each of the two devices */
static QEMUTimer *timer;

static void die(const char *what)
{
    error_report("combined: %s: %s", what, strerror(errno));
    exit(1);
}

static int open_or_die(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        die(path);
    }
    return fd;
}

static char *host_of(hwaddr gpa)
{
    const PVDirtyRam *r = pvdirty_vm_ram_at(gpa);

    return (char *)memory_region_get_ram_ptr(r->mr) + r->offset + (gpa - r->gpa);
}

/* The device reaches all RAM, at the guest's addresses. */
static void map(int container)
{
    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);
        struct vfio_iommu_type1_dma_map arg = {
            .argsz = sizeof(arg),
            .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            .vaddr = (uintptr_t)host_of(r->gpa),
            .iova = r->gpa,
            .size = r->size,
        };

        if (ioctl(container, VFIO_IOMMU_MAP_DMA, &arg)) {
            die("MAP_DMA");
        }
        end = ROUND_UP(r->gpa + r->size, GROUP_BYTES);
    }
}

static void open_device(void)
{
    g_autofree char *link = g_file_read_link(DEVICE "/iommu_group", NULL);
    g_autofree char *number = link ? g_path_get_basename(link) : g_strdup("");
    g_autofree char *path = g_strdup_printf("/dev/vfio/%s", number);
    int group = open_or_die(path), container = open_or_die("/dev/vfio/vfio");

    if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
        ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) {
        die("the container");
    }
    map(container);
    device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, "dma_log");
    if (device < 0) {
        die(DEVICE);
    }
}

/* Both devices write a page of their half; the virtual clock stops with the VM. */
static void devices_write(void *opaque)
{
    struct {
        uint64_t address;
        char data[PVDIRTY_PAGE_SIZE];
    } dma = { .address = window + wrote % HALF_PAGES * PVDIRTY_PAGE_SIZE };

    wrote++;
    memset(dma.data, 1 + wrote % 255, sizeof(dma.data));
    if (write(device, &dma, sizeof(dma)) != sizeof(dma)) {
        die("a write by the device");
    }
    memcpy(host_of(dma.address + HALF_BYTES), dma.data, sizeof(dma.data));
    timer_mod(timer, qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) + PERIOD_NS);
}

static void add(const char *name, struct pvd_source *source)
{
    const char *deaf = getenv("COMBINED_DEAF");
    char why[256];

    if (g_strcmp0(deaf, name) &&
        pvd_tracker_add(tracker, source, why, sizeof(why)) < 0) {
        error_report("combined: %s: %s", name, why);
        exit(1);
    }
}

static void set_up(struct pvd_domain *d)
{
    struct pvd_source *log;

    if (qemu_strtou64(getenv("COMBINED_WINDOW") ?: "", NULL, 0, &window)) {
        error_report("combined: no COMBINED_WINDOW");
        exit(1);
    }
    open_device();
    log = pvd_source_device_log("log", (struct pvd_kernel) { .fd = device });
    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);

        if (pvd_source_map(log, r->gpa, r->size)) {
            die("pvd_source_map");
        }
    }
    tracker = pvd_tracker_new();
    add("marks", pvd_source_guest_marks("marks", d));
    add("log", log);
    add("everything",
        pvd_source_everything("everything", "nobody tracks it",
                              window + HALF_BYTES,
                              window + 2 * HALF_BYTES - 1));
    timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, devices_write, NULL);
}

void __wrap_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on)
{
    char why[256];

    if (who != PVD_LOGGER_DIRTY_LOG) {
        __real_pvd_logging(d, who, on);
        return;
    }
    if (!tracker) {
        set_up(d);
    }
    if (on) {
        if (pvd_tracker_start(tracker, why, sizeof(why)) == PVD_REPORT_ALL) {
            error_report("combined: %s", why);
            exit(1);
        }
        devices_write(NULL);
    } else {
        timer_del(timer);
        pvd_tracker_stop(tracker, why, sizeof(why));
    }
}

/* Pages in flight are in the bitmap, like all that devices may write. */
struct pvd_harvest_result __wrap_pvd_harvest(struct pvd_domain *d,
                                             const struct pvd_sink *sink)
{
    uint64_t nwords = end / PVDIRTY_PAGE_SIZE / 64;
    g_autofree uint64_t *words = g_new0(uint64_t, nwords);
    struct pvd_bitmap bitmap = {
        .size = end,
        .page_size = PVDIRTY_PAGE_SIZE,
        .words = words,
        .nwords = nwords,
    };
    char why[256];
    int report = pvd_tracker_read(tracker, 0, end, &bitmap, why, sizeof(why));

    if (!runstate_is_running()) {
        info_report("combined: %u pages written by each device", wrote);
    }
    if (report < 0 || report == PVD_REPORT_ALL) {
        error_report("combined: %s", why);
        return (struct pvd_harvest_result) { .all_dirty = true };
    }
    for (uint64_t word = 0; word < nwords; word += PVD_GROUP_WORDS) {
        if (!buffer_is_zero(words + word, PVD_GROUP_WORDS * sizeof(*words))) {
            sink->marked(sink->opaque, word * 64, words + word);
        }
    }
    return (struct pvd_harvest_result) { 0 };
}
