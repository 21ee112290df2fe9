/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * x-test-dump: lets a judge outside see every migratable RAM block of a
 * stopped VM. Blocks in a shared file are named by descriptor, the rest is
 * written out; blocks.json lists them.
 */
#include "qemu/osdep.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "oracle.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "sysemu/runstate.h"
#include "vm.h"

typedef struct Dump {
    const char *dir;
    FILE *list;
    int blocks;
    Error *err;
} Dump;

static bool write_file(Dump *d, const char *name, const void *data, size_t len)
{
    g_autofree char *path = g_build_filename(d->dir, name, NULL);
    g_autoptr(GError) err = NULL;

    if (!g_file_set_contents(path, data, len, &err)) {
        error_setg(&d->err, "pvdirty: %s", err->message);
        return false;
    }
    return true;
}

static int dump_block(RAMBlock *rb, void *opaque)
{
    Dump *d = opaque;
    uint64_t size = qemu_ram_get_used_length(rb);

    if (!qemu_ram_is_migratable(rb)) {
        return 0;
    }
    fprintf(d->list, "%s\n  {\"name\": \"%s\", \"size\": %" PRIu64 ", ",
            d->blocks ? "," : "", qemu_ram_get_idstr(rb), size);
    if (qemu_ram_get_fd(rb) >= 0 && qemu_ram_is_shared(rb)) {
        fprintf(d->list, "\"fd\": %d}", qemu_ram_get_fd(rb));
    } else {
        g_autofree char *name = g_strdup_printf("%d.bin", d->blocks);

        if (!write_file(d, name, qemu_ram_get_host_addr(rb), size)) {
            return -1;
        }
        fprintf(d->list, "\"file\": \"%s\"}", name);
    }
    d->blocks++;
    return 0;
}

/* The oracle's pages, as a bitmap over the block that is the machine's RAM. */
static bool dump_oracle(Dump *d)
{
    RAMBlock *main_ram = current_machine->ram->ram_block;
    uint64_t pages = qemu_ram_get_used_length(main_ram) >> PVDIRTY_PAGE_SHIFT;
    g_autofree uint8_t *map = g_malloc0(DIV_ROUND_UP(pages, 8));

    for (guint i = 0; i < pvdirty_vm.ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(pvdirty_vm.ram, PVDirtyRam, i);

        if (r->mr->ram_block != main_ram) {
            continue;
        }
        for (hwaddr at = 0; at < r->size; at += PVDIRTY_PAGE_SIZE) {
            uint64_t n = (r->offset + at) >> PVDIRTY_PAGE_SHIFT;

            if (pvdirty_oracle_may_have_written(r->gpa + at)) {
                map[n / 8] |= 1 << n % 8;
            }
        }
    }
    fprintf(d->list, ", \"oracle\": {\"file\": \"oracle.bin\", "
            "\"block\": \"%s\"}", qemu_ram_get_idstr(main_ram));
    return write_file(d, "oracle.bin", map, DIV_ROUND_UP(pages, 8));
}

bool pvdirty_dump(const char *dir, Error **errp)
{
    g_autofree char *path = g_build_filename(dir, "blocks.json", NULL);
    Dump d = { .dir = dir };
    bool ok;

    if (runstate_is_running()) {
        error_setg(errp, "pvdirty: x-test-dump needs a stopped VM");
        return false;
    }
    d.list = fopen(path, "w");
    if (!d.list) {
        error_setg_errno(errp, errno, "pvdirty: cannot write %s", path);
        return false;
    }
    fprintf(d.list, "{\"pid\": %d, \"blocks\": [", getpid());
    ok = qemu_ram_foreach_block(dump_block, &d) == 0;
    fprintf(d.list, "\n]");
    if (ok && pvdirty_oracle_enabled()) {
        ok = dump_oracle(&d);
    }
    fprintf(d.list, "}\n");
    if (fclose(d.list) && ok) {
        error_setg_errno(&d.err, errno, "pvdirty: cannot write %s", path);
        ok = false;
    }
    error_propagate(errp, d.err);
    return ok;
}
