/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The plug-in's harvest, made of the calls that a VMM makes to a container of
 * VFIO's type1: RAM is mapped, and VFIO_IOMMU_DIRTY_PAGES starts, reads and
 * stops tracking. Type1DirtyPages answers them from the marks of the guest.
 * Every second time RAM is unmapped before, and mapped again, as when a VM's
 * memory map changes. The linker has the plug-in call this instead of the
 * library (--wrap).
 *
 * The control, with TYPE1_DROPS_A_READ in the environment: each bitmap is read
 * once before, and nobody is told what was in it.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "pvdirty/tracking.h"
#include "vm.h"
#include <linux/vfio.h>

#define GROUP_PAGES (64 * PVD_GROUP_WORDS)
#define GROUP_BYTES (GROUP_PAGES * PVDIRTY_PAGE_SIZE)

void __real_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on);
void __wrap_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on);
struct pvd_harvest_result __wrap_pvd_harvest(struct pvd_domain *d,
                                             const struct pvd_sink *sink);

/* What the container has: ascending. */
typedef struct Mapping {
    uint64_t iova, size;
} Mapping;

static struct pvd_type1 *container;
static GArray *mappings;
static unsigned harvests;

static void call(const char *what, unsigned long request, void *arg)
{
    int result = pvd_type1_ioctl(container, request, arg);

    if (result) {
        error_report("type1: %s: %s", what, strerror(-result));
        abort();
    }
}

static void dirty_pages(uint32_t flag)
{
    struct vfio_iommu_type1_dirty_bitmap dirty = {
        .argsz = sizeof(dirty),
        .flags = flag,
    };

    call("START or STOP", VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

/* The end of all mappings, in whole groups. */
static uint64_t end_of_mappings(void)
{
    const Mapping *last;

    if (!mappings->len) {
        return 0;
    }
    last = &g_array_index(mappings, Mapping, mappings->len - 1);
    return ROUND_UP(last->iova + last->size, GROUP_BYTES);
}

static struct vfio_bitmap new_bitmap(uint64_t end)
{
    uint64_t bytes = end / PVDIRTY_PAGE_SIZE / 8;

    return (struct vfio_bitmap) {
        .pgsize = PVDIRTY_PAGE_SIZE,
        .size = bytes,
        .data = g_malloc0(bytes),
    };
}

static void hand_over(const struct pvd_sink *sink, struct vfio_bitmap bitmap)
{
    const uint64_t *words = (const uint64_t *)bitmap.data;

    for (uint64_t pfn = 0; pfn < bitmap.size * 8; pfn += GROUP_PAGES) {
        if (!buffer_is_zero(words + pfn / 64, GROUP_PAGES / 8)) {
            sink->marked(sink->opaque, pfn, words + pfn / 64);
        }
    }
    g_free(bitmap.data);
}

/* All mappings go; what was dirty in them is told. */
static void unmap(const struct pvd_sink *sink)
{
    uint64_t end = end_of_mappings();
    struct {
        struct vfio_iommu_type1_dma_unmap unmap;
        struct vfio_bitmap bitmap;
    } arg = {
        .unmap.argsz = sizeof(arg),
        .unmap.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
        .unmap.size = end,
        .bitmap = new_bitmap(end),
    };

    call("UNMAP", VFIO_IOMMU_UNMAP_DMA, &arg);
    hand_over(sink, arg.bitmap);
    g_array_set_size(mappings, 0);
}

static void map(void)
{
    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);
        struct vfio_iommu_type1_dma_map arg = {
            .argsz = sizeof(arg),
            .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            .iova = r->gpa,
            .size = r->size,
        };
        Mapping m = { r->gpa, r->size };

        call("MAP", VFIO_IOMMU_MAP_DMA, &arg);
        g_array_append_val(mappings, m);
    }
}

static bool mapped(void)
{
    if (mappings->len != pvdirty_vm.ram->len) {
        return false;
    }
    for (guint i = 0; i < mappings->len; i++) {
        const Mapping *m = &g_array_index(mappings, Mapping, i);
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);

        if (m->iova != r->gpa || m->size != r->size) {
            return false;
        }
    }
    return true;
}

static struct vfio_bitmap get(void)
{
    uint64_t end = end_of_mappings();
    struct {
        struct vfio_iommu_type1_dirty_bitmap dirty;
        struct vfio_iommu_type1_dirty_bitmap_get get;
    } arg = {
        .dirty.argsz = sizeof(arg),
        .dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
        .get.size = end,
        .get.bitmap = new_bitmap(end),
    };

    call("GET", VFIO_IOMMU_DIRTY_PAGES, &arg);
    return arg.get.bitmap;
}

void __wrap_pvd_logging(struct pvd_domain *d, enum pvd_logger who, bool on)
{
    if (who != PVD_LOGGER_DIRTY_LOG) {
        __real_pvd_logging(d, who, on);
        return;
    }
    if (!container) {
        container = pvd_type1_new(pvd_source_guest_marks("guest", d),
                                  PVDIRTY_PAGE_SIZE);
        mappings = g_array_new(false, false, sizeof(Mapping));
        map();
    }
    dirty_pages(on ? VFIO_IOMMU_DIRTY_PAGES_FLAG_START
                   : VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
}

/* Pages in flight are in the bitmap, like all that devices may write. */
struct pvd_harvest_result __wrap_pvd_harvest(struct pvd_domain *d,
                                             const struct pvd_sink *sink)
{
    struct pvd_harvest_result result = { 0 };
    struct pvd_stats before, after;

    pvd_domain_stats(d, &before);
    if (!mapped() || harvests++ % 2) {
        unmap(sink);
        map();
    }
    if (getenv("TYPE1_DROPS_A_READ")) {
        g_free(get().data);
    }
    hand_over(sink, get());
    pvd_domain_stats(d, &after);
    result.all_dirty = after.answered_all_dirty != before.answered_all_dirty;
    return result;
}
