/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the oracle records, without ever looking at the log:
 *
 *   handed   a device got the page to write to (the IOMMU region's
 *            translation), and may still hold it;
 *   written  QEMU has finished a write to it (it set the page's dirty bit in
 *            the shadow block, after the store or at address_space_unmap()),
 *            and the guest has not reported it since.
 *
 * The check, at each harvest: a page in either set must be in flight or marked.
 * It is exact because of the order
 *
 *     written and handed  ->  counters  ->  marks  ->  counters again,
 *
 * all under the BQL, under which devices are handed pages and QEMU finishes
 * their writes; only the guest runs beside it. (A hand-out without the BQL, as
 * from an iothread, would break this: it is counted, and spoils the run.)
 *
 * No false alarm. The guest holds a page's mapping from before the hand-out
 * until after it saw the completion, which QEMU signals after the write is
 * finished; and it marks before it lowers the counter. So if the counter reads
 * 0, the mapping that the write went through is gone, its mark was set before
 * that, and after the previous harvest: this harvest must find it.
 * A release that runs while the session starts is the exception: the guest may
 * have read before that nobody logs, and need not mark. The device's write came
 * before, and so before the first pass reads the page. So a page in flight that
 * was handed out before the session (BEFORE) may leave without a mark, unless
 * it is handed out or written again.
 *
 * A hand-out need not be followed by a finished write (an aborted request). It
 * is forgotten once its page was harvested and the second look finds the
 * counter at 0. If that finds it above 0, the mapping's mark may still come,
 * or may be the one just taken, from a release that has yet to lower the
 * counter: such a page (TAKEN) is forgotten without a mark when its counter is
 * 0. A new hand-out of the page begins anew.
 *
 * No missed page. A finished write stays recorded until its page is harvested:
 * since it was recorded before the marks were read, the page is then sent with
 * it. A later write is recorded anew. At the final pass a page in flight is
 * reported too.
 *
 * A hand-out that lasts (AHCI's command list) never gets a dirty bit; it is
 * watched as handed, and is missed only if the guest dropped its count while
 * the device went on, and either had reported its page or had it in flight
 * since before the session.
 */
#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "oracle.h"
#include "untracked.h"
#include "vm.h"

#define PAGE(gpa) ((gpa) >> PVDIRTY_PAGE_SHIFT)

/* Sets of pages; bit n is PFN n. */
enum {
    EVER,       /* handed since the VM started */
    HANDED,     /* handed, and perhaps still held */
    OLD,        /* perhaps held since before a session that no guest counts */
    FINISHED,   /* written since it was handed out the last time */
    WRITTEN,    /* written, not reported since */
    SESSION,    /* written in this session */
    MARKED,     /* marked in this session */
    UNCOVERED,  /* failed the check in this session */
    AT_START,   /* in flight when the session started */
    BEFORE,     /* handed, and in flight, when it started; not handed since */
    TAKEN,      /* handed; then its mark was taken, and the counter not 0 */
    NOW_MARKED, /* of one harvest */
    NOW_FLYING, /* of one harvest */
    NSETS
};

static struct {
    bool enabled;
    unsigned long *set[NSETS];
    uint64_t pages;      /* size of each set; whole groups */
    uint32_t dropped;    /* marks suppressed on purpose */
    uint64_t unlocked;   /* hand-outs without the BQL */
    bool spoiled;
} oracle;

void pvdirty_oracle_enable(void)
{
    oracle.enabled = true;
}

bool pvdirty_oracle_enabled(void)
{
    return oracle.enabled;
}

void pvdirty_oracle_spoil(void)
{
    oracle.spoiled = true;
}

void pvdirty_oracle_resize(void)
{
    GArray *ram = pvdirty_vm.ram;
    uint64_t need = 0;

    for (guint i = 0; i < ram->len; i++) {
        const PVDirtyRam *r = &g_array_index(ram, PVDirtyRam, i);

        need = MAX(need, PAGE(ROUND_UP(r->gpa + r->size,
                                       PVDIRTY_GROUP_PAGES *
                                       PVDIRTY_PAGE_SIZE)));
    }
    if (need > oracle.pages) {
        for (int i = 0; i < NSETS; i++) {
            oracle.set[i] = bitmap_zero_extend(oracle.set[i], oracle.pages,
                                               need);
        }
        oracle.pages = need;
    }
}

void pvdirty_oracle_handed(hwaddr gpa)
{
    if (!qemu_mutex_iothread_locked() && !oracle.unlocked++) {
        error_report("pvdirty: a device below a test port does DMA without "
                     "the BQL (an iothread?): the oracle is not exact");
    }
    if (PAGE(gpa) < oracle.pages) {
        set_bit(PAGE(gpa), oracle.set[EVER]);
        set_bit(PAGE(gpa), oracle.set[HANDED]);
        clear_bit(PAGE(gpa), oracle.set[FINISHED]);
        clear_bit(PAGE(gpa), oracle.set[TAKEN]);
        clear_bit(PAGE(gpa), oracle.set[BEFORE]);
    }
}

bool pvdirty_oracle_was_handed(hwaddr gpa)
{
    return PAGE(gpa) < oracle.pages && test_bit(PAGE(gpa), oracle.set[EVER]);
}

void pvdirty_oracle_written(hwaddr gpa)
{
    set_bit(PAGE(gpa), oracle.set[FINISHED]);
    set_bit(PAGE(gpa), oracle.set[WRITTEN]);
    set_bit(PAGE(gpa), oracle.set[SESSION]);
}

static void take_written(void)
{
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        pvdirty_untracked_take_written(p);
    }
}

void pvdirty_oracle_session(void)
{
    static const int fresh[] = {
        WRITTEN, SESSION, MARKED, UNCOVERED, AT_START, BEFORE, TAKEN
    };
    struct pvd_stats stats;
    uint64_t pfn;

    take_written();
    pvd_domain_stats(pvdirty_vm.domain, &stats);
    if (!stats.registered) {
        /* What QEMU has finished is no longer held, as far as one can tell. */
        bitmap_andnot(oracle.set[HANDED], oracle.set[HANDED],
                      oracle.set[FINISHED], oracle.pages);
        bitmap_or(oracle.set[OLD], oracle.set[OLD], oracle.set[HANDED],
                  oracle.pages);
        bitmap_zero(oracle.set[HANDED], oracle.pages);
    }
    for (int i = 0; i < ARRAY_SIZE(fresh); i++) {
        bitmap_zero(oracle.set[fresh[i]], oracle.pages);
    }
    oracle.dropped = 0;
    if (!stats.registered) {
        return;
    }
    bitmap_zero(oracle.set[OLD], oracle.pages);
    for (pfn = find_first_bit(oracle.set[EVER], oracle.pages);
         pfn < oracle.pages;
         pfn = find_next_bit(oracle.set[EVER], oracle.pages, pfn + 1)) {
        if (pvd_page_in_flight(pvdirty_vm.domain, pfn)) {
            set_bit(pfn, oracle.set[AT_START]);
        } else {
            clear_bit(pfn, oracle.set[HANDED]);
        }
    }
    bitmap_copy(oracle.set[BEFORE], oracle.set[HANDED], oracle.pages);
}

/* The sets have whole groups: what lies beyond them is no RAM. */
static void add(int set, uint64_t first_pfn, const uint64_t *masks)
{
    if (first_pfn < oracle.pages) {
        for (int w = 0; w < PVD_GROUP_WORDS; w++) {
            oracle.set[set][first_pfn / 64 + w] |= masks[w];
        }
    }
}

static void add_marked(void *opaque, uint64_t first_pfn, const uint64_t *masks)
{
    add(NOW_MARKED, first_pfn, masks);
}

static void add_flying(void *opaque, uint64_t first_pfn, const uint64_t *masks)
{
    add(NOW_FLYING, first_pfn, masks);
}

/* Hands over a group of what was added. */
static void hand_over(pvd_pages_fn *function, void *opaque, int set,
                      uint64_t first_pfn)
{
    uint64_t masks[PVD_GROUP_WORDS], any = 0;

    for (int w = 0; w < PVD_GROUP_WORDS; w++) {
        masks[w] = oracle.set[set][first_pfn / 64 + w];
        any |= masks[w];
    }
    if (any && function) {
        function(opaque, first_pfn, masks);
    }
}

/* Marks that a control wants suppressed. */
static uint32_t marks_to_drop(void)
{
    uint32_t sum = 0;
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        sum += p->test_drop_marks;
    }
    return sum;
}

/* A control wants no page to count as in flight. */
static bool drops_in_flight(void)
{
    PVDirtyPort *p;

    QTAILQ_FOREACH(p, &pvdirty_vm.ports, next) {
        if (p->test_drop_in_flight) {
            return true;
        }
    }
    return false;
}

/* One word of 64 pages: the check, and what may be forgotten. */
static void audit(uint64_t i)
{
    unsigned long **set = oracle.set;
    unsigned long flying = set[NOW_FLYING][i];
    unsigned long marked = set[NOW_MARKED][i];
    unsigned long over = set[HANDED][i] & marked;
    unsigned long uncovered;

    set[HANDED][i] &= ~((set[TAKEN][i] | set[BEFORE][i]) & ~flying & ~marked);
    uncovered = (set[WRITTEN][i] | set[HANDED][i]) & ~flying & ~marked;
    set[UNCOVERED][i] |= uncovered;
    set[MARKED][i] |= marked;
    set[WRITTEN][i] &= ~(marked | uncovered);
    set[HANDED][i] &= ~uncovered;
    while (over) {
        int bit = ctzl(over);

        if (pvd_page_in_flight(pvdirty_vm.domain, i * 64 + bit)) {
            set_bit(bit, &set[TAKEN][i]);
        } else {
            clear_bit(bit, &set[HANDED][i]);
        }
        over &= over - 1;
    }
}

struct pvd_harvest_result pvdirty_oracle_harvest(const struct pvd_sink *sink)
{
    const struct pvd_sink ours = {
        .in_flight = add_flying,
        .marked = add_marked,
    };
    unsigned long **set = oracle.set;
    uint32_t drop = marks_to_drop();
    struct pvd_harvest_result result;

    bitmap_zero(set[NOW_MARKED], oracle.pages);
    bitmap_zero(set[NOW_FLYING], oracle.pages);
    take_written();
    result = pvd_harvest(pvdirty_vm.domain, &ours);
    if (drops_in_flight()) {
        bitmap_zero(set[NOW_FLYING], oracle.pages);
    }
    for (uint64_t i = 0; i < oracle.pages / 64; i++) {
        while (oracle.dropped < drop &&
               (set[NOW_MARKED][i] & set[WRITTEN][i] & ~set[NOW_FLYING][i])) {
            clear_bit(ctzl(set[NOW_MARKED][i] & set[WRITTEN][i] &
                           ~set[NOW_FLYING][i]), &set[NOW_MARKED][i]);
            oracle.dropped++;
        }
        audit(i);
    }
    for (uint64_t pfn = 0; pfn < oracle.pages; pfn += PVDIRTY_GROUP_PAGES) {
        hand_over(sink->marked, sink->opaque, NOW_MARKED, pfn);
        hand_over(sink->in_flight, sink->opaque, NOW_FLYING, pfn);
    }
    return result;
}

bool pvdirty_oracle_may_have_written(hwaddr gpa)
{
    uint64_t pfn = PAGE(gpa);

    return pfn < oracle.pages && (test_bit(pfn, oracle.set[SESSION]) ||
                                  test_bit(pfn, oracle.set[HANDED]) ||
                                  test_bit(pfn, oracle.set[OLD]));
}

PVDirtyOracleStats pvdirty_oracle_stats(void)
{
    PVDirtyOracleStats s = { 0 };

    for (uint64_t i = 0; i < oracle.pages / 64; i++) {
        unsigned long written = oracle.set[SESSION][i] | oracle.set[HANDED][i];
        unsigned long marked = oracle.set[MARKED][i];

        s.written += ctpopl(written);
        s.marked += ctpopl(marked);
        s.uncovered += ctpopl(oracle.set[UNCOVERED][i]);
        s.overmarked += ctpopl(marked & ~written & ~oracle.set[AT_START][i]);
    }
    /* A run that the oracle could not watch proves nothing. */
    s.uncovered = MAX(s.uncovered, oracle.unlocked + oracle.spoiled);
    return s;
}
