/* SPDX-License-Identifier: MIT */
/*
 * Dirty pages of a VM from all who know of some: guests that mark, devices that
 * log their writes, IOMMUs that track, VFIO containers, and devices that nobody
 * tracks. Sources are put together in a tracker: pvd_tracker_start() before the
 * first page is sent, pvd_tracker_read() in each pass and once more when the VM
 * has stopped, pvd_tracker_stop(). host/example has the whole loop.
 *
 * Addresses are IO virtual addresses: without a virtual IOMMU, guest-physical.
 * What is asked and answered is as in <linux/vfio.h>; host/tracking/README.md
 * has it in detail.
 *
 * Threads: all calls on one tracker and its sources, and on the domain of a
 * source that has one, must be serialised by the caller.
 */
#ifndef PVDIRTY_TRACKING_H
#define PVDIRTY_TRACKING_H

#include "pvdirty/pvdirty.h"

// NOLINTBEGIN(modernize-*): this header is C
#ifdef __cplusplus
extern "C" {
#endif

struct pvd_source;
struct pvd_tracker;
struct pvd_type1;

/**
 * A caller's bitmap: bit n % 64 of word n / 64 is the page at
 * iova + n * page_size. Bits are set in it, and never cleared.
 */
struct pvd_bitmap {
    uint64_t iova;      /* a multiple of page_size */
    uint64_t size;      /* in bytes, a multiple of page_size */
    uint64_t page_size; /* a power of two */
    uint64_t* words;    /* need not be zero */
    size_t nwords;      /* at least one bit for each page */
};

/** How much a report is worth; a negative errno value stands for none. */
enum pvd_report {
    PVD_REPORT_EXACT = 0, /* each bit that is set was reported by a source */
    PVD_REPORT_DOUBT = 1, /* some sources cannot say: all that they may have
                             missed is set; the message names them */
    PVD_REPORT_ALL = 2,   /* a source failed: all that was asked for is set, and
                             will be until tracking starts anew */
};

/** ioctl(2), but returns -errno when it fails. */
typedef int pvd_ioctl_fn(void* opaque, int fd, unsigned long request, void* arg);

/** A file descriptor of the kernel, which stays open as long as it is used. */
struct pvd_kernel {
    int fd;
    pvd_ioctl_fn* ioctl; /* NULL: the system's */
    void* opaque;
};

/* ---- sources: name is for messages, copied; never NULL -------------------- */

/** Whatever the devices can write, [first, last], is dirty at every read. */
struct pvd_source* pvd_source_everything(const char* name, const char* reason, uint64_t first,
                                         uint64_t last) PVD_NOEXCEPT;
/** The marks of a guest, and what is in flight; logs as PVD_LOGGER_DIRTY_LOG. */
struct pvd_source* pvd_source_guest_marks(const char* name, struct pvd_domain* d) PVD_NOEXCEPT;
/**
 * VFIO_IOMMU_DIRTY_PAGES of a type1 container.
 * @page_size: as of pvd_container_page_size()
 */
struct pvd_source* pvd_source_container(const char* name, struct pvd_kernel container,
                                        uint64_t page_size) PVD_NOEXCEPT;
/** The one page size that a container takes. @returns 0, or -errno */
int pvd_container_page_size(struct pvd_kernel container, uint64_t* page_size) PVD_NOEXCEPT;
/** VFIO_DEVICE_FEATURE_DMA_LOGGING_* of a VFIO device. */
struct pvd_source* pvd_source_device_log(const char* name, struct pvd_kernel device) PVD_NOEXCEPT;
/**
 * Dirty tracking of a paging HWPT of iommufd.
 * @page_size: alignment of its IOAS, a power of two
 */
struct pvd_source* pvd_source_hwpt(const char* name, struct pvd_kernel iommufd, uint32_t hwpt_id,
                                   uint64_t page_size) PVD_NOEXCEPT;
/** Not while a tracker or a pvd_type1 has it. */
void pvd_source_free(struct pvd_source* s) PVD_NOEXCEPT;

/**
 * The devices of a container, log or HWPT can reach [iova, iova + size): to be
 * called after it is mapped. Other sources know by themselves.
 * @returns 0, or -errno: EINVAL, EOVERFLOW: no range of whole pages; EEXIST: it
 *          overlaps a mapping
 */
int pvd_source_map(struct pvd_source* s, uint64_t iova, uint64_t size) PVD_NOEXCEPT;
/**
 * Sets the last bits of all mappings in [iova, iova + size) and forgets the
 * mappings: to be called before they are removed. A container's are removed by
 * this call, since nothing else reports their last bits.
 * @last: covers the range; NULL: the bits are dropped; unused while stopped
 * @message: for a doubt or an error
 * @returns enum pvd_report, or -errno: then all of the range is dirty
 */
int pvd_source_unmap(struct pvd_source* s, uint64_t iova, uint64_t size,
                     const struct pvd_bitmap* last, char* message, size_t len) PVD_NOEXCEPT;

/* ---- the tracker; message: one line for a doubt or an error, or "" --------- */

struct pvd_tracker* pvd_tracker_new(void) PVD_NOEXCEPT;
void pvd_tracker_free(struct pvd_tracker* t) PVD_NOEXCEPT;

/**
 * Adds a source; one that comes while pages are tracked makes all of them dirty
 * once.
 * @returns enum pvd_report, or -EEXIST
 */
int pvd_tracker_add(struct pvd_tracker* t, struct pvd_source* s, char* message,
                    size_t len) PVD_NOEXCEPT;
/**
 * Removes a source, whose devices are gone.
 * @last: gets its last pages; what lies outside, or everything with NULL, is
 *        dirty at the next read. Unused while stopped
 * @returns enum pvd_report, or -errno: ENOENT; or EINVAL, for @last, and it
 *          stays
 */
int pvd_tracker_remove(struct pvd_tracker* t, struct pvd_source* s, const struct pvd_bitmap* last,
                       char* message, size_t len) PVD_NOEXCEPT;

/** Starts all sources, if it is stopped. @returns enum pvd_report: what reads will be worth */
int pvd_tracker_start(struct pvd_tracker* t, char* message, size_t len) PVD_NOEXCEPT;
/** Stops them, if it is started. @returns enum pvd_report: doubt if one could not be stopped */
int pvd_tracker_stop(struct pvd_tracker* t, char* message, size_t len) PVD_NOEXCEPT;

/** The smallest pages whose bits are not spread; ranges must be aligned to it. */
uint64_t pvd_tracker_page_size(const struct pvd_tracker* t) PVD_NOEXCEPT;

/**
 * Sets the bits of pages in [iova, iova + size) that any source reports, and
 * has the sources forget them. When it returns, the pages may be read.
 * @bitmap: covers the range
 * @returns enum pvd_report, or -EINVAL: not started, or a range or bitmap that
 *          is not so; -EOVERFLOW: one that passes the end of the address space
 */
int pvd_tracker_read(struct pvd_tracker* t, uint64_t iova, uint64_t size,
                     const struct pvd_bitmap* bitmap, char* message, size_t len) PVD_NOEXCEPT;

/**
 * Sets in one bitmap what is set in another, of any page size: a page is dirty
 * when it shares a byte with a dirty one.
 * @returns 0, or -EINVAL or -EOVERFLOW for a bitmap that is not so
 */
int pvd_bitmap_convert(const struct pvd_bitmap* to, const struct pvd_bitmap* from) PVD_NOEXCEPT;

/* ---- VFIO's type1 interface on top of a source ----------------------------- */

/**
 * Answers the ioctls of a type1 container that concern dirty pages: see
 * pvdirty::vfio::Type1DirtyPages.
 * @s: nobody else uses it
 */
struct pvd_type1* pvd_type1_new(struct pvd_source* s, uint64_t page_size) PVD_NOEXCEPT;
void pvd_type1_free(struct pvd_type1* c) PVD_NOEXCEPT;
/** @returns 0 or -errno, as the kernel does; -ENOTTY: not one of them */
int pvd_type1_ioctl(struct pvd_type1* c, unsigned long request, void* arg) PVD_NOEXCEPT;

#ifdef __cplusplus
}
#endif

// NOLINTEND(modernize-*)
#endif /* PVDIRTY_TRACKING_H */
