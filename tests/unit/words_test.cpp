// SPDX-License-Identifier: MIT
/* Bits and bytes of words, against the slow way; and a sink that takes groups. */
#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "guest/guest_log.hpp"
#include "guest/page_set.hpp"
#include "log/counters.hpp"
#include "log/word.hpp"
#include "pvdirty/log.hpp"

namespace {

using pvdirty::GroupMasks;
using pvdirty::PageSink;
using pvdirty::test::Collector;
using pvdirty::test::Guest;
using pvdirty::test::PageSet;

/* Bit i: byte i is not 0. */
std::uint64_t bytes_in_use(std::uint64_t word) {
    std::uint64_t mask = 0;
    for (unsigned i = 0; i < 8; i++) {
        mask |= ((word >> (8 * i)) & 0xff) != 0 ? std::uint64_t{1} << i : 0;
    }
    return mask;
}

/* Words with many zero bytes, many of one bit, and the extremes. */
std::vector<std::uint64_t> words() {
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> words{0, ~std::uint64_t{0}, 0x8000000000000001, 0x0100000000000080};
    for (unsigned i = 0; i < 10000; i++) {
        const std::uint64_t word = random();
        words.push_back(word & random() & random() & random());
        words.push_back(word & (std::uint64_t{0xff} << (word % 8 * 8)));
        words.push_back(std::uint64_t{1} << (word % 64));
    }
    return words;
}

} // namespace

TEST_CASE("words: counters that are not 0") {
    std::uint64_t before = 0;
    for (const std::uint64_t word : words()) {
        REQUIRE(pvdirty::nonzero_of_8(word) == bytes_in_use(word));
        REQUIRE(pvdirty::nonzero_of_16(before, word) ==
                (bytes_in_use(before) | bytes_in_use(word) << 8));
        before = word;
    }
}

TEST_CASE("words: bits are counted over a group") {
    GroupMasks masks{};
    std::size_t next = 0;
    for (const std::uint64_t word : words()) {
        masks[next++ % masks.size()] = word;
        pvdirty::BitCount count;
        std::uint64_t expected = 0;
        for (const std::uint64_t mask : masks) {
            count.add(mask);
            expected += static_cast<std::uint64_t>(std::popcount(mask));
        }
        REQUIRE(count.sum() == expected);
    }
    pvdirty::BitCount most;
    for (unsigned i = 0; i < pvdirty::BitCount::max_words; i++) {
        most.add(~std::uint64_t{0});
    }
    CHECK(most.sum() == pvdirty::BitCount::max_words * 64);
}

TEST_CASE("words: a sink that takes groups gets what one that takes words gets") {
    Guest guest({{4, PVDIRTY_WINDOW_PAGES}, {9, 1000}});
    const std::uint64_t base = std::uint64_t{4} << PVDIRTY_WINDOW_SHIFT;
    const std::uint64_t other = std::uint64_t{9} << PVDIRTY_WINDOW_SHIFT;
    auto log = pvdirty::Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    REQUIRE(log);
    const PageSet pages({{base + 3, base + 70}, {base + 511, base + 1600}, {other, other + 999}});
    const auto fill = [&] {
        for (const pvdirty::PageRange& range : pages.ranges()) {
            pvd_mark(guest.log.core(), range.first, range.last);
        }
    };
    bool empty_group = false;
    Collector collected;
    auto collect = [&](std::uint64_t first, const GroupMasks& masks) {
        bool any = false;
        REQUIRE(first % PVDIRTY_GROUP_PAGES == 0);
        for (std::size_t i = 0; i < masks.size(); i++) {
            if (masks[i] != 0) {
                collected(first + i * 64, masks[i]);
                any = true;
            }
        }
        empty_group = empty_group || !any;
    };

    fill();
    CHECK(log->harvest(PageSink(collect)) == pages.size());
    CHECK(collected.ok());
    CHECK(collected.pages() == pages);
    CHECK_FALSE(empty_group);

    Collector by_words;
    fill();
    CHECK(log->harvest(PageSink(by_words)) == pages.size());
    CHECK(by_words.pages() == pages);

    for (const pvdirty::PageRange& range : pages.ranges()) {
        pvd_hold(guest.log.core(), range.first, range.last);
    }
    collected = Collector();
    CHECK(log->scan(PageSink(collect)) == pages.size());
    CHECK(collected.ok());
    CHECK(collected.pages() == pages);
    CHECK_FALSE(empty_group);
}
