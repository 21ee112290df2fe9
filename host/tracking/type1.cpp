// SPDX-License-Identifier: MIT
/*
 * What drivers/vfio/vfio_iommu_type1.c of Linux 6.12 answers: vfio_iommu_type1_dirty_pages(),
 * vfio_iommu_type1_unmap_dma() and vfio_dma_do_unmap(), vfio_dma_do_map(),
 * vfio_iommu_type1_get_info().
 */
#include "pvdirty/type1.hpp"

#include <bit>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <vector>

#include <linux/vfio.h>

#include "tracking/user_memory.hpp"

namespace pvdirty::vfio {

namespace {

/* DIRTY_BITMAP_PAGES_MAX, DIRTY_BITMAP_SIZE_MAX and dma_entry_limit of the kernel. */
constexpr std::uint64_t max_pages = INT_MAX;
constexpr std::uint64_t max_bitmap_bytes = (max_pages + 1) / 8;
constexpr std::size_t max_mappings = UINT16_MAX;

constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);

/* verify_bitmap_size(). The page size is the caller's, and has not been checked yet. */
bool suits(const vfio_bitmap& bitmap, std::uint64_t range_size) noexcept {
    const std::uint64_t pages =
        bitmap.pgsize == 0 ? 0 : range_size >> std::countr_zero(bitmap.pgsize);
    return pages != 0 && bitmap.size != 0 && bitmap.size <= max_bitmap_bytes &&
           bitmap.size >= ((pages - 1) / 64 + 1) * word_bytes;
}

bool accessible(const vfio_bitmap& bitmap) noexcept {
    return access_ok(reinterpret_cast<std::uintptr_t>(bitmap.data), bitmap.size);
}

std::byte* behind(void* arg, std::size_t bytes) noexcept {
    return static_cast<std::byte*>(arg) + bytes;
}

} // namespace

int Type1DirtyPages::ioctl(unsigned long request, void* arg) {
    switch (request) {
    case VFIO_IOMMU_DIRTY_PAGES:
        return dirty_pages(arg);
    case VFIO_IOMMU_MAP_DMA:
        return map_dma(arg);
    case VFIO_IOMMU_UNMAP_DMA:
        return unmap_dma(arg);
    case VFIO_IOMMU_GET_INFO:
        return get_info(arg);
    default:
        return -ENOTTY;
    }
}

int Type1DirtyPages::dirty_pages(void* arg) {
    vfio_iommu_type1_dirty_bitmap dirty{};
    if (!copy_from_user(&dirty, arg, sizeof(dirty))) {
        return -EFAULT;
    }
    if (dirty.argsz < sizeof(dirty)) {
        return -EINVAL;
    }
    switch (dirty.flags) { // exactly one of them
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
        return start();
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
        return stop();
    case VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
        break;
    default:
        return -EINVAL;
    }
    vfio_iommu_type1_dirty_bitmap_get get{};
    if (dirty.argsz - sizeof(dirty) < sizeof(get)) {
        return -EINVAL;
    }
    if (!copy_from_user(&get, behind(arg, sizeof(dirty)), sizeof(get))) {
        return -EFAULT;
    }
    return get_bitmap(get);
}

/* The kernel allocates a bitmap for each mapping, and has a limit for its size. */
bool Type1DirtyPages::trackable(IovaRange mapping) const noexcept {
    return mapping.size() / page_size_ <= max_pages;
}

int Type1DirtyPages::start() {
    if (tracking_) {
        return 0;
    }
    for (const IovaRange& mapping : mappings_.in({})) {
        if (!trackable(mapping)) {
            return -EINVAL;
        }
    }
    if (const auto started = source_.start(); !started) {
        return -started.error().code;
    }
    tracking_ = true;
    unread_.clear();
    return 0;
}

int Type1DirtyPages::stop() {
    tracking_ = false;
    const auto stopped = source_.stop();
    return stopped ? 0 : -stopped.error().code;
}

int Type1DirtyPages::get_bitmap(const vfio_iommu_type1_dirty_bitmap_get& get) {
    // A range that ends with the address space counts as one that wraps.
    if (get.iova + get.size < get.iova || !accessible(get.bitmap) || !suits(get.bitmap, get.size) ||
        get.bitmap.pgsize != page_size_ || !page_aligned(get.iova | get.size) || !tracking_) {
        return -EINVAL;
    }
    const IovaRange range{get.iova, get.iova + (get.size - 1)};
    if (mappings_.cut_by(range)) {
        return -EINVAL;
    }
    for (const IovaRange& mapping : mappings_.in(range)) {
        if (const int result = hand_over(mapping, get.iova, get.bitmap, false); result != 0) {
            return result;
        }
    }
    return 0;
}

/*
 * update_user_bitmap(): the words of a mapping are overwritten, also past its last page, but for a
 * first one that it begins inside of: the mapping before may share that, and bits are added to it.
 */
int Type1DirtyPages::hand_over(IovaRange mapping, std::uint64_t base, const vfio_bitmap& bitmap,
                               bool last) {
    const std::uint64_t first_bit = (mapping.first - base) / page_size_;
    auto* const user = bitmap.data + first_bit / 64;
    const auto shift = static_cast<unsigned>(first_bit % 64);
    const IovaRange words_range{mapping.first - shift * page_size_, mapping.last};
    std::vector<std::uint64_t> words(DirtyBitmap::words_for(words_range, page_size_));
    const DirtyBitmap pages = *DirtyBitmap::over(words_range, page_size_, words);
    const auto answer =
        last ? source_.unmap(mapping, &pages) : source_.read_and_clear(mapping, pages);
    if (!answer || unread_.count(mapping.first) != 0) {
        pages.set(mapping);
    }
    unread_.insert(mapping.first);
    if (shift != 0) {
        std::uint64_t before = 0;
        if (!copy_from_user(&before, user, sizeof(before))) {
            return -EFAULT;
        }
        words.front() |= before;
    }
    if (!copy_to_user(user, words.data(), words.size() * word_bytes)) {
        return -EFAULT;
    }
    unread_.erase(mapping.first);
    return 0;
}

int Type1DirtyPages::map_dma(void* arg) {
    vfio_iommu_type1_dma_map map{};
    constexpr std::size_t min_size = offsetof(vfio_iommu_type1_dma_map, size) + sizeof(map.size);
    if (!copy_from_user(&map, arg, min_size)) {
        return -EFAULT;
    }
    constexpr std::uint32_t known = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    if (map.argsz < min_size || (map.flags & ~known) != 0 || map.flags == 0 ||
        !page_aligned(map.size | map.iova | map.vaddr) || map.size == 0 ||
        map.size - 1 > UINT64_MAX - map.vaddr) {
        return -EINVAL;
    }
    const auto range = IovaRange::of(map.iova, map.size);
    if (!range) {
        return -EINVAL;
    }
    if (!mappings_.in(*range).empty()) {
        return -EEXIST;
    }
    if (mappings_.size() >= max_mappings) {
        return -ENOSPC;
    }
    if (tracking_ && !trackable(*range)) {
        return -EINVAL;
    }
    if (const auto mapped = source_.map(*range); !mapped) {
        return -mapped.error().code;
    }
    mappings_.add(*range);
    return 0;
}

int Type1DirtyPages::unmap_dma(void* arg) {
    vfio_iommu_type1_dma_unmap request{};
    constexpr std::size_t min_size = sizeof(request);
    if (!copy_from_user(&request, arg, min_size)) {
        return -EFAULT;
    }
    constexpr std::uint32_t known = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL;
    if (request.argsz < min_size || (request.flags & ~known) != 0 || request.flags == known) {
        return -EINVAL;
    }
    vfio_bitmap bitmap{};
    const bool with_bitmap = (request.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) != 0;
    if (with_bitmap) {
        if (request.argsz < min_size + sizeof(bitmap)) {
            return -EINVAL;
        }
        if (!copy_from_user(&bitmap, behind(arg, min_size), sizeof(bitmap))) {
            return -EFAULT;
        }
        if (!accessible(bitmap) || !suits(bitmap, request.size)) {
            return -EINVAL;
        }
    }
    if (const int result = unmap(request, with_bitmap ? &bitmap : nullptr); result != 0) {
        return result;
    }
    return copy_to_user(arg, &request, min_size) ? 0 : -EFAULT;
}

/* Leaves in request.size how much was unmapped. */
int Type1DirtyPages::unmap(vfio_iommu_type1_dma_unmap& request, const vfio_bitmap* bitmap) {
    IovaRange range;
    if ((request.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0) {
        if (request.iova != 0 || request.size != 0) {
            return -EINVAL;
        }
    } else {
        const auto asked = IovaRange::of(request.iova, request.size);
        if (!asked || !page_aligned(request.iova | request.size)) {
            return -EINVAL;
        }
        range = *asked;
    }
    if (bitmap != nullptr && (!tracking_ || bitmap->pgsize != page_size_)) {
        return -EINVAL;
    }
    if (mappings_.cut_by(range)) {
        return -EINVAL;
    }
    std::uint64_t unmapped = 0;
    for (const IovaRange& mapping : mappings_.in(range)) {
        if (bitmap != nullptr) {
            if (const int result = hand_over(mapping, range.first, *bitmap, true); result != 0) {
                return source_.map(mapping) ? result : -EIO; // it stays
            }
        } else if (const auto done = source_.unmap(mapping, nullptr); !done) {
            return -done.error().code;
        }
        unmapped += mapping.size();
        mappings_.remove(mapping);
        unread_.erase(mapping.first);
    }
    request.size = unmapped;
    return 0;
}

int Type1DirtyPages::get_info(void* arg) const {
    struct {
        vfio_iommu_type1_info info;
        vfio_iommu_type1_info_cap_migration migration;
    } answer{};
    constexpr std::size_t min_size =
        offsetof(vfio_iommu_type1_info, iova_pgsizes) + sizeof(answer.info.iova_pgsizes);
    vfio_iommu_type1_info& info = answer.info;
    if (!copy_from_user(&info, arg, min_size)) {
        return -EFAULT;
    }
    const std::uint32_t room = info.argsz;
    if (room < min_size) {
        return -EINVAL;
    }
    info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
    info.iova_pgsizes = page_size_;
    if (room < sizeof(answer)) { // too small for capabilities: says how much they take
        info.argsz = sizeof(answer);
        return copy_to_user(arg, &info, room < sizeof(info) ? room : sizeof(info)) ? 0 : -EFAULT;
    }
    info.cap_offset = sizeof(info);
    answer.migration.header.id = VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION;
    answer.migration.header.version = 1;
    answer.migration.pgsize_bitmap = page_size_;
    answer.migration.max_dirty_bitmap_size = max_bitmap_bytes;
    return copy_to_user(arg, &answer, sizeof(answer)) ? 0 : -EFAULT;
}

} // namespace pvdirty::vfio
