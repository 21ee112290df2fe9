// SPDX-License-Identifier: GPL-2.0
/*
 * What there is to see in debugfs: pvdirty/status (the log, the ports) and
 * pvdirty/devices (one line for each covered device).
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "pvdirty.h"

static struct dentry *dir;

static void show_features(struct seq_file *m, u32 features)
{
	seq_printf(m, "%s%s%s", features & BIT(PVDIRTY_F_BITMAP) ? " bitmap" : "",
		   features & BIT(PVDIRTY_F_INFLIGHT) ? " inflight" : "",
		   features & BIT(PVDIRTY_F_TOUCH) ? " touch" : "");
}

static void show_incomplete(struct seq_file *m, u32 bits)
{
	static const char *const text[] = {
		[PVDIRTY_I_OUTSIDE] = "outside",
		[PVDIRTY_I_UNDERFLOW] = "underflow",
		[PVDIRTY_I_CHILD] = "child",
		[PVDIRTY_I_DEVICES] = "devices",
		[PVDIRTY_I_NO_MEMORY] = "no-memory",
	};
	unsigned int i;

	seq_printf(m, "incomplete: %#x", bits);
	for (i = 0; i < ARRAY_SIZE(text); i++) {
		if (bits & BIT(i))
			seq_printf(m, " %s", text[i]);
	}
	seq_putc(m, '\n');
}

static int status_show(struct seq_file *m, void *unused)
{
	struct pvd_port *port;

	mutex_lock(&pvdirty.lock);
	list_for_each_entry(port, &pvdirty.ports, node) {
		seq_printf(m, "port: %s %s", pci_name(port->pdev),
			   port->registered ? "registered" : "unregistered");
		show_features(m, port->features);
		seq_putc(m, '\n');
	}
	if (pvd_have_log()) {
		const struct pvdirty_log *ctl = pvdirty.log.ctl;
		phys_addr_t phys = pvd_log_phys();

		seq_printf(m, "domain: %u\n", pvdirty.domain);
		seq_printf(m, "log: %pa %u pages\n", &phys, pvdirty.log_pages);
		seq_printf(m, "sections: %u\n", le32_to_cpu(ctl->nsections));
		seq_printf(m, "logging: %d\n", pvd_logging(&pvdirty.log));
		seq_printf(m, "gaps: %u\n", le32_to_cpu(ctl->gaps));
		show_incomplete(m, le32_to_cpu(ctl->incomplete));
		seq_printf(m, "pages in flight: %llu\n", pvd_log_in_flight());
	}
	mutex_unlock(&pvdirty.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(status);

static int devices_show(struct seq_file *m, void *unused)
{
	struct pvd_dev *pd;

	mutex_lock(&pvdirty.lock);
	list_for_each_entry(pd, &pvdirty.devs, node) {
		seq_printf(m, "%s %s", dev_name(pd->dev),
			   pd->gone ? "gone" :
			   pd->state == PVDIRTY_DEV_TRACKED ? "tracked" :
							      "untracked");
		if (!IS_BUILTIN(CONFIG_PVDIRTY)) /* else nobody counts them */
			seq_printf(m, " mappings=%ld",
				   pd->layer ?
				   pvd_attach_outstanding(pd->layer) : 0);
		if (pd->reason)
			seq_printf(m, " (%s)", pvd_reason_text(pd->reason));
		seq_putc(m, '\n');
	}
	mutex_unlock(&pvdirty.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(devices);

void pvd_stats_init(void)
{
	dir = debugfs_create_dir("pvdirty", NULL);
	debugfs_create_file("status", 0400, dir, NULL, &status_fops);
	debugfs_create_file("devices", 0400, dir, NULL, &devices_fops);
}

void pvd_stats_exit(void)
{
	debugfs_remove(dir);
}
