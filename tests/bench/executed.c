/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A TCG plug-in: counts how often a guest with one vCPU executes the
 * instruction at each address, between two marks that a program in it makes
 * (guest/marks.h). A vCPU that halts executes none.
 *
 *   -plugin file=libpvdirty-executed.so,out=FILE
 *
 * The second mark writes FILE anew before the guest goes on: for each address
 * two numbers of 64 bits, the address and the count. What is at an address may
 * change meanwhile: it counts all the same. The marks do not count.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/qemu-plugin.h"

#include "guest/marks.h"

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

struct place {
    uint64_t address;
    uint64_t executed;
};

static GHashTable *places; /* by address; only the vCPU's thread has it */
static const char *out;

static void begin(unsigned int vcpu, void *unused)
{
    GHashTableIter iter;
    gpointer place;

    g_hash_table_iter_init(&iter, places);
    while (g_hash_table_iter_next(&iter, NULL, &place)) {
        ((struct place *)place)->executed = 0;
    }
}

static void end(unsigned int vcpu, void *unused)
{
    FILE *file = fopen(out, "wb");
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, places);
    while (file && g_hash_table_iter_next(&iter, NULL, &value)) {
        const struct place *place = value;

        if (place->executed) {
            fwrite(place, sizeof(*place), 1, file);
        }
    }
    if (!file || ferror(file) || fclose(file)) {
        fprintf(stderr, "executed: cannot write %s: %s\n", out,
                strerror(errno));
        exit(1);
    }
}

static struct place *place_of(uint64_t address)
{
    struct place *place = g_hash_table_lookup(places, &address);

    if (!place) {
        place = g_new0(struct place, 1);
        place->address = address;
        g_hash_table_insert(places, &place->address, place);
    }
    return place;
}

/* The number of the mark that an instruction may be, or 0. */
static uint32_t mark_of(const struct qemu_plugin_insn *insn)
{
    static const uint8_t opcode[] = { 0x0f, 0x1f, 0x80 };
    const uint8_t *bytes = qemu_plugin_insn_data(insn);

    if (qemu_plugin_insn_size(insn) != sizeof(opcode) + sizeof(uint32_t) ||
        memcmp(bytes, opcode, sizeof(opcode))) {
        return 0;
    }
    return ldl_le_p(bytes + sizeof(opcode));
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t i;

    for (i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t mark = mark_of(insn);

        if (mark == MARK_BEGIN || mark == MARK_END) {
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, mark == MARK_BEGIN ? begin : end, QEMU_PLUGIN_CB_NO_REGS,
                NULL);
        } else {
            struct place *place = place_of(qemu_plugin_insn_vaddr(insn));

            qemu_plugin_register_vcpu_insn_exec_inline(
                insn, QEMU_PLUGIN_INLINE_ADD_U64, &place->executed, 1);
        }
    }
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    static const char option[] = "out=";

    if (argc != 1 || strncmp(argv[0], option, strlen(option))) {
        fprintf(stderr, "executed: which file? out=FILE\n");
        return 1;
    }
    if (info->system.max_vcpus != 1) {
        fprintf(stderr, "executed: more than one vCPU\n");
        return 1;
    }
    out = g_strdup(argv[0] + strlen(option));
    places = g_hash_table_new(g_int64_hash, g_int64_equal);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
