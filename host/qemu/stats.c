/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a port tells the operator: QOM properties, all but one read-only. */
#include "qemu/osdep.h"
#include "oracle.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "vm.h"

typedef enum StatId {
    STAT_HARVESTS,
    STAT_PAGES_MARKED,
    STAT_PAGES_IN_FLIGHT,
    STAT_ANSWERED_ALL_DIRTY,
    STAT_LAST_PASS_PAGES,
    STAT_LOG_ADDR,
    STAT_LOG_PAGES,
    STAT_SECTIONS,
    STAT_ORACLE_WRITTEN,
    STAT_ORACLE_MARKED,
    STAT_ORACLE_UNCOVERED,
    STAT_ORACLE_OVERMARKED,
} StatId;

static const struct {
    const char *name;
    StatId id;
    const char *what;
} stats[] = {
    { "harvests", STAT_HARVESTS, "harvests of the session" },
    { "pages-marked", STAT_PAGES_MARKED, "marks taken, over its harvests" },
    { "pages-in-flight", STAT_PAGES_IN_FLIGHT, "at the last harvest" },
    { "answered-all-dirty", STAT_ANSWERED_ALL_DIRTY,
      "harvests of the session that answered \"all dirty\"" },
    { "last-pass-pages", STAT_LAST_PASS_PAGES,
      "pages left to send after the last sync" },
    { "log-addr", STAT_LOG_ADDR, "GPA of the registered log" },
    { "log-pages", STAT_LOG_PAGES, "size of its first area" },
    { "sections", STAT_SECTIONS, "windows of 1 GiB it describes" },
    { "x-oracle-written", STAT_ORACLE_WRITTEN, "pages devices wrote" },
    { "x-oracle-marked", STAT_ORACLE_MARKED, "distinct pages marked" },
    { "x-oracle-uncovered", STAT_ORACLE_UNCOVERED,
      "pages written, but not reported" },
    { "x-oracle-overmarked", STAT_ORACLE_OVERMARKED,
      "pages marked, but not written" },
};

static uint64_t stat_value(StatId id)
{
    struct pvd_stats s;
    PVDirtyOracleStats o = pvdirty_oracle_stats();

    pvd_domain_stats(pvdirty_vm.domain, &s);
    switch (id) {
    case STAT_HARVESTS:
        return s.harvests;
    case STAT_PAGES_MARKED:
        return s.pages_marked;
    case STAT_PAGES_IN_FLIGHT:
        return s.pages_in_flight;
    case STAT_ANSWERED_ALL_DIRTY:
        return pvdirty_vm.answered_all_dirty;
    case STAT_LAST_PASS_PAGES:
        return pvdirty_vm.last_pass_pages;
    case STAT_LOG_ADDR:
        return s.log_addr;
    case STAT_LOG_PAGES:
        return s.log_pages;
    case STAT_SECTIONS:
        return s.sections;
    case STAT_ORACLE_WRITTEN:
        return o.written;
    case STAT_ORACLE_MARKED:
        return o.marked;
    case STAT_ORACLE_UNCOVERED:
        return o.uncovered;
    case STAT_ORACLE_OVERMARKED:
        return o.overmarked;
    }
    g_assert_not_reached();
}

static void get_stat(Object *o, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    uint64_t value = stat_value((StatId)(uintptr_t)opaque);

    visit_type_uint64(v, name, &value, errp);
}

static bool get_registered(Object *o, Error **errp)
{
    struct pvd_stats s;

    pvd_domain_stats(pvdirty_vm.domain, &s);
    return s.registered;
}

static bool get_logging(Object *o, Error **errp)
{
    struct pvd_stats s;

    pvd_domain_stats(pvdirty_vm.domain, &s);
    return s.logging;
}

static bool get_complete(Object *o, Error **errp)
{
    return pvd_domain_complete(pvdirty_vm.domain, NULL, 0);
}

static char *get_why(Object *o, Error **errp)
{
    char why[256];

    if (pvd_domain_complete(pvdirty_vm.domain, why, sizeof(why))) {
        why[0] = '\0';
    }
    return g_strdup(why);
}

static char *get_dump(Object *o, Error **errp)
{
    return g_strdup("");
}

static void set_dump(Object *o, const char *dir, Error **errp)
{
    pvdirty_dump(dir, errp);
}

void pvdirty_stats_class_init(ObjectClass *oc)
{
    for (int i = 0; i < ARRAY_SIZE(stats); i++) {
        object_class_property_add(oc, stats[i].name, "uint64", get_stat, NULL,
                                  NULL, (void *)(uintptr_t)stats[i].id);
        object_class_property_set_description(oc, stats[i].name,
                                              stats[i].what);
    }
    object_class_property_add_bool(oc, "registered", get_registered, NULL);
    object_class_property_add_bool(oc, "logging", get_logging, NULL);
    object_class_property_add_bool(oc, "complete", get_complete, NULL);
    object_class_property_add_str(oc, "why-incomplete", get_why, NULL);
    object_class_property_add_str(oc, "x-test-dump", get_dump, set_dump);
    object_class_property_set_description(oc, "x-test-dump",
        "write all migratable RAM but file-backed to this directory, with a "
        "list of blocks");
}
