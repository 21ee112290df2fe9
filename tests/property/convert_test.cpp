// SPDX-License-Identifier: MIT
/* Bitmaps from any page size to any other, against sets of bytes; few pages, and more than 2^32. */
#include "property/check.hpp"
#include "property/gen.hpp"
#include "property/sparse_bitmap.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::DirtyBitmap;
using pvdirty::IovaRange;

namespace {

using Convert = void (*)(const SparseBitmap& to, const SparseBitmap& from, IovaRange only);

void merge(const SparseBitmap& to, const SparseBitmap& from, IovaRange only) {
    to.view().merge(from.view(), only);
}

/* Where a bitmap is, and how fine. */
struct Shape {
    IovaRange range;
    std::uint64_t page_size = 1;
};

/* Whole pages of 2^shift bytes: those that have the bytes of a range. */
Shape shape_over(IovaRange range, unsigned shift) {
    const std::uint64_t page = std::uint64_t{1} << shift;
    return {{range.first & ~(page - 1), range.last | (page - 1)}, page};
}

/* Pages at the bottom, at the top, or anywhere in the address space. */
Shape any_shape(unsigned shift, std::uint64_t pages) {
    const std::uint64_t size = pages << shift;
    const std::uint64_t first =
        *rc::gen::element<std::uint64_t>(0, *any_size(63 - shift) << shift, 0 - size);
    const std::uint64_t last = first + (size - 1);
    return last < first ? Shape{{0 - size, UINT64_MAX}, std::uint64_t{1} << shift}
                        : Shape{{first, last}, std::uint64_t{1} << shift};
}

/* Sets pages in runs that begin and end at any bit. */
void fill(const SparseBitmap& bitmap, std::uint64_t pages, unsigned max_runs) {
    const auto runs = *rc::gen::inRange(0U, max_runs + 1);
    for (unsigned i = 0; i < runs; i++) {
        std::uint64_t page = *rc::gen::inRange<std::uint64_t>(0, pages);
        for (auto left = *rc::gen::inRange(1, 140); left > 0 && page < pages; left--) {
            bitmap.set(page++);
        }
    }
}

void check_conversion(Convert convert, const SparseBitmap& from, const SparseBitmap& to,
                      IovaRange only) {
    const PageSet before = to.pages();
    const PageSet wanted = from.bytes() & PageSet({{only.first, only.last}});
    convert(to, from, only);
    RC_ASSERT(to.pages() == (before | to.pages_with(wanted)));
    RC_ASSERT(to.view().count() == to.pages().size());
}

auto converts(Convert convert) {
    return [convert] {
        const auto from_shift = *rc::gen::inRange(0U, 52U);
        const auto from_pages = *rc::gen::inRange<std::uint64_t>(1, 2000);
        const Shape from_shape = any_shape(from_shift, from_pages);
        const SparseBitmap from(from_shape.range, from_shape.page_size);
        fill(from, from_pages, 8);
        // Over the same bytes, up to 1000 times as fine or coarse; or over some of them and others.
        const auto to_shift = *rc::gen::inRange(from_shift - std::min(from_shift, 10U),
                                                std::min(from_shift + 11, 63U));
        IovaRange over = from_shape.range;
        if (*rc::gen::arbitrary<bool>()) {
            over.first += *any_size(63) % from_shape.range.size();
            over.last -= (over.last - over.first) / *rc::gen::element<std::uint64_t>(1, 2, 77);
        }
        const Shape to_shape = shape_over(over, to_shift);
        const SparseBitmap to(to_shape.range, to_shape.page_size);
        if (*rc::gen::arbitrary<bool>()) { // what is set stays
            to.set(0);
        }
        IovaRange only;
        if (*rc::gen::arbitrary<bool>()) {
            only.first = from_shape.range.first + *any_size(63) % from_shape.range.size();
            only.last = only.first + std::min(*any_size(63), UINT64_MAX - only.first);
        }
        check_conversion(convert, from, to, only);
    };
}

/* Controls. */
void merge_with_8_bit_index(const SparseBitmap& to, const SparseBitmap& from, IovaRange only) {
    SparseBitmap low(from.view().range(), from.view().page_size());
    const PageSet set = from.pages();
    for (const auto& run : set.ranges()) {
        for (std::uint64_t page = run.first; page <= run.last; page++) {
            low.set(static_cast<std::uint8_t>(page));
        }
    }
    merge(to, low, only);
}

void merge_and_clear(const SparseBitmap& to, const SparseBitmap& from, IovaRange only) {
    std::fill(to.words().begin(), to.words().end(), 0);
    merge(to, from, only);
}

void merge_all(const SparseBitmap& to, const SparseBitmap& from, IovaRange /*only*/) {
    merge(to, from, {});
}

void merge_first_byte_of_page(const SparseBitmap& to, const SparseBitmap& from, IovaRange only) {
    const PageSet set = from.pages();
    for (const auto& run : set.ranges()) {
        for (std::uint64_t page = run.first; page <= run.last; page++) {
            const std::uint64_t first = from.view().range().first + page * from.view().page_size();
            if (only.first <= first && first <= only.last) {
                to.view().set({first, first});
            }
        }
    }
}

/* More than 2^32 pages on one side, in pages of 2^shift bytes. */
constexpr std::uint64_t many_pages = (std::uint64_t{1} << 32) + (1 << 21);

void check_many(Convert convert, unsigned shift, unsigned coarser, bool to_fine,
                const std::vector<std::uint64_t>& pages) {
    const IovaRange range{0, (many_pages << shift) - 1};
    const SparseBitmap fine(range, std::uint64_t{1} << shift);
    const SparseBitmap coarse(range, std::uint64_t{1} << (shift + coarser));
    const SparseBitmap& from = to_fine ? coarse : fine;
    for (const std::uint64_t page : pages) {
        from.set(to_fine ? page >> coarser : page);
    }
    check_conversion(convert, from, to_fine ? fine : coarse, {});
}

auto converts_many(Convert convert) {
    return [convert] {
        std::vector<std::uint64_t> pages{0, many_pages - 1, UINT32_MAX, std::uint64_t{1} << 32};
        for (unsigned i = 0; i < 20; i++) {
            pages.push_back(*rc::gen::inRange<std::uint64_t>(0, many_pages));
        }
        check_many(convert, *rc::gen::inRange(0U, 21U), *rc::gen::element(9U, 18U, 21U),
                   *rc::gen::arbitrary<bool>(), pages);
    };
}

void merge_with_32_bit_index(const SparseBitmap& to, const SparseBitmap& from, IovaRange only) {
    SparseBitmap low(from.view().range(), from.view().page_size());
    const PageSet set = from.pages();
    for (const auto& run : set.ranges()) {
        for (std::uint64_t page = run.first; page <= run.last; page++) {
            low.set(static_cast<std::uint32_t>(page));
        }
    }
    merge(to, low, only);
}

} // namespace

TEST_CASE("convert: from any page size to any other", "[convert]") {
    holds(converts(merge), 3000);
}

TEST_CASE("convert: controls that lose, keep or clear the wrong bits are caught", "[convert]") {
    is_refuted(converts(merge_with_8_bit_index), 500);
    is_refuted(converts(merge_and_clear), 500);
    is_refuted(converts(merge_all), 500);
    is_refuted(converts(merge_first_byte_of_page), 500);
}

TEST_CASE("convert: more than 2^32 pages", "[convert]") {
    holds(converts_many(merge), 6);
}

TEST_CASE("convert: a control with an index of 32 bits is caught", "[convert]") {
    is_refuted(
        [] { check_many(merge_with_32_bit_index, 12, 9, false, {(std::uint64_t{1} << 32) + 7}); },
        1);
}
