// SPDX-License-Identifier: GPL-2.0
/*
 * A VFIO device that logs its DMA. What is written to the device is an address,
 * eight bytes, and what it is to write there, within a page. With nothing after
 * the address it logs the page as if it had. An address of all ones has the
 * next report fail.
 */
#include <linux/bitmap.h>
#include <linux/err.h>
#include <linux/interval_tree.h>
#include <linux/iova_bitmap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/version.h>
#include <linux/vfio.h>

#define DMA_LOG_PAGES 65536 /* from address 0 on */
#define DMA_LOG_FAIL U64_MAX

struct dma_log {
	struct vfio_device vdev;
	struct mutex lock; /* of all below */
	bool logging;
	bool fail;
	DECLARE_BITMAP(told, DMA_LOG_PAGES); /* the ranges to log */
	DECLARE_BITMAP(dirty, DMA_LOG_PAGES);
};

static struct dma_log *to_dma_log(struct vfio_device *vdev)
{
	return container_of(vdev, struct dma_log, vdev);
}

static int dma_log_start(struct vfio_device *vdev, struct rb_root_cached *ranges,
			 u32 nnodes, u64 *page_size)
{
	struct dma_log *log = to_dma_log(vdev);
	struct interval_tree_node *node;
	int ret = 0;

	mutex_lock(&log->lock);
	if (log->logging) {
		ret = -EINVAL;
		goto unlock;
	}
	bitmap_zero(log->told, DMA_LOG_PAGES);
	bitmap_zero(log->dirty, DMA_LOG_PAGES);
	for (node = interval_tree_iter_first(ranges, 0, ULONG_MAX); node;
	     node = interval_tree_iter_next(node, 0, ULONG_MAX)) {
		unsigned long first = node->start >> PAGE_SHIFT;
		unsigned long last = node->last >> PAGE_SHIFT;

		if (last >= DMA_LOG_PAGES) {
			ret = -ERANGE;
			goto unlock;
		}
		bitmap_set(log->told, first, last - first + 1);
	}
	log->fail = false;
	log->logging = true;
	*page_size = PAGE_SIZE;
unlock:
	mutex_unlock(&log->lock);
	return ret;
}

static int dma_log_stop(struct vfio_device *vdev)
{
	struct dma_log *log = to_dma_log(vdev);

	mutex_lock(&log->lock);
	log->logging = false;
	mutex_unlock(&log->lock);
	return 0;
}

static int dma_log_read_and_clear(struct vfio_device *vdev, unsigned long iova,
				  unsigned long length,
				  struct iova_bitmap *bitmap)
{
	struct dma_log *log = to_dma_log(vdev);
	unsigned long end = min((iova + length) >> PAGE_SHIFT, DMA_LOG_PAGES);
	unsigned long page;
	int ret = 0;

	mutex_lock(&log->lock);
	if (!log->logging) {
		ret = -EINVAL;
	} else if (log->fail) {
		ret = -EIO;
	} else {
		for (page = iova >> PAGE_SHIFT; page < end; page++) {
			if (test_and_clear_bit(page, log->dirty))
				iova_bitmap_set(bitmap, page << PAGE_SHIFT,
						PAGE_SIZE);
		}
	}
	mutex_unlock(&log->lock);
	return ret;
}

static const struct vfio_log_ops dma_log_ops = {
	.log_start = dma_log_start,
	.log_stop = dma_log_stop,
	.log_read_and_clear = dma_log_read_and_clear,
};

static int dma_log_init(struct vfio_device *vdev)
{
	mutex_init(&to_dma_log(vdev)->lock);
	vdev->log_ops = &dma_log_ops;
	return 0;
}

static void dma_log_release(struct vfio_device *vdev)
{
	mutex_destroy(&to_dma_log(vdev)->lock);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	vfio_free_device(vdev);
#endif
}

/* What a user did not stop ends with it. */
static void dma_log_close(struct vfio_device *vdev)
{
	dma_log_stop(vdev);
}

static ssize_t dma_log_write(struct vfio_device *vdev, const char __user *buf,
			     size_t count, loff_t *ppos)
{
	struct dma_log *log = to_dma_log(vdev);
	unsigned long page;
	size_t bytes;
	int ret = 0;
	u64 *order;

	if (count < sizeof(*order) || count > sizeof(*order) + PAGE_SIZE)
		return -EINVAL;
	bytes = count - sizeof(*order);
	order = memdup_user(buf, count);
	if (IS_ERR(order))
		return PTR_ERR(order);
	page = *order >> PAGE_SHIFT;
	if (*order != DMA_LOG_FAIL &&
	    (page >= DMA_LOG_PAGES || offset_in_page(*order) + bytes > PAGE_SIZE)) {
		ret = -ERANGE;
		goto free;
	}

	/* A report comes before both, or after both. */
	mutex_lock(&log->lock);
	if (*order == DMA_LOG_FAIL)
		log->fail = true;
	else if (bytes)
		ret = vfio_dma_rw(vdev, *order, order + 1, bytes, true);
	if (!ret && log->logging && page < DMA_LOG_PAGES &&
	    test_bit(page, log->told))
		__set_bit(page, log->dirty);
	mutex_unlock(&log->lock);
free:
	kfree(order);
	return ret ?: count;
}

static long dma_log_ioctl(struct vfio_device *vdev, unsigned int cmd,
			  unsigned long arg)
{
	return -ENOTTY;
}

static const struct vfio_device_ops dma_log_dev_ops = {
	.name = "dma_log",
	.init = dma_log_init,
	.release = dma_log_release,
	.close_device = dma_log_close,
	.write = dma_log_write,
	.ioctl = dma_log_ioctl,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
};

static int dma_log_probe(struct platform_device *pdev)
{
	struct dma_log *log;
	int ret;

	log = vfio_alloc_device(dma_log, vdev, &pdev->dev, &dma_log_dev_ops);
	if (IS_ERR(log))
		return PTR_ERR(log);
	ret = vfio_register_emulated_iommu_dev(&log->vdev);
	if (ret) {
		vfio_put_device(&log->vdev);
		return ret;
	}
	platform_set_drvdata(pdev, log);
	return 0;
}

static void dma_log_remove(struct platform_device *pdev)
{
	struct dma_log *log = platform_get_drvdata(pdev);

	vfio_unregister_group_dev(&log->vdev);
	vfio_put_device(&log->vdev);
}

/* VFIO takes a reference to the driver's module when the device is opened. */
static struct platform_driver dma_log_driver = {
	.driver.name = "dma_log",
	.probe = dma_log_probe,
	.remove_new = dma_log_remove,
};

static struct platform_device *dma_log_pdev;

static int __init dma_log_module_init(void)
{
	int ret = platform_driver_register(&dma_log_driver);

	if (ret)
		return ret;
	dma_log_pdev = platform_device_register_simple("dma_log",
						       PLATFORM_DEVID_NONE,
						       NULL, 0);
	if (IS_ERR(dma_log_pdev)) {
		platform_driver_unregister(&dma_log_driver);
		return PTR_ERR(dma_log_pdev);
	}
	return 0;
}

static void __exit dma_log_module_exit(void)
{
	platform_device_unregister(dma_log_pdev);
	platform_driver_unregister(&dma_log_driver);
}

module_init(dma_log_module_init);
module_exit(dma_log_module_exit);
MODULE_IMPORT_NS(IOMMUFD);
MODULE_DESCRIPTION("VFIO device with a DMA log, for tests");
MODULE_LICENSE("GPL");
