// SPDX-License-Identifier: MIT
/* Bits of pages of any size. */
#include "pvdirty/dirty_bitmap.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "tracking/bits.hpp"

namespace pvdirty {

tl::expected<IovaRange, int> IovaRange::of(std::uint64_t iova, std::uint64_t size) noexcept {
    if (size == 0) {
        return tl::unexpected(EINVAL);
    }
    if (size - 1 > UINT64_MAX - iova) {
        return tl::unexpected(EOVERFLOW);
    }
    return IovaRange{iova, iova + (size - 1)};
}

std::uint64_t DirtyBitmap::words_for(IovaRange range, std::uint64_t page_size) noexcept {
    const auto shift = static_cast<unsigned>(std::countr_zero(page_size));
    return ((range.last - range.first) >> shift) / 64 + 1;
}

tl::expected<DirtyBitmap, int> DirtyBitmap::over(IovaRange range, std::uint64_t page_size,
                                                 std::span<std::uint64_t> words) noexcept {
    if (!std::has_single_bit(page_size) || range.first > range.last || !range.aligned(page_size) ||
        words.size() < words_for(range, page_size)) {
        return tl::unexpected(EINVAL);
    }
    return DirtyBitmap(range, static_cast<unsigned>(std::countr_zero(page_size)), words);
}

void DirtyBitmap::set(IovaRange range) const noexcept {
    if (!range.overlaps(range_)) {
        return;
    }
    const IovaRange inside = range & range_;
    for_bit_words((inside.first - range_.first) >> shift_, (inside.last - range_.first) >> shift_,
                  [this](std::uint64_t index, std::uint64_t mask) { words_[index] |= mask; });
}

void DirtyBitmap::merge(const DirtyBitmap& from, IovaRange only) const noexcept {
    if (!only.overlaps(from.range_)) {
        return;
    }
    const IovaRange wanted = only & from.range_;
    for_bit_runs(from.words_.data(), (wanted.first - from.range_.first) >> from.shift_,
                 (wanted.last - from.range_.first) >> from.shift_,
                 [&](std::uint64_t first, std::uint64_t last) {
                     const IovaRange pages{from.range_.first + (first << from.shift_),
                                           from.range_.first + (last << from.shift_) +
                                               (from.page_size() - 1)};
                     set(pages & wanted);
                 });
}

std::uint64_t DirtyBitmap::count() const noexcept {
    std::uint64_t pages = 0;
    for_bit_words(0, (range_.last - range_.first) >> shift_,
                  [&](std::uint64_t index, std::uint64_t mask) {
                      pages += static_cast<std::uint64_t>(std::popcount(words_[index] & mask));
                  });
    return pages;
}

} // namespace pvdirty
