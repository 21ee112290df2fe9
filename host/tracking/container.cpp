// SPDX-License-Identifier: MIT
/* VFIO_IOMMU_DIRTY_PAGES: drivers/vfio/vfio_iommu_type1.c of Linux 6.12. */
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include <linux/vfio.h>

#include "pvdirty/kernel_sources.hpp"
#include "tracking/bits.hpp"
#include "tracking/vfio_arguments.hpp"

namespace pvdirty::vfio {

namespace {

vfio_bitmap bitmap_of(std::vector<std::uint64_t>& words, std::uint64_t page_size) {
    vfio_bitmap bitmap{};
    bitmap.pgsize = page_size;
    bitmap.size = words.size() * sizeof(std::uint64_t);
    bitmap.data = reinterpret_cast<decltype(bitmap.data)>(words.data());
    return bitmap;
}

} // namespace

tl::expected<std::uint64_t, int> Container::page_size_of(int fd, const Ioctl& ioctl) {
    // The first call tells how many bytes the second one takes.
    std::vector<std::uint64_t> buffer(sizeof(vfio_iommu_type1_info) / sizeof(std::uint64_t) + 1);
    vfio_iommu_type1_info info{};
    for (int i = 0; i < 2; i++) {
        info = {};
        info.argsz = static_cast<std::uint32_t>(buffer.size() * sizeof(std::uint64_t));
        std::memcpy(buffer.data(), &info, sizeof(info));
        if (const int result = ioctl(fd, VFIO_IOMMU_GET_INFO, buffer.data()); result < 0) {
            return tl::unexpected(-result);
        }
        std::memcpy(&info, buffer.data(), sizeof(info));
        buffer.resize(std::max<std::size_t>(buffer.size(), info.argsz / sizeof(std::uint64_t) + 1));
    }
    const auto* const bytes = reinterpret_cast<const std::byte*>(buffer.data());
    const std::size_t size = buffer.size() * sizeof(std::uint64_t);
    std::size_t at = (info.flags & VFIO_IOMMU_INFO_CAPS) != 0 ? info.cap_offset : 0;
    while (at != 0 && at <= size - sizeof(vfio_iommu_type1_info_cap_migration)) {
        vfio_iommu_type1_info_cap_migration capability{};
        std::memcpy(&capability.header, bytes + at, sizeof(capability.header));
        if (capability.header.id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
            std::memcpy(&capability, bytes + at, sizeof(capability));
            // The lowest: the only one that a type1 of today takes.
            return capability.pgsize_bitmap & (~capability.pgsize_bitmap + 1);
        }
        at = capability.header.next > at ? capability.header.next : 0;
    }
    return tl::unexpected(ENOTSUP);
}

tl::expected<void, SourceError> Container::do_start() {
    vfio_iommu_type1_dirty_bitmap dirty{};
    dirty.argsz = sizeof(dirty);
    dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
    if (const int result = call(VFIO_IOMMU_DIRTY_PAGES, &dirty); result < 0) {
        return failed("VFIO_IOMMU_DIRTY_PAGES_FLAG_START", result);
    }
    kept_.clear();
    return {};
}

tl::expected<void, SourceError> Container::do_stop() {
    vfio_iommu_type1_dirty_bitmap dirty{};
    dirty.argsz = sizeof(dirty);
    dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
    kept_.clear();
    if (const int result = call(VFIO_IOMMU_DIRTY_PAGES, &dirty); result < 0) {
        return failed("VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP", result);
    }
    return {};
}

tl::expected<Answer, SourceError> Container::do_read(IovaRange range, const DirtyBitmap& bitmap) {
    for (const IovaRange& mapping : mappings().in(range)) {
        std::vector<std::uint64_t> words(DirtyBitmap::words_for(mapping, page_size_));
        vfio_iommu_type1_dirty_bitmap dirty{};
        vfio_iommu_type1_dirty_bitmap_get get{};
        dirty.argsz = sizeof(dirty) + sizeof(get);
        dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
        get.iova = mapping.first;
        get.size = mapping.size();
        get.bitmap = bitmap_of(words, page_size_);
        Arguments arguments(dirty, get);
        if (const int result = call(VFIO_IOMMU_DIRTY_PAGES, arguments.data()); result < 0) {
            return failed("VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP", result);
        }
        take_kept(mapping, words);
        bitmap.merge(*DirtyBitmap::over(mapping, page_size_, words), range);
        if (!range.contains(mapping)) {
            const IovaRange told = mapping & range;
            for_bit_words((told.first - mapping.first) / page_size_,
                          (told.last - mapping.first) / page_size_,
                          [&](std::uint64_t index, std::uint64_t mask) { words[index] &= ~mask; });
            kept_[mapping.first] = std::move(words);
        }
    }
    return Answer{};
}

void Container::take_kept(IovaRange mapping, std::vector<std::uint64_t>& words) {
    const auto kept = kept_.find(mapping.first);
    if (kept == kept_.end()) {
        return;
    }
    std::transform(words.begin(), words.end(), kept->second.begin(), words.begin(),
                   [](std::uint64_t a, std::uint64_t b) { return a | b; });
    kept_.erase(kept);
}

tl::expected<Answer, SourceError> Container::do_unmap_one(IovaRange mapping,
                                                          const DirtyBitmap* bitmap) {
    std::vector<std::uint64_t> words(bitmap != nullptr ? DirtyBitmap::words_for(mapping, page_size_)
                                                       : 0);
    vfio_iommu_type1_dma_unmap unmap{};
    unmap.argsz = sizeof(unmap);
    unmap.iova = mapping.first;
    unmap.size = mapping.size();
    if (bitmap != nullptr) {
        unmap.argsz += sizeof(vfio_bitmap);
        unmap.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    }
    Arguments arguments(unmap, bitmap_of(words, page_size_));
    if (const int result = call(VFIO_IOMMU_UNMAP_DMA, arguments.data()); result < 0) {
        return failed("VFIO_IOMMU_UNMAP_DMA", result);
    }
    if (arguments.head().size != mapping.size()) {
        return error(EIO, "VFIO_IOMMU_UNMAP_DMA removed something else than the mapping");
    }
    take_kept(mapping, words);
    if (bitmap != nullptr) {
        bitmap->merge(*DirtyBitmap::over(mapping, page_size_, words));
    }
    return Answer{};
}

} // namespace pvdirty::vfio
