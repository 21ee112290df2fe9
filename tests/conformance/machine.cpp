// SPDX-License-Identifier: MIT
#include "conformance/machine.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <sys/mman.h>

#include "tracking/vfio_arguments.hpp"

namespace pvdirty::conformance {

using vfio::Arguments;

namespace {

std::string name_of(int result) {
    if (result == 0) {
        return "0";
    }
    if (result == -EDOM) { // by the rows themselves
        return "an effect that is wrong";
    }
    const char* name = strerrorname_np(-result);
    return name != nullptr ? name : std::to_string(result);
}

std::string hex_of(const Words& words) {
    std::string text;
    for (const std::uint64_t word : words) {
        std::array<char, 20> digits{};
        std::snprintf(digits.data(), digits.size(), " %llx", static_cast<unsigned long long>(word));
        text += digits.data();
    }
    return text;
}

} // namespace

std::string difference(int wanted, const std::optional<Words>& wanted_words, int result,
                       const Words& words) {
    if (result != wanted) {
        return ": expected " + name_of(wanted) + ", got " + name_of(result);
    }
    if (wanted_words && words != *wanted_words) {
        return ": expected the words" + hex_of(*wanted_words) + ", got" + hex_of(words);
    }
    return "";
}

Machine::Machine(Type1Ioctl ioctl) : ioctl_(std::move(ioctl)) {
    // One page more, which then is nowhere.
    void* memory = mmap(nullptr, (window_pages + 1) * page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        std::abort();
    }
    memory_ = static_cast<std::uint8_t*>(memory);
    mprotect(nowhere(), page, PROT_NONE);
}

Machine::~Machine() {
    munmap(memory_, (window_pages + 1) * page);
}

int Machine::dirty(std::uint32_t flags, std::uint32_t argsz) {
    vfio_iommu_type1_dirty_bitmap dirty{};
    dirty.argsz = argsz;
    dirty.flags = flags;
    return call(VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

vfio_bitmap Machine::bitmap_of(const Get& get) {
    vfio_bitmap bitmap{};
    bitmap.pgsize = get.pgsize;
    bitmap.size = get.bitmap_bytes;
    bitmap.data = static_cast<decltype(bitmap.data)>(
        get.data != nullptr ? get.data : static_cast<void*>(words.data()));
    return bitmap;
}

int Machine::get(const Get& get) {
    vfio_iommu_type1_dirty_bitmap dirty{};
    dirty.argsz = get.argsz;
    dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
    vfio_iommu_type1_dirty_bitmap_get range{};
    range.iova = base + get.first * page + get.iova_more;
    range.size = get.pages * page + get.size_more;
    range.bitmap = bitmap_of(get);
    Arguments arguments(dirty, range);
    return call(VFIO_IOMMU_DIRTY_PAGES, arguments.data());
}

int Machine::map(std::uint64_t first, std::uint64_t pages) {
    vfio_iommu_type1_dma_map map{};
    map.argsz = sizeof(map);
    map.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    map.vaddr = reinterpret_cast<std::uintptr_t>(memory_ + first * page);
    map.iova = base + first * page;
    map.size = pages * page;
    return call(VFIO_IOMMU_MAP_DMA, &map);
}

int Machine::unmap(const Get& get, std::uint32_t flags) {
    vfio_iommu_type1_dma_unmap unmap{};
    const bool with_bitmap = (flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) != 0;
    unmap.argsz = get.argsz;
    unmap.flags = flags;
    unmap.iova = base + get.first * page + get.iova_more;
    unmap.size = get.pages * page + get.size_more;
    if ((flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0) {
        unmap.iova = 0;
        unmap.size = 0;
    }
    Arguments arguments(unmap, with_bitmap ? bitmap_of(get) : vfio_bitmap{});
    const int result = call(VFIO_IOMMU_UNMAP_DMA, arguments.data());
    unmapped_ = arguments.head().size;
    return result;
}

} // namespace pvdirty::conformance
