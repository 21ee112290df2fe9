// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that comes while the log is in use. Where it may come is known from
 * the firmware's SRAT, so the log has a place for it from its start; marks and
 * counters are allocated when it is about to be used, and the log is registered
 * anew. Memory that leaves stays described: what was marked in it does no harm.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/acpi.h>
#include <linux/memory.h>
#include <linux/notifier.h>
#include <linux/pfn.h>

#include "pvdirty.h"

#ifdef CONFIG_ACPI
static void srat_entry(const struct acpi_subtable_header *entry,
		       void (*range)(u64 first, u64 last, void *arg), void *arg)
{
	const struct acpi_srat_mem_affinity *mem = (const void *)entry;
	const u32 wanted = ACPI_SRAT_MEM_ENABLED | ACPI_SRAT_MEM_HOT_PLUGGABLE;

	if (entry->type != ACPI_SRAT_TYPE_MEMORY_AFFINITY ||
	    entry->length < sizeof(*mem) || (mem->flags & wanted) != wanted ||
	    !mem->length || mem->base_address + mem->length < mem->length)
		return;
	range(PHYS_PFN(mem->base_address),
	      PHYS_PFN(mem->base_address + mem->length - 1), arg);
}

void pvd_memplug_ranges(void (*range)(u64 first, u64 last, void *arg),
			void *arg)
{
	const struct acpi_subtable_header *entry;
	struct acpi_table_header *table;
	u32 at;

	if (ACPI_FAILURE(acpi_get_table(ACPI_SIG_SRAT, 0, &table)))
		return;
	for (at = sizeof(struct acpi_table_srat);
	     at + sizeof(*entry) <= table->length; at += entry->length) {
		entry = (const void *)table + at;
		if (entry->length < sizeof(*entry) ||
		    entry->length > table->length - at)
			break;
		srat_entry(entry, range, arg);
	}
	acpi_put_table(table);
}
#else
void pvd_memplug_ranges(void (*range)(u64 first, u64 last, void *arg),
			void *arg)
{
}
#endif

/*
 * The memory comes all the same if the log cannot describe it: a device that
 * maps a page of it is reported then.
 */
static int on_memory(struct notifier_block *nb, unsigned long action,
		     void *data)
{
	const struct memory_notify *mem = data;
	u64 first = mem->start_pfn, last = first + mem->nr_pages - 1;
	int ret = 0;

	if (action != MEM_GOING_ONLINE)
		return NOTIFY_DONE;
	mutex_lock(&pvdirty.lock);
	if (pvd_have_log() && !pvdirty.stopping)
		ret = pvd_log_grow(first, last);
	mutex_unlock(&pvdirty.lock);
	if (ret)
		pr_warn("the log cannot describe new memory at %#llx (%d): a device that maps it will not be tracked\n",
			PFN_PHYS(first), ret);
	return NOTIFY_OK;
}

static struct notifier_block memory_nb = {
	.notifier_call = on_memory,
};

int pvd_memplug_init(void)
{
	return register_memory_notifier(&memory_nb);
}

void pvd_memplug_exit(void)
{
	unregister_memory_notifier(&memory_nb);
}
