/* SPDX-License-Identifier: MIT */
/*
 * How a VMM asks for dirty pages in a migration: start, iterate, stop the VM,
 * read once more. The VM is an array, its NIC is a function that logs its own
 * writes as a VFIO device does, and the destination is another array. In the
 * end both are compared. With --skip-last-read they differ.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/vfio.h>

#include "pvdirty/tracking.h"

enum { PAGE = 4096, PAGES = 512, WORDS = PAGES / 64, PASSES = 8, FEW = 16 };

static uint8_t ram[PAGES][PAGE];
static uint8_t destination[PAGES][PAGE];

/* ---- a device that writes, and logs what it writes when it is told to ------ */

static struct {
    bool logging;
    uint64_t log[WORDS];
    uint32_t random;
} nic = {.random = 1};

static void nic_works(int writes) {
    for (int i = 0; i < writes; i++) {
        nic.random = nic.random * 1664525 + 1013904223;
        const unsigned page = (nic.random >> 16) % PAGES;
        ram[page][nic.random % PAGE]++;
        if (nic.logging) {
            nic.log[page / 64] |= UINT64_C(1) << page % 64;
        }
    }
}

/* What the kernel does with a device's fd: a VMM leaves pvd_kernel.ioctl NULL. */
static int nic_ioctl(void* opaque, int fd, unsigned long request, void* arg) {
    struct vfio_device_feature* feature = arg;
    struct vfio_device_feature_dma_logging_report* report = (void*)feature->data;
    (void)opaque;
    if (fd != 7 || request != VFIO_DEVICE_FEATURE) {
        return -ENOTTY;
    }
    switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
        nic.logging = true;
        return 0;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
        nic.logging = false;
        return 0;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: /* here always of all RAM */
        for (int i = 0; i < WORDS; i++) {
            ((uint64_t*)(uintptr_t)report->bitmap)[i] |= nic.log[i];
            nic.log[i] = 0;
        }
        return 0;
    default:
        return -ENOTTY;
    }
}

/* ---- the migration -------------------------------------------------------- */

/* Sends the pages that are set, and forgets them. */
static int send(uint64_t* dirty) {
    int sent = 0;
    for (int page = 0; page < PAGES; page++) {
        if ((dirty[page / 64] >> page % 64 & 1) != 0) {
            memcpy(destination[page], ram[page], PAGE);
            sent++;
        }
    }
    memset(dirty, 0, WORDS * sizeof(*dirty));
    return sent;
}

int main(int argc, char** argv) {
    const bool skip_last_read = argc == 2 && strcmp(argv[1], "--skip-last-read") == 0;
    const struct pvd_kernel fd = {.fd = 7, .ioctl = nic_ioctl};
    uint64_t words[WORDS];
    const struct pvd_bitmap dirty = {0, sizeof(ram), PAGE, words, WORDS};
    char message[200];

    /* When the VM is made: a source for each device, or for several. The covered
       devices of a guest are one too: pvd_source_guest_marks(). */
    struct pvd_tracker* tracker = pvd_tracker_new();
    struct pvd_source* log = pvd_source_device_log("nic", fd);
    if (pvd_source_map(log, 0, sizeof(ram)) != 0 || pvd_tracker_add(tracker, log, NULL, 0) != 0) {
        return 1;
    }

    /* Start, then send everything: what was written before needs no bit. */
    nic_works(1000);
    int report = pvd_tracker_start(tracker, message, sizeof(message));
    if (report != PVD_REPORT_EXACT) {
        printf("%s\n", message); /* a VMM may refuse here */
    }
    memset(words, 0xff, sizeof(words));
    int sent = send(words);
    nic_works(200);

    /* Iterate, until little is left or there is no end to it. */
    for (int pass = 0; pass < PASSES && sent > FEW; pass++) {
        report = pvd_tracker_read(tracker, 0, sizeof(ram), &dirty, message, sizeof(message));
        if (report < 0) {
            printf("%s\n", message);
            return 1;
        }
        sent = send(words); /* after the read, never before */
        printf("pass %d: %d pages%s%s\n", pass, sent, report != PVD_REPORT_EXACT ? ", " : "",
               message);
        nic_works(100 >> pass);
    }

    /* The VM stops, and its devices with it: only now can the last read be the last. */
    if (!skip_last_read) {
        report = pvd_tracker_read(tracker, 0, sizeof(ram), &dirty, message, sizeof(message));
        if (report < 0) {
            printf("%s\n", message);
            return 1;
        }
        printf("last read: %d pages\n", send(words));
    }
    pvd_tracker_stop(tracker, NULL, 0);
    pvd_tracker_free(tracker);
    pvd_source_free(log);

    int differ = 0;
    for (int page = 0; page < PAGES; page++) {
        differ += memcmp(ram[page], destination[page], PAGE) != 0;
    }
    printf("%d pages differ\n", differ);
    return differ != 0;
}
