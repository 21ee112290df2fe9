// SPDX-License-Identifier: GPL-2.0
/*
 * The registration is given up before the guest stops being what the host has
 * registered: reboot, kexec (which runs the reboot notifiers too), suspend and
 * hibernation. Counting goes on, since mappings live on.
 *
 * A crash says nothing: a kexec'ed crash kernel runs before any notifier would,
 * and the configuration space may be locked by a CPU that was stopped. The host
 * drops the registration when it sees the ports enumerated anew.
 */
#include <linux/reboot.h>
#include <linux/suspend.h>

#include "pvdirty.h"

static int on_reboot(struct notifier_block *nb, unsigned long action,
		     void *data)
{
	mutex_lock(&pvdirty.lock);
	pvd_ports_unregister();
	mutex_unlock(&pvdirty.lock);
	return NOTIFY_DONE;
}

static struct notifier_block reboot_nb = {
	.notifier_call = on_reboot,
};

static int on_pm(struct notifier_block *nb, unsigned long action, void *data)
{
	mutex_lock(&pvdirty.lock);
	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		pvd_ports_unregister();
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		/* Not for a log that is about to be freed. */
		if (!pvdirty.stopping)
			pvd_ports_register();
		break;
	}
	mutex_unlock(&pvdirty.lock);
	return NOTIFY_DONE;
}

static struct notifier_block pm_nb = {
	.notifier_call = on_pm,
};

int pvd_life_init(void)
{
	int ret = register_reboot_notifier(&reboot_nb);

	if (ret)
		return ret;
	ret = register_pm_notifier(&pm_nb);
	if (ret)
		unregister_reboot_notifier(&reboot_nb);
	return ret;
}

void pvd_life_exit(void)
{
	unregister_pm_notifier(&pm_nb);
	unregister_reboot_notifier(&reboot_nb);
}
