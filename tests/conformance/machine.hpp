// SPDX-License-Identifier: MIT
/** The calls of the table in few words, and memory for them. */
#ifndef PVDIRTY_TESTS_CONFORMANCE_MACHINE_HPP
#define PVDIRTY_TESTS_CONFORMANCE_MACHINE_HPP

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include <linux/vfio.h>

#include "conformance/type1.hpp"

namespace pvdirty::conformance {

inline constexpr std::uint64_t page = 4096;
/** Above what PCs reserve. */
inline constexpr std::uint64_t base = std::uint64_t{1} << 32;
inline constexpr std::uint64_t window_pages = 256;

using Words = std::array<std::uint64_t, window_pages / 64>;

inline constexpr std::uint64_t ones = ~std::uint64_t{0};

/** Of a word. */
constexpr std::uint64_t bits(unsigned first, unsigned last) {
    return (ones << first) & (ones >> (63 - last));
}

/**
 * How a row's result differs from what is wanted, or else the words after it; "" if they do not.
 * @param wanted_words none: they do not count
 */
std::string difference(int wanted, const std::optional<Words>& wanted_words, int result,
                       const Words& words);

/** Arguments of a GET; as they stand here they are right, and ask for the whole window. */
struct Get {
    std::uint64_t first = 0; ///< page of the window
    std::uint64_t pages = window_pages;
    std::uint64_t iova_more = 0; ///< bytes more than these pages
    std::uint64_t size_more = 0;
    std::uint64_t pgsize = page;
    std::uint64_t bitmap_bytes = sizeof(Words);
    void* data = nullptr; ///< null: the machine's words
    std::uint32_t argsz =
        sizeof(vfio_iommu_type1_dirty_bitmap) + sizeof(vfio_iommu_type1_dirty_bitmap_get);
};

/** A container, a window of addresses of 256 pages, and a bitmap of it. */
class Machine {
public:
    explicit Machine(Type1Ioctl ioctl);
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine();

    /** VFIO_IOMMU_DIRTY_PAGES with these flags and no more. */
    int dirty(std::uint32_t flags, std::uint32_t argsz = sizeof(vfio_iommu_type1_dirty_bitmap));
    int start() { return dirty(VFIO_IOMMU_DIRTY_PAGES_FLAG_START); }
    int stop() { return dirty(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP); }
    int get(const Get& get);
    int map(std::uint64_t first, std::uint64_t pages);
    /** With the flag and a bitmap of the range. */
    int unmap(const Get& get, std::uint32_t flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP);
    int call(unsigned long request, void* arg) { return ioctl_(request, arg); }

    /** What the last unmap() said that it unmapped, in bytes. */
    [[nodiscard]] std::uint64_t unmapped() const noexcept { return unmapped_; }
    /** An address that nothing is mapped at. */
    [[nodiscard]] void* nowhere() const noexcept { return memory_ + window_pages * page; }
    /** An address of the kernel's half. */
    [[nodiscard]] static void* in_the_kernel() noexcept {
        constexpr std::uintptr_t last_page = ~std::uintptr_t{0} - page + 1;
        return reinterpret_cast<void*>(last_page); // NOLINT(performance-no-int-to-ptr)
    }

    Words words{};

private:
    vfio_bitmap bitmap_of(const Get& get);

    Type1Ioctl ioctl_;
    std::uint8_t* memory_;
    std::uint64_t unmapped_ = 0;
};

} // namespace pvdirty::conformance

#endif // PVDIRTY_TESTS_CONFORMANCE_MACHINE_HPP
