// SPDX-License-Identifier: MIT
/** Ranges of IO virtual addresses, bitmaps over them, and conversion between page sizes. */
#ifndef PVDIRTY_DIRTY_BITMAP_HPP
#define PVDIRTY_DIRTY_BITMAP_HPP

#include <cstdint>
#include <span>

#include <tl/expected.hpp>

namespace pvdirty {

/**
 * IO virtual addresses first..last, both included, first <= last: the addresses that devices use.
 * Without a virtual IOMMU they are guest-physical addresses.
 */
struct IovaRange {
    std::uint64_t first = 0;
    std::uint64_t last = UINT64_MAX;

    /**
     * The bytes [iova, iova + size).
     * @returns EINVAL: size is 0; EOVERFLOW: they would pass the end of the address space
     */
    static tl::expected<IovaRange, int> of(std::uint64_t iova, std::uint64_t size) noexcept;

    /** Bytes; 0 stands for 2^64. */
    [[nodiscard]] constexpr std::uint64_t size() const noexcept { return last - first + 1; }
    [[nodiscard]] constexpr bool overlaps(const IovaRange& other) const noexcept {
        return first <= other.last && other.first <= last;
    }
    [[nodiscard]] constexpr bool contains(const IovaRange& other) const noexcept {
        return first <= other.first && other.last <= last;
    }
    /** Do both ends lie on pages of this size, a power of two? */
    [[nodiscard]] constexpr bool aligned(std::uint64_t page_size) const noexcept {
        return ((first | (last + 1)) & (page_size - 1)) == 0;
    }
    /** What both have; they must overlap. */
    [[nodiscard]] constexpr IovaRange operator&(const IovaRange& other) const noexcept {
        return {first > other.first ? first : other.first, last < other.last ? last : other.last};
    }

    friend bool operator==(const IovaRange&, const IovaRange&) = default;
};

/**
 * A caller's bitmap as VFIO and iommufd define it: bit n % 64 of word n / 64 stands for the page
 * at iova + n * page_size. A view: the words must outlive it. Bits are set here and never cleared.
 */
class DirtyBitmap {
public:
    /**
     * @param range whole pages of page_size
     * @param page_size in bytes, a power of two
     * @param words at least one bit for each page; they need not be 0
     * @returns EINVAL: page_size is no power of two, the range is not aligned to it, or there are
     *          too few words
     */
    static tl::expected<DirtyBitmap, int> over(IovaRange range, std::uint64_t page_size,
                                               std::span<std::uint64_t> words) noexcept;
    /** Words that a bitmap needs; page_size must be a power of two, the range aligned to it. */
    static std::uint64_t words_for(IovaRange range, std::uint64_t page_size) noexcept;

    [[nodiscard]] IovaRange range() const noexcept { return range_; }
    [[nodiscard]] std::uint64_t page_size() const noexcept { return std::uint64_t{1} << shift_; }

    /** Sets the bit of each page that has a byte of the range; what lies outside is left out. */
    void set(IovaRange range) const noexcept;
    /**
     * Converts: what is set in another bitmap, of any page size, is set here. A page of either size
     * is set when a page of the other that it shares a byte with is. Of pages that lie in part in
     * only counts what does.
     * @param only nothing outside of this range is taken from the other, or set here but for the
     *             rest of a page
     */
    void merge(const DirtyBitmap& from, IovaRange only = {}) const noexcept;

    /** Pages that are set. */
    [[nodiscard]] std::uint64_t count() const noexcept;

private:
    DirtyBitmap(IovaRange range, unsigned shift, std::span<std::uint64_t> words) noexcept
        : range_(range), shift_(shift), words_(words) {}

    IovaRange range_;
    unsigned shift_; // log2 of the page size
    std::span<std::uint64_t> words_;
};

} // namespace pvdirty

#endif // PVDIRTY_DIRTY_BITMAP_HPP
