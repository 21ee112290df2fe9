/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A TCG plug-in for the outer VM: counts the instructions that it executes, its
 * own and those of the guests that its KVM runs. A vCPU that waits executes
 * none, so what is counted is work, however long it takes.
 *
 *   -plugin file=libnested-instructions.so,out=FILE
 *
 * FILE holds the counts at any time: for each vCPU four of 64 bits, by enum
 * place. A block of code that is left in its midst, by a fault, counts whole.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/core/cpu.h"
#include "qemu/qemu-plugin.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum place {
    USER,   /* of the outer VM */
    KERNEL, /* likewise: KVM, VFIO */
    GUEST,  /* in a guest of its KVM, which SVM calls guest mode */
    PLACES = 4,
};

#define MAX_VCPUS 8
#define PLACE_BITS 2

/* Each has one writer, its vCPU; whoever reads sees a whole number. */
static uint64_t (*counts)[PLACES];

static void executed(unsigned int vcpu, void *what)
{
    uintptr_t word = (uintptr_t)what;
    uint64_t *count = &counts[vcpu][word & (PLACES - 1)];

    qatomic_set(count, *count + (word >> PLACE_BITS));
}

/* Of the vCPU that translates: a block is run in no other mode. */
static enum place place_now(void)
{
    uint32_t hflags = X86_CPU(current_cpu)->env.hflags;

    if (hflags & HF_GUEST_MASK) {
        return GUEST;
    }
    return (hflags & HF_CPL_MASK) == 3 ? USER : KERNEL;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uintptr_t word = qemu_plugin_tb_n_insns(tb) << PLACE_BITS | place_now();

    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS,
                                         (void *)word);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    static const char option[] = "out=";
    size_t size = MAX_VCPUS * sizeof(*counts);
    int fd;

    if (argc != 1 || strncmp(argv[0], option, strlen(option))) {
        fprintf(stderr, "nested-instructions: which file? out=FILE\n");
        return 1;
    }
    if (info->system.max_vcpus > MAX_VCPUS) {
        fprintf(stderr, "nested-instructions: more than %d vCPUs\n", MAX_VCPUS);
        return 1;
    }
    fd = open(argv[0] + strlen(option), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, size)) {
        perror("nested-instructions");
        return 1;
    }
    counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (counts == MAP_FAILED) {
        perror("nested-instructions");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
