// SPDX-License-Identifier: GPL-2.0
/*
 * Does what it must not, so that a kernel's checkers can be seen to be at work:
 * loading it with a fault has them report it. It does no lasting harm.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

static char *fault = "";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "use-after-free, race, lock-order, rcu or dma");

#define RACE_MS 3000 /* what is seen of a race is a matter of luck */

static int planted_use_after_free(void)
{
	int *freed = kzalloc(sizeof(*freed), GFP_KERNEL);

	if (!freed)
		return -ENOMEM;
	kfree(freed);
	/* The compiler must not see it. */
	OPTIMIZER_HIDE_VAR(freed);
	pr_info("%d\n", *freed);
	return 0;
}

static unsigned long planted_word;

static int planted_race_thread(void *unused)
{
	while (!kthread_should_stop()) {
		planted_word++;
		barrier();
		cond_resched();
	}
	return 0;
}

static int planted_race(void)
{
	struct task_struct *threads[2];
	unsigned int i;
	int ret = 0;

	for (i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = kthread_run(planted_race_thread, NULL, "planted");
	msleep(RACE_MS);
	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		if (IS_ERR(threads[i]))
			ret = PTR_ERR(threads[i]);
		else
			kthread_stop(threads[i]);
	}
	return ret;
}

static int planted_lock_order(void)
{
	static DEFINE_MUTEX(first);
	static DEFINE_MUTEX(second);

	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);

	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
	return 0;
}

static int planted_rcu(void)
{
	static int __rcu *pointer;

	return rcu_dereference(pointer) ? -EINVAL : 0;
}

static int planted_dma(void)
{
	struct platform_device *pdev;
	int ret;

	pdev = platform_device_register_simple("planted", PLATFORM_DEVID_NONE,
					       NULL, 0);
	if (IS_ERR(pdev))
		return PTR_ERR(pdev);
	ret = dma_coerce_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (!ret)
		dma_unmap_single(&pdev->dev, 0x10000, PAGE_SIZE,
				 DMA_FROM_DEVICE);
	platform_device_unregister(pdev);
	return ret;
}

static const struct {
	const char *name;
	int (*plant)(void);
} faults[] = {
	{ "use-after-free", planted_use_after_free },
	{ "race", planted_race },
	{ "lock-order", planted_lock_order },
	{ "rcu", planted_rcu },
	{ "dma", planted_dma },
};

static int __init planted_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (!strcmp(fault, faults[i].name))
			return faults[i].plant();
	}
	return -EINVAL;
}
module_init(planted_init);

static void __exit planted_exit(void)
{
}
module_exit(planted_exit);

MODULE_DESCRIPTION("Faults for the kernel's checkers to find, for the tests of pvdirty");
MODULE_LICENSE("GPL");
