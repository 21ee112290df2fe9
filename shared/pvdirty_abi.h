/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The pvdirty wire format, version 1: what the guest and the host share.
 *
 * Two things travel: a vendor capability in the config space of the port (an
 * emulated PCI bridge), and the log, an area of guest RAM that the guest
 * registers through it. SPEC.md beside this file says who may do what, when,
 * and in which order. All integers are little-endian. This is the only place
 * where an offset is written.
 */
#ifndef PVDIRTY_ABI_H
#define PVDIRTY_ABI_H

#include <linux/types.h>
#ifdef __KERNEL__
#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <uapi/linux/pci_regs.h>
#include <uapi/linux/virtio_config.h>
#else
#include <stddef.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#endif

#if defined(__cplusplus) || defined(__KERNEL__)
#define PVDIRTY_ASSERT(expr) static_assert(expr, #expr)
#else
#define PVDIRTY_ASSERT(expr) _Static_assert(expr, #expr)
#endif

#define PVDIRTY_VERSION 1

/* ---- The capability: PCI_CAP_ID_VNDR in the port's config space ---------- */

/* Type byte of the vendor capability; 1 is QEMU's resource reservation. */
#define PVDIRTY_CAP_TYPE 0x50
#define PVDIRTY_CAP_SIGNATURE 0x59445650 /* "PVDY" */

/**
 * struct pvdirty_cap - the vendor capability of a port.
 * @cap_vndr: PCI_CAP_ID_VNDR
 * @cap_next: next capability
 * @cap_len: length of this capability, at least PVDIRTY_CAP_LEN
 * @cfg_type: PVDIRTY_CAP_TYPE
 * @signature: PVDIRTY_CAP_SIGNATURE (RO)
 * @version: wire version the host speaks (RO)
 * @error: enum pvdirty_error of the last refused write, 0 after a reset (RO)
 * @host_features: PVDIRTY_F_* that the host offers (RO)
 * @guest_features: PVDIRTY_F_* that the guest takes (RW until FEATURES_OK)
 * @domain: ports with the same id share one log (RO)
 * @log_addr_lo: GPA of the log, low half (RW until DRIVER_OK)
 * @log_addr_hi: GPA of the log, high half (RW until DRIVER_OK)
 * @log_pages: size of the log in pages of 4 KiB (RW until DRIVER_OK)
 * @notify: any write asks the host to look at the log's control page again
 *	(WO, reads 0); needed for prompt messages, never for correctness
 * @device_status: VIRTIO_CONFIG_S_* (RW); writing 0 resets the port
 * @reserved: 0
 *
 * Registers are written with their own width or as aligned 32-bit words.
 */
struct pvdirty_cap {
	__u8 cap_vndr;
	__u8 cap_next;
	__u8 cap_len;
	__u8 cfg_type;
	__le32 signature;
	__le16 version;
	__le16 error;
	__le32 host_features;
	__le32 guest_features;
	__le32 domain;
	__le32 log_addr_lo;
	__le32 log_addr_hi;
	__le32 log_pages;
	__le32 notify;
	__u8 device_status;
	__u8 reserved[3];
};

/* Never sizeof: later versions grow the capability. */
#define PVDIRTY_CAP_LEN 44

/* Feature bits. */
#define PVDIRTY_F_TOUCH 0    /* guest touches pages; no log, never complete */
#define PVDIRTY_F_BITMAP 1   /* guest sets marks in the log */
#define PVDIRTY_F_INFLIGHT 2 /* guest counts mappings in the log */

#define PVDIRTY_FEATURES_LOG ((1u << PVDIRTY_F_BITMAP) | (1u << PVDIRTY_F_INFLIGHT))
#define PVDIRTY_FEATURES_ALL ((1u << PVDIRTY_F_TOUCH) | PVDIRTY_FEATURES_LOG)

/* Why the host refused; in pvdirty_cap.error. */
enum pvdirty_error {
	PVDIRTY_OK = 0,
	PVDIRTY_E_STATE = 1,	      /* register or status bit not writable now */
	PVDIRTY_E_FEATURES = 2,	      /* features not offered, or none taken */
	PVDIRTY_E_LOG_ADDR = 3,	      /* log unaligned, or not in writable RAM */
	PVDIRTY_E_LOG_SIZE = 4,	      /* log_pages does not fit the sections */
	PVDIRTY_E_LOG_HEADER = 5,     /* signature or version of the log */
	PVDIRTY_E_SECTION_COUNT = 6,  /* no section, or more than the limit */
	PVDIRTY_E_SECTION_RANGE = 7,  /* window unaligned, out of order, or long */
	PVDIRTY_E_SECTION_ADDR = 8,   /* areas not in writable RAM, or overlapping */
	PVDIRTY_E_LOG_BUSY = 9,	      /* the domain has another log registered */
	PVDIRTY_E_LOG_GONE = 10,      /* RAM that held the log was unplugged */
};

/* ---- The log: guest RAM -------------------------------------------------- */

#define PVDIRTY_PAGE_SHIFT 12
#define PVDIRTY_PAGE_SIZE (1u << PVDIRTY_PAGE_SHIFT)

/*
 * A section describes one aligned window of guest-physical memory, 1 GiB, so
 * that the section of a page is found by a shift. One bit of a section's
 * summary stands for a group of 512 pages: one cache line of marks (64 bytes),
 * eight of counters.
 */
#define PVDIRTY_WINDOW_SHIFT 18 /* pages in a window: 2^18 */
#define PVDIRTY_WINDOW_PAGES (1u << PVDIRTY_WINDOW_SHIFT)
#define PVDIRTY_GROUP_SHIFT 9 /* pages in a group: 2^9 */
#define PVDIRTY_GROUP_PAGES (1u << PVDIRTY_GROUP_SHIFT)
#define PVDIRTY_SUMMARY_WORDS (PVDIRTY_WINDOW_PAGES / PVDIRTY_GROUP_PAGES / 64)
#define PVDIRTY_MAX_SECTIONS 16384u /* 16 TiB of windows */
#define PVDIRTY_TOP_WORDS (PVDIRTY_MAX_SECTIONS / 64)
#define PVDIRTY_MAX_DEVICES 512u

/* A counter at this value has lost count: it stays, its page is in flight. */
#define PVDIRTY_COUNT_STUCK 255

#define PVDIRTY_LOG_SIGNATURE 0x474c5650 /* "PVLG" */

/* pvdirty_log.incomplete: why the log as a whole cannot be relied on. */
#define PVDIRTY_I_OUTSIDE 0   /* a page was mapped that no section covers */
#define PVDIRTY_I_UNDERFLOW 1 /* a counter was lowered below 0 */
#define PVDIRTY_I_CHILD 2     /* a child device does DMA with a mask of its own */
#define PVDIRTY_I_DEVICES 3   /* more devices than the table has entries */
#define PVDIRTY_I_NO_MEMORY 4 /* the guest could not allocate what it needs */

/* One word of pvdirty_log.devices. */
#define PVDIRTY_DEV_RID(word) ((word) & 0xffffu)
#define PVDIRTY_DEV_STATE(word) (((word) >> 16) & 0xffu)
#define PVDIRTY_DEV_REASON(word) (((word) >> 24) & 0xffu)
#define PVDIRTY_DEV(rid, state, reason) \
	((__u32)(rid) | ((__u32)(state) << 16) | ((__u32)(reason) << 24))

enum pvdirty_dev_state {
	PVDIRTY_DEV_FREE = 0,
	PVDIRTY_DEV_TRACKED = 1,
	PVDIRTY_DEV_UNTRACKED = 2,
};

/* Why a device is not tracked; in PVDIRTY_DEV_REASON. */
enum pvdirty_dev_reason {
	PVDIRTY_R_NONE = 0,
	PVDIRTY_R_NO_DRIVER = 1,   /* no driver bound: firmware DMA may go on */
	PVDIRTY_R_EARLY_DRIVER = 2, /* driver bound before the layer came */
	PVDIRTY_R_IOMMU = 3,	   /* a vIOMMU translates its DMA */
	PVDIRTY_R_USER_DMA = 4,	   /* driven from user space (vfio-pci, uio) */
	PVDIRTY_R_COHERENT_MEM = 5, /* has coherent memory of its own */
	PVDIRTY_R_OTHER_OPS = 6,   /* foreign dma_map_ops */
	PVDIRTY_R_NO_MEMORY = 7,   /* no memory for the layer's own state */
	PVDIRTY_R_NO_LOG = 8,	   /* only TOUCH was negotiated */
	PVDIRTY_R_NO_DMA_API = 9,  /* its driver does DMA without the DMA API */
	PVDIRTY_R_CHILD = 10,	   /* a child does DMA; PVDIRTY_I_CHILD too */
	PVDIRTY_R_OUTSIDE = 11,	   /* mapped such a page; PVDIRTY_I_OUTSIDE too */
};

/**
 * struct pvdirty_log - first page of the log, its control page.
 * @signature: PVDIRTY_LOG_SIGNATURE (guest, before DRIVER_OK)
 * @version: PVDIRTY_VERSION (guest, before DRIVER_OK)
 * @nsections: sections in use, 1..PVDIRTY_MAX_SECTIONS (guest, before
 *	DRIVER_OK)
 * @logging: 1 while the host wants marks; only the host writes this line
 * @incomplete: bits PVDIRTY_I_*; the guest sets them and never clears them,
 *	before the DMA address that it cannot track is returned to the driver
 * @gaps: raised by the guest before any device stops being tracked, and after
 *	its entry in @devices has ceased to say so
 * @devices: PVDIRTY_DEV words, one for each PCI function (bridges apart) that
 *	the guest sees below a port; a free entry may stand anywhere
 */
struct pvdirty_log {
	__le32 signature;
	__le16 version;
	__le16 reserved0;
	__le32 nsections;
	__u8 reserved1[52];
	__le32 logging;
	__u8 reserved2[60];
	__le32 incomplete;
	__le32 gaps;
	__u8 reserved3[1912];
	__le32 devices[PVDIRTY_MAX_DEVICES];
};

/**
 * struct pvdirty_top - second page of the log: the root of both trees.
 * @marks: bit i: section i may hold a mark
 * @counts: bit i: section i may hold a counter that is not 0
 */
struct pvdirty_top {
	__le64 marks[PVDIRTY_TOP_WORDS];
	__le64 counts[PVDIRTY_TOP_WORDS];
};

/**
 * struct pvdirty_section - one entry of the section table, from the third page
 * @base_pfn: first page of the window; a multiple of PVDIRTY_WINDOW_PAGES,
 *	ascending through the table
 * @npages: pages described, 1..PVDIRTY_WINDOW_PAGES
 * @reserved: 0
 * @marks: GPA of the marks, 64-byte aligned; bit n%64 of word n/64 is page n
 *	of the window; PVDIRTY_MARKS_BYTES(npages) long
 * @counts: GPA of the counters, 64-byte aligned; byte n is page n of the
 *	window; PVDIRTY_COUNTS_BYTES(npages) long
 */
struct pvdirty_section {
	__le64 base_pfn;
	__le32 npages;
	__le32 reserved;
	__le64 marks;
	__le64 counts;
};

/**
 * struct pvdirty_summary - summary of one section, after the section table
 * @marks: bit g: group g of the window may hold a mark
 * @counts: bit g: group g of the window may hold a counter that is not 0
 */
struct pvdirty_summary {
	__le64 marks[PVDIRTY_SUMMARY_WORDS];
	__le64 counts[PVDIRTY_SUMMARY_WORDS];
};

/* Whole groups, so that a scan by cache lines never leaves the area. */
#define PVDIRTY_GROUPS(npages) (((npages) + PVDIRTY_GROUP_PAGES - 1) >> PVDIRTY_GROUP_SHIFT)
#define PVDIRTY_MARKS_BYTES(npages) (PVDIRTY_GROUPS(npages) * (PVDIRTY_GROUP_PAGES / 8))
#define PVDIRTY_COUNTS_BYTES(npages) (PVDIRTY_GROUPS(npages) * PVDIRTY_GROUP_PAGES)

/* Byte offsets of the log's parts, for nsections sections. */
#define PVDIRTY_LOG_TOP PVDIRTY_PAGE_SIZE
#define PVDIRTY_LOG_TABLE (2 * PVDIRTY_PAGE_SIZE)
#define PVDIRTY_ALIGN64(x) (((x) + 63) & ~(__u64)63)
#define PVDIRTY_LOG_SUMMARIES(nsections) \
	(PVDIRTY_LOG_TABLE + PVDIRTY_ALIGN64((__u64)(nsections) * 32))
#define PVDIRTY_LOG_BYTES(nsections) \
	(PVDIRTY_LOG_SUMMARIES(nsections) + (__u64)(nsections) * 128)
#define PVDIRTY_LOG_PAGES(nsections) \
	((PVDIRTY_LOG_BYTES(nsections) + PVDIRTY_PAGE_SIZE - 1) >> PVDIRTY_PAGE_SHIFT)

PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, signature) == 4);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, version) == 8);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, error) == 10);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, host_features) == 12);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, guest_features) == 16);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, domain) == 20);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, log_addr_lo) == 24);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, log_addr_hi) == 28);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, log_pages) == 32);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, notify) == 36);
PVDIRTY_ASSERT(offsetof(struct pvdirty_cap, device_status) == 40);
PVDIRTY_ASSERT(sizeof(struct pvdirty_cap) == PVDIRTY_CAP_LEN);
PVDIRTY_ASSERT(offsetof(struct pvdirty_log, nsections) == 8);
PVDIRTY_ASSERT(offsetof(struct pvdirty_log, logging) == 64);
PVDIRTY_ASSERT(offsetof(struct pvdirty_log, incomplete) == 128);
PVDIRTY_ASSERT(offsetof(struct pvdirty_log, gaps) == 132);
PVDIRTY_ASSERT(offsetof(struct pvdirty_log, devices) == 2048);
PVDIRTY_ASSERT(sizeof(struct pvdirty_log) == PVDIRTY_PAGE_SIZE);
PVDIRTY_ASSERT(sizeof(struct pvdirty_top) == PVDIRTY_PAGE_SIZE);
PVDIRTY_ASSERT(offsetof(struct pvdirty_section, npages) == 8);
PVDIRTY_ASSERT(offsetof(struct pvdirty_section, marks) == 16);
PVDIRTY_ASSERT(offsetof(struct pvdirty_section, counts) == 24);
PVDIRTY_ASSERT(sizeof(struct pvdirty_section) == 32);
PVDIRTY_ASSERT(offsetof(struct pvdirty_summary, counts) == 64);
PVDIRTY_ASSERT(sizeof(struct pvdirty_summary) == 128);

#endif /* PVDIRTY_ABI_H */
