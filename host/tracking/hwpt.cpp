// SPDX-License-Identifier: MIT
/*
 * IOMMU_HWPT_SET_DIRTY_TRACKING and GET_DIRTY_BITMAP: drivers/iommu/iommufd/hw_pagetable.c and
 * io_pagetable.c of Linux 6.12.
 */
#include <cerrno>

#include <linux/iommufd.h>

#include "pvdirty/kernel_sources.hpp"

namespace pvdirty::iommufd {

int Hwpt::set_tracking(bool on) const {
    iommu_hwpt_set_dirty_tracking set{};
    set.size = sizeof(set);
    set.flags = on ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0;
    set.hwpt_id = hwpt_id_;
    return call(IOMMU_HWPT_SET_DIRTY_TRACKING, &set);
}

tl::expected<void, SourceError> Hwpt::do_start() {
    cannot_say_.clear();
    const int result = set_tracking(true);
    if (result == -EOPNOTSUPP) {
        cannot_say_ = "the IOMMU does not track dirty pages";
        return {};
    }
    if (result < 0) {
        return failed("IOMMU_HWPT_SET_DIRTY_TRACKING", result);
    }
    return {};
}

tl::expected<void, SourceError> Hwpt::do_stop() {
    if (!cannot_say_.empty()) {
        return {};
    }
    if (const int result = set_tracking(false); result < 0) {
        return failed("IOMMU_HWPT_SET_DIRTY_TRACKING", result);
    }
    return {};
}

tl::expected<Answer, SourceError> Hwpt::read(IovaRange range, const DirtyBitmap& bitmap,
                                             std::uint32_t flags) {
    for (const IovaRange& area : mappings().areas(range)) {
        if (!cannot_say_.empty()) {
            bitmap.set(area);
            continue;
        }
        std::vector<std::uint64_t> words(DirtyBitmap::words_for(area, page_size_));
        iommu_hwpt_get_dirty_bitmap get{};
        get.size = sizeof(get);
        get.hwpt_id = hwpt_id_;
        get.flags = flags;
        get.iova = area.first;
        get.length = area.size();
        get.page_size = page_size_;
        get.data = reinterpret_cast<std::uintptr_t>(words.data());
        if (const int result = call(IOMMU_HWPT_GET_DIRTY_BITMAP, &get); result < 0) {
            return failed("IOMMU_HWPT_GET_DIRTY_BITMAP", result);
        }
        bitmap.merge(*DirtyBitmap::over(area, page_size_, words));
    }
    return Answer{cannot_say_};
}

tl::expected<Answer, SourceError> Hwpt::do_read(IovaRange range, const DirtyBitmap& bitmap) {
    return read(range, bitmap, 0);
}

tl::expected<Answer, SourceError> Hwpt::do_unmap_one(IovaRange mapping, const DirtyBitmap* bitmap) {
    // The page table entries go next: clearing their bits would be for nothing.
    return bitmap != nullptr ? read(mapping, *bitmap, IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR)
                             : tl::expected<Answer, SourceError>(Answer{});
}

} // namespace pvdirty::iommufd
