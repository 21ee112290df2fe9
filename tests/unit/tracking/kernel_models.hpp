// SPDX-License-Identifier: MIT
/** What the kernel does with the ioctls of a device's log and of an iommufd, as of Linux 6.12. */
#ifndef PVDIRTY_TESTS_UNIT_TRACKING_KERNEL_MODELS_HPP
#define PVDIRTY_TESTS_UNIT_TRACKING_KERNEL_MODELS_HPP

#include <bit>
#include <cstring>
#include <map>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "pvdirty/kernel_sources.hpp"
#include "unit/tracking/test_source.hpp"

namespace pvdirty::test {

/** A pointer that user space hands to the kernel as a number. */
template <class T>
T* user_pointer(std::uint64_t address) {
    return reinterpret_cast<T*>(address); // NOLINT(performance-no-int-to-ptr): it is one
}

/** Pages of 4 KiB that are dirty, reported into a bitmap of any page size and forgotten. */
class DirtyPages {
public:
    void write(std::uint64_t page) { pages_.insert(page); }
    void clear() { pages_.clear(); }
    [[nodiscard]] const Numbers& pages() const { return pages_; }

    /** The bits of [iova, last] relative to `base`; bits are only ever set. */
    void report(IovaRange range, std::uint64_t base, std::uint64_t page_size, std::uint64_t data,
                bool forget) {
        auto* const words = user_pointer<std::uint64_t>(data);
        for (auto page = pages_.begin(); page != pages_.end();) {
            const std::uint64_t iova = *page * kib4;
            if (iova < range.first || iova > range.last) {
                ++page;
                continue;
            }
            const std::uint64_t bit = (iova - base) / page_size;
            words[bit / 64] |= std::uint64_t{1} << bit % 64;
            page = forget ? pages_.erase(page) : std::next(page);
        }
    }

private:
    Numbers pages_;
};

/** A VFIO device with log_ops like mlx5's: drivers/vfio/vfio_main.c and pci/mlx5/cmd.c. */
class DeviceModel {
public:
    bool has_log = true;
    std::map<std::uint32_t, int> fail; ///< by feature: an errno
    std::vector<IovaRange> ranges;     ///< of the last START
    int calls = 0;

    /** The device writes a page: logged if it was told to. */
    void write(std::uint64_t page) {
        for (const IovaRange& range : ranges) {
            if (active_ && range.first <= page * kib4 && page * kib4 <= range.last) {
                dirty_.write(page);
            }
        }
    }
    [[nodiscard]] bool active() const { return active_; }
    [[nodiscard]] Ioctl ioctl() {
        return [this](int fd, unsigned long request, void* arg) { return call(fd, request, arg); };
    }

private:
    int call(int fd, unsigned long request, void* arg) {
        calls++;
        struct {
            std::uint32_t argsz;
            std::uint32_t flags;
        } head{};
        std::memcpy(&head, arg, sizeof(head));
        if (fd != 17 || request != VFIO_DEVICE_FEATURE || head.argsz < sizeof(head)) {
            return -EINVAL;
        }
        const void* const data = static_cast<const std::byte*>(arg) + sizeof(head);
        const std::uint32_t feature = head.flags & VFIO_DEVICE_FEATURE_MASK;
        const std::uint32_t operation = head.flags & ~std::uint32_t{VFIO_DEVICE_FEATURE_MASK};
        if (!has_log) {
            return -ENOTTY;
        }
        if (const auto failing = fail.find(feature); failing != fail.end()) {
            return -failing->second;
        }
        if (operation != (feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
                              ? VFIO_DEVICE_FEATURE_GET
                              : VFIO_DEVICE_FEATURE_SET)) {
            return -EINVAL;
        }
        switch (feature) {
        case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
            return head.argsz < sizeof(head) + sizeof(vfio_device_feature_dma_logging_control)
                       ? -EINVAL
                       : start(data);
        case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
            active_ = false;
            dirty_.clear();
            return 0;
        case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
            return head.argsz < sizeof(head) + sizeof(vfio_device_feature_dma_logging_report)
                       ? -EINVAL
                       : report(data);
        default:
            return -ENOTTY;
        }
    }
    int start(const void* data) {
        vfio_device_feature_dma_logging_control control{};
        std::memcpy(&control, data, sizeof(control));
        if (control.num_ranges == 0 || active_) {
            return -EINVAL;
        }
        if (control.num_ranges > 256) {
            return -E2BIG;
        }
        std::vector<vfio_device_feature_dma_logging_range> list(control.num_ranges);
        std::memcpy(list.data(), user_pointer<const void>(control.ranges),
                    list.size() * sizeof(list[0]));
        std::vector<IovaRange> told;
        for (const auto& range : list) {
            if ((range.iova | range.length) % control.page_size != 0) {
                return -EINVAL;
            }
            if (range.length > UINT64_MAX - range.iova) {
                return -EOVERFLOW;
            }
            const IovaRange next{range.iova, range.iova + range.length - 1};
            for (const IovaRange& other : told) {
                if (other.overlaps(next)) {
                    return -EINVAL;
                }
            }
            told.push_back(next);
        }
        ranges = told;
        active_ = true;
        return 0;
    }
    int report(const void* data) {
        vfio_device_feature_dma_logging_report report{};
        std::memcpy(&report, data, sizeof(report));
        if (report.page_size < 4096 || !std::has_single_bit(report.page_size) || !active_) {
            return -EINVAL;
        }
        if (report.length > UINT64_MAX - report.iova) {
            return -EOVERFLOW;
        }
        dirty_.report({report.iova, report.iova + report.length - 1}, report.iova, report.page_size,
                      report.bitmap, true);
        return 0;
    }

    bool active_ = false;
    DirtyPages dirty_;
};

/** An iommufd with one HWPT, 5: drivers/iommu/iommufd/hw_pagetable.c and io_pagetable.c. */
class IommufdModel {
public:
    bool tracks = true;
    int fail_get = 0; ///< an errno
    Mappings mapped;  ///< in the IOAS
    int enables = 0;
    std::vector<std::uint32_t> get_flags;

    /** A device behind it writes a page. */
    void write(std::uint64_t page) {
        if (!mapped.in({page * kib4, page * kib4}).empty()) {
            dirty_.write(page);
        }
    }
    [[nodiscard]] bool enabled() const { return enabled_; }
    [[nodiscard]] const Numbers& dirty() const { return dirty_.pages(); }
    [[nodiscard]] Ioctl ioctl() {
        return [this](int fd, unsigned long request, void* arg) {
            if (fd != 18) {
                return -EBADF;
            }
            switch (request) {
            case IOMMU_HWPT_SET_DIRTY_TRACKING:
                return set(*static_cast<iommu_hwpt_set_dirty_tracking*>(arg));
            case IOMMU_HWPT_GET_DIRTY_BITMAP:
                return get(*static_cast<iommu_hwpt_get_dirty_bitmap*>(arg));
            default:
                return -ENOTTY;
            }
        };
    }

private:
    int set(const iommu_hwpt_set_dirty_tracking& set) {
        if (set.size < sizeof(set)) {
            return -EINVAL;
        }
        if ((set.flags & ~std::uint32_t{IOMMU_HWPT_DIRTY_TRACKING_ENABLE}) != 0) {
            return -EOPNOTSUPP;
        }
        if (set.hwpt_id != 5) {
            return -ENOENT;
        }
        if (!tracks) {
            return -EOPNOTSUPP;
        }
        enabled_ = set.flags != 0;
        if (enabled_) { // clears, each time
            enables++;
            dirty_.clear();
        }
        return 0;
    }
    int get(const iommu_hwpt_get_dirty_bitmap& get) {
        get_flags.push_back(get.flags);
        if (fail_get != 0) {
            return -fail_get;
        }
        if (get.size < sizeof(get) || get.length == 0 || get.page_size == 0) {
            return -EINVAL;
        }
        if (get.length - 1 > UINT64_MAX - get.iova) {
            return -EOVERFLOW;
        }
        const IovaRange range{get.iova, get.iova + (get.length - 1)};
        if (!range.aligned(kib4) || !range.aligned(get.page_size)) {
            return -EINVAL;
        }
        // What the walk says is dropped: 0 while tracking is off, and 0 when it stops at a hole.
        if (enabled_) {
            std::uint64_t next = range.first;
            for (const IovaRange& mapping : mapped.in(range)) {
                if ((mapping & range).first != next) {
                    break;
                }
                dirty_.report(mapping & range, get.iova, get.page_size, get.data,
                              (get.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) == 0);
                next = (mapping & range).last + 1;
            }
        }
        return 0;
    }

    bool enabled_ = false;
    DirtyPages dirty_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_TRACKING_KERNEL_MODELS_HPP
