// SPDX-License-Identifier: MIT
/** VFIO's type1 interface to dirty pages, on top of any source. */
#ifndef PVDIRTY_TYPE1_HPP
#define PVDIRTY_TYPE1_HPP

#include <cstdint>
#include <set>

#include "pvdirty/dirty_source.hpp"
#include "pvdirty/kernel_sources.hpp"

struct vfio_iommu_type1_dirty_bitmap_get;
struct vfio_iommu_type1_dma_unmap;
struct vfio_bitmap;

namespace pvdirty::vfio {

/**
 * Takes the ioctls of a type1 (v2) container that concern dirty pages, with the kernel's own
 * structures of <linux/vfio.h>, and answers as Linux 6.12 does, errno for errno:
 * VFIO_IOMMU_DIRTY_PAGES; VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA, which keep account of what
 * is mapped and map nothing (without VFIO_DMA_MAP_FLAG_VADDR, as before VFIO_UPDATE_VADDR);
 * VFIO_IOMMU_GET_INFO with the migration capability alone. What the source cannot say, or fails
 * to, is dirty.
 *
 * Memory of the caller is read and written by process_vm_readv(2) and writev(2), so that a bad
 * pointer is EFAULT.
 *
 * Threads: serialised by the caller.
 */
class Type1DirtyPages {
public:
    /**
     * @param source outlives this, is stopped, and nobody else starts, stops or reads it
     * @param page_size a power of two, at least the source's
     */
    explicit Type1DirtyPages(DirtySource& source, std::uint64_t page_size = 4096)
        : source_(source), page_size_(page_size) {}

    /** @returns 0 or -errno; ENOTTY: an ioctl that is not listed above */
    int ioctl(unsigned long request, void* arg);

private:
    int dirty_pages(void* arg);
    int start();
    int stop();
    int get_bitmap(const vfio_iommu_type1_dirty_bitmap_get& get);
    int map_dma(void* arg);
    int unmap_dma(void* arg);
    int unmap(vfio_iommu_type1_dma_unmap& request, const vfio_bitmap* bitmap);
    int get_info(void* arg) const;

    [[nodiscard]] bool page_aligned(std::uint64_t value) const noexcept {
        return (value & (page_size_ - 1)) == 0;
    }
    [[nodiscard]] bool trackable(IovaRange mapping) const noexcept;
    int hand_over(IovaRange mapping, std::uint64_t base, const vfio_bitmap& bitmap, bool last);

    DirtySource& source_;
    std::uint64_t page_size_;
    Mappings mappings_;
    std::set<std::uint64_t> unread_; // mappings whose bits were taken and did not arrive
    bool tracking_ = false;
};

} // namespace pvdirty::vfio

#endif // PVDIRTY_TYPE1_HPP
