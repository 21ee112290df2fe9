// SPDX-License-Identifier: MIT
/* A caller's bitmap: which ones are refused and with which errno, and where a page's bit is. */
#include <catch2/catch.hpp>

#include <array>
#include <cerrno>

#include "pvdirty/dirty_bitmap.hpp"

using pvdirty::DirtyBitmap;
using pvdirty::IovaRange;

namespace {

/* The errno with which a bitmap of two words is refused, or 0. */
int refused(IovaRange range, std::uint64_t page_size) {
    std::array<std::uint64_t, 2> words{};
    const auto bitmap = DirtyBitmap::over(range, page_size, words);
    return bitmap ? 0 : bitmap.error();
}

int refused_range(std::uint64_t iova, std::uint64_t size) {
    const auto range = IovaRange::of(iova, size);
    return range ? 0 : range.error();
}

} // namespace

TEST_CASE("dirty bitmap (003): an empty range is EINVAL, one that wraps EOVERFLOW") {
    CHECK(refused_range(0, 0) == EINVAL);
    CHECK(refused_range(UINT64_MAX, 1) == 0);
    CHECK(refused_range(UINT64_MAX, 2) == EOVERFLOW);
    CHECK(refused_range(0x1000, UINT64_MAX) == EOVERFLOW);
    CHECK(refused_range(0, UINT64_MAX) == 0);
    CHECK(IovaRange::of(0x3000, 0x2000).value() == IovaRange{0x3000, 0x4fff});
}

TEST_CASE("dirty bitmap (003): a page size that is no power of two is EINVAL") {
    CHECK(refused({0, 0xffff}, 0) == EINVAL);
    CHECK(refused({0, 0x2fff}, 0x3000) == EINVAL);
    CHECK(refused({0, 0x7fff}, 0x1000) == 0);
    CHECK(refused({0, 127}, 1) == 0);
    CHECK(refused({0, UINT64_MAX}, std::uint64_t{1} << 63) == 0);
}

TEST_CASE("dirty bitmap (003): a range that is not made of pages is EINVAL") {
    CHECK(refused({1, 0xfff}, 0x1000) == EINVAL);
    CHECK(refused({0, 0xffe}, 0x1000) == EINVAL);
    CHECK(refused({0x800, 0x17ff}, 0x1000) == EINVAL);
    CHECK(refused({0x2000, 0xfff}, 0x1000) == EINVAL);
}

TEST_CASE("dirty bitmap (003): one that is too short is EINVAL") {
    CHECK(refused({0, 128 * 0x1000 - 1}, 0x1000) == 0);
    CHECK(refused({0, 129 * 0x1000 - 1}, 0x1000) == EINVAL);
    CHECK(DirtyBitmap::words_for({0, 64 * 0x1000 - 1}, 0x1000) == 1);
    CHECK(DirtyBitmap::words_for({0, 65 * 0x1000 - 1}, 0x1000) == 2);
    CHECK(DirtyBitmap::words_for({0, UINT64_MAX}, 0x1000) == std::uint64_t{1} << 46);
}

TEST_CASE("dirty bitmap (003): bit n % 64 of word n / 64 is the page at iova + n * page size") {
    std::array<std::uint64_t, 2> words{0x8000, 0};
    const auto bitmap = DirtyBitmap::over({0x10000, 0x10000 + 100 * 0x1000 - 1}, 0x1000, words);
    bitmap->set({0x10000, 0x10000});
    bitmap->set({0x10000 + 63 * 0x1000 + 5, 0x10000 + 65 * 0x1000});
    CHECK(words == std::array<std::uint64_t, 2>{0x8000000000008001, 3});
    CHECK(bitmap->count() == 5);
    // What lies outside is left out, and bits past the last page are not touched.
    bitmap->set({0, 0xffff});
    bitmap->set({0x10000 + 100 * 0x1000, UINT64_MAX});
    CHECK(bitmap->count() == 5);
    bitmap->set({0, UINT64_MAX});
    CHECK(words == std::array<std::uint64_t, 2>{UINT64_MAX, (std::uint64_t{1} << 36) - 1});
}
