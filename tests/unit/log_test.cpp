// SPDX-License-Identifier: MIT
/* Index arithmetic, harvest, scan and prune, page by page. */
#include <catch2/catch.hpp>

#include <algorithm>

#include "guest/guest_log.hpp"
#include "guest/page_set.hpp"
#include "log/word.hpp"
#include "pvdirty/log.hpp"

using pvdirty::bits_in_word;
using pvdirty::Log;
using pvdirty::PageRange;
using pvdirty::pages_of;
using pvdirty::PageSink;
using pvdirty::test::Collector;
using pvdirty::test::Guest;
using pvdirty::test::PageSet;

namespace {

constexpr std::uint64_t window = PVDIRTY_WINDOW_PAGES;

struct Attached : Guest {
    Log log_view;

    explicit Attached(const std::vector<pvdirty::test::SectionSpec>& sections)
        : Guest(sections), log_view(std::move(*Log::attach(ram, log.addr(), log.pages()))) {}

    PageSet harvest(PageRange range = pvdirty::all_pages) {
        Collector collector;
        const std::uint64_t pages = log_view.harvest(PageSink(collector), range);
        CHECK(pages == collector.count());
        CHECK(collector.ok());
        return collector.pages();
    }
    PageSet scan() {
        Collector collector;
        const std::uint64_t pages = log_view.scan(PageSink(collector));
        CHECK(pages == collector.count());
        CHECK(collector.ok());
        return collector.pages();
    }
    [[nodiscard]] std::uint64_t page_of(const void* host) const {
        return (ram.gpa() + static_cast<std::uint64_t>(static_cast<const std::byte*>(host) -
                                                       ram.at<std::byte>(ram.gpa()))) >>
               PVDIRTY_PAGE_SHIFT;
    }
};

} // namespace

TEST_CASE("index: bytes to pages", "[index]") {
    CHECK(pages_of(0, 0) == std::nullopt);
    CHECK(pages_of(UINT64_MAX, 0) == std::nullopt);
    CHECK(pages_of(0, 1) == PageRange{0, 0});
    CHECK(pages_of(4095, 1) == PageRange{0, 0});
    CHECK(pages_of(4095, 2) == PageRange{0, 1});
    CHECK(pages_of(4096, 4096) == PageRange{1, 1});
    CHECK(pages_of(4096, 4097) == PageRange{1, 2});
    CHECK(pages_of(UINT64_MAX, 1) == PageRange{UINT64_MAX >> 12, UINT64_MAX >> 12});
    CHECK(pages_of(UINT64_MAX, UINT64_MAX) == PageRange{UINT64_MAX >> 12, UINT64_MAX >> 12});
    CHECK(pages_of(0, UINT64_MAX) == PageRange{0, UINT64_MAX >> 12});
}

TEST_CASE("index: bits of a range in a word", "[index]") {
    CHECK(bits_in_word(0, 0, 0) == 1);
    CHECK(bits_in_word(0, 63, 63) == std::uint64_t{1} << 63);
    CHECK(bits_in_word(0, 0, 63) == UINT64_MAX);
    CHECK(bits_in_word(1, 0, 1000) == UINT64_MAX);
    CHECK(bits_in_word(1, 65, 66) == 0x6);
    CHECK(bits_in_word(1, 0, 63) == 0);
    CHECK(bits_in_word(0, 64, 100) == 0);
    CHECK(bits_in_word(2, 120, 130) == 0x7);
}

TEST_CASE("index: sizes of the log's parts", "[index]") {
    CHECK(PVDIRTY_MARKS_BYTES(1) == 64);
    CHECK(PVDIRTY_MARKS_BYTES(512) == 64);
    CHECK(PVDIRTY_MARKS_BYTES(513) == 128);
    CHECK(PVDIRTY_MARKS_BYTES(PVDIRTY_WINDOW_PAGES) == 32768);
    CHECK(PVDIRTY_COUNTS_BYTES(513) == 1024);
    CHECK(PVDIRTY_LOG_SUMMARIES(1) == 8192 + 64);
    CHECK(PVDIRTY_LOG_SUMMARIES(3) == 8192 + 128);
    CHECK(PVDIRTY_LOG_PAGES(1) == 3);
    CHECK(PVDIRTY_LOG_PAGES(25) == 3);
    CHECK(PVDIRTY_LOG_PAGES(26) == 4);
}

TEST_CASE("harvest: the page is at the bit that the format says", "[harvest]") {
    const std::uint64_t pfn = GENERATE(as<std::uint64_t>{}, 0, 1, 63, 64, 511, 512, 513, 32767,
                                       32768, window - 1, 2 * window, 2 * window + 1535);
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}, {2, 1536}});
    const std::size_t section = pfn >= window ? 1 : 0;
    const std::uint64_t page = pfn % window;

    SECTION("as the guest core writes it") {
        pvd_mark(guest.log.core(), pfn, pfn);
        CHECK(guest.log.marks(section)[page / 64] == std::uint64_t{1} << (page % 64));
        CHECK(guest.log.summary(section).marks[page / 512 / 64] == std::uint64_t{1}
                                                                       << (page / 512 % 64));
        CHECK(guest.log.top().marks[0] == std::uint64_t{1} << section);
    }
    SECTION("as any guest writes it") {
        guest.log.marks(section)[page / 64] = std::uint64_t{1} << (page % 64);
        guest.log.summary(section).marks[page / 512 / 64] = std::uint64_t{1} << (page / 512 % 64);
        guest.log.top().marks[0] = std::uint64_t{1} << section;
    }
    CHECK(guest.harvest() == PageSet({{pfn, pfn}}));
    CHECK(guest.log.marks(section)[page / 64] == 0);
    CHECK(guest.log.summary(section).marks[page / 512 / 64] == 0);
    CHECK(guest.log.top().marks[0] == 0);
    CHECK(guest.ram.take_written() ==
          std::set{guest.page_of(&guest.log.top().marks[0]),
                   guest.page_of(&guest.log.summary(section).marks[page / 512 / 64]),
                   guest.page_of(&guest.log.marks(section)[page / 64])});
    CHECK(guest.harvest().empty());
}

TEST_CASE("harvest: clean memory is not written", "[harvest]") {
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}});
    CHECK(guest.harvest().empty());
    CHECK(guest.scan().empty());
    CHECK(guest.ram.written_calls() == 0);
}

TEST_CASE("harvest: what is not summarised is not looked at", "[harvest]") {
    // The cost follows what is dirty; a mark without its summary is a guest's own loss.
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}});
    guest.log.marks(0)[0] = 1;
    CHECK(guest.harvest().empty());
    guest.log.top().marks[0] = 1;
    CHECK(guest.harvest().empty());
    guest.log.summary(0).marks[0] = 1;
    CHECK(guest.harvest().empty());
    guest.log.top().marks[0] = 1;
    CHECK(guest.harvest() == PageSet({{0, 0}}));
}

TEST_CASE("harvest: bits beyond the section are never pages, and never written", "[harvest]") {
    Attached guest({{0, 513}});
    std::fill_n(guest.log.marks(0), PVDIRTY_MARKS_BYTES(513) / 8, UINT64_MAX);
    std::fill_n(guest.log.counts(0), PVDIRTY_COUNTS_BYTES(513), 0xff);
    for (unsigned i = 0; i < PVDIRTY_SUMMARY_WORDS; i++) {
        guest.log.summary(0).marks[i] = guest.log.summary(0).counts[i] = UINT64_MAX;
    }
    for (unsigned i = 0; i < PVDIRTY_TOP_WORDS; i++) {
        guest.log.top().marks[i] = guest.log.top().counts[i] = UINT64_MAX;
    }
    CHECK(guest.scan() == PageSet({{0, 512}}));
    CHECK(guest.ram.written_calls() == 0);
    CHECK(guest.harvest() == PageSet({{0, 512}}));
    guest.ram.take_written();
    const int calls = guest.ram.written_calls();
    CHECK(guest.harvest().empty());
    CHECK(guest.ram.written_calls() == calls);
}

TEST_CASE("harvest: the VMM is told of every page that was written, in few calls", "[harvest]") {
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}});
    pvd_mark(guest.log.core(), 0, window - 1);
    CHECK(guest.harvest().size() == window);
    std::set<std::uint64_t> expected{guest.page_of(&guest.log.top()),
                                     guest.page_of(&guest.log.summary(0))};
    for (std::uint64_t offset = 0; offset < PVDIRTY_MARKS_BYTES(window); offset += 4096) {
        expected.insert(guest.page_of(guest.log.marks(0) + offset / 8));
    }
    CHECK(guest.ram.take_written() == expected);
    CHECK(guest.ram.written_calls() == 3);
}

TEST_CASE("harvest: the VMM is told of no page that was not written", "[harvest]") {
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}});
    constexpr std::uint64_t pages_per_page = 4096 * 8; // described by a page of marks
    pvd_mark(guest.log.core(), 0, 0);
    pvd_mark(guest.log.core(), 2 * pages_per_page, 2 * pages_per_page);
    CHECK(guest.harvest().size() == 2);
    const std::set expected{guest.page_of(&guest.log.top()), guest.page_of(&guest.log.summary(0)),
                            guest.page_of(guest.log.marks(0)),
                            guest.page_of(guest.log.marks(0) + 2 * pages_per_page / 64)};
    CHECK(guest.ram.take_written() == expected);
}

TEST_CASE("range harvest: takes its own pages and leaves the others findable", "[harvest]") {
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}, {1, 1000}});
    SECTION("within one word") {
        pvd_mark(guest.log.core(), 0, 63);
        CHECK(guest.harvest({10, 20}) == PageSet({{10, 20}}));
        CHECK(guest.harvest({10, 20}).empty());
        CHECK(guest.harvest() == PageSet({{0, 9}, {21, 63}}));
    }
    SECTION("within one group") {
        pvd_mark(guest.log.core(), 0, 0);
        pvd_mark(guest.log.core(), 511, 511);
        CHECK(guest.harvest({0, 0}) == PageSet({{0, 0}}));
        CHECK(guest.harvest() == PageSet({{511, 511}}));
    }
    SECTION("groups of one section") {
        pvd_mark(guest.log.core(), 100, window - 1);
        CHECK(guest.harvest({40000, 70000}) == PageSet({{40000, 70000}}));
        CHECK(guest.harvest() == PageSet({{100, 39999}, {70001, window - 1}}));
    }
    SECTION("across sections") {
        pvd_mark(guest.log.core(), window - 600, window + 999);
        CHECK(guest.harvest({window - 300, window + 10}) == PageSet({{window - 300, window + 10}}));
        CHECK(guest.harvest() ==
              PageSet({{window - 600, window - 301}, {window + 11, window + 999}}));
    }
    SECTION("a range in a hole, or beyond all sections") {
        pvd_mark(guest.log.core(), window, window + 999);
        CHECK(guest.harvest({window + 1000, 2 * window}).empty());
        CHECK(guest.harvest({5 * window, UINT64_MAX}).empty());
        CHECK(guest.harvest() == PageSet({{window, window + 999}}));
    }
    SECTION("nothing remains: the levels above are clear") {
        pvd_mark(guest.log.core(), 10, 20);
        CHECK(guest.harvest({10, 20}).size() == 11);
        CHECK(guest.log.top().marks[0] == 0);
        CHECK(guest.log.summary(0).marks[0] == 0);
    }
}

TEST_CASE("scan: counters of any value but 0, and their prune", "[scan]") {
    Attached guest({{0, PVDIRTY_WINDOW_PAGES}, {3, 700}});
    pvd_hold(guest.log.core(), 5, 6);
    pvd_hold(guest.log.core(), 40000, 40000);
    guest.log.count(40000) = PVDIRTY_COUNT_STUCK;
    pvd_hold(guest.log.core(), 3 * window + 699, 3 * window + 699);
    CHECK(guest.scan() == PageSet({{5, 6}, {40000, 40000}, {3 * window + 699, 3 * window + 699}}));
    CHECK(guest.ram.written_calls() == 0);
    CHECK(guest.log_view.in_flight(5) == true);
    CHECK(guest.log_view.in_flight(7) == false);
    CHECK(guest.log_view.in_flight(3 * window + 699) == true);
    CHECK(guest.log_view.in_flight(3 * window + 700) == std::nullopt);
    CHECK(guest.log_view.in_flight(window) == std::nullopt);
    CHECK(guest.log_view.in_flight(UINT64_MAX) == std::nullopt);

    SECTION("a group that is empty loses its summary bit") {
        pvd_release(guest.log.core(), 5, 6);
        REQUIRE((guest.log.summary(0).counts[0] & 1) == 1);
        CHECK(guest.scan().size() == 2);
        CHECK((guest.log.summary(0).counts[0] & 1) == 0);
        CHECK((guest.log.top().counts[0] & 1) == 1);
        CHECK(guest.ram.take_written() == std::set{guest.page_of(&guest.log.summary(0))});
        const int calls = guest.ram.written_calls();
        CHECK(guest.scan().size() == 2);
        CHECK(guest.ram.written_calls() == calls);
    }
    SECTION("a section that is empty loses its bit in the root") {
        pvd_release(guest.log.core(), 3 * window + 699, 3 * window + 699);
        CHECK(guest.scan().size() == 3);
        CHECK(guest.log.top().counts[0] == 1);
        CHECK(guest.log.summary(1).counts[0] == 0);
        CHECK(guest.ram.take_written() ==
              std::set{guest.page_of(&guest.log.summary(1)), guest.page_of(&guest.log.top())});
        pvd_hold(guest.log.core(), 3 * window, 3 * window);
        CHECK(guest.scan().size() == 4);
    }
    SECTION("a stuck counter stays in flight") {
        pvd_release(guest.log.core(), 40000, 40000);
        CHECK(guest.log.count(40000) == PVDIRTY_COUNT_STUCK);
        CHECK(guest.scan().contains(40000));
    }
}

TEST_CASE("log: a hold tells whether sections cover all its pages", "[log]") {
    Attached guest({{0, 64}, {3, 700}});
    pvd_log* const log = guest.log.core();
    CHECK(pvd_hold(log, 63, 63));
    CHECK(pvd_hold(log, 3 * window, 3 * window + 699));
    CHECK(guest.log_view.incomplete() == 0);
    CHECK_FALSE(pvd_hold(log, 63, 64));
    CHECK_FALSE(pvd_hold(log, 64, 64));
    CHECK_FALSE(pvd_hold(log, window, window));
    CHECK_FALSE(pvd_hold(log, 3 * window - 1, 3 * window));
    CHECK_FALSE(pvd_hold(log, 3 * window + 511, 3 * window + 1023));
    CHECK(guest.log_view.incomplete() == 1U << PVDIRTY_I_OUTSIDE);
}

TEST_CASE("log: a range that wraps is outside of every section", "[log]") {
    Attached guest({{0, window}});
    pvd_log* const log = guest.log.core();
    const std::uint64_t top = ~std::uint64_t{0} >> PVDIRTY_PAGE_SHIFT;
    CHECK(pvd_hold(log, 0, 0));
    CHECK(pvd_hold(log, window - 1, window - 1));
    pvd_release(log, top, 0);
    CHECK(guest.log.count(0) == 1);
    CHECK(guest.log.count(window - 1) == 1);
    CHECK_FALSE(pvd_hold(log, top, 0));
    CHECK(guest.log.count(window - 1) == 1);
    CHECK(guest.log_view.incomplete() == 1U << PVDIRTY_I_OUTSIDE);
}

TEST_CASE("log: the logging word", "[log]") {
    Attached guest({{0, 64}});
    guest.log_view.publish(true);
    CHECK(guest.log.control().logging == 1);
    CHECK(guest.log_view.published());
    CHECK(pvd_guest_logging(guest.log.core()));
    CHECK(guest.ram.take_written() == std::set{guest.page_of(&guest.log.control())});
    guest.log_view.publish(false);
    CHECK(guest.log.control().logging == 0);
    CHECK_FALSE(pvd_guest_logging(guest.log.core()));
}

TEST_CASE("log: the words that the guest writes", "[log]") {
    Attached guest({{0, 64}});
    CHECK(guest.log_view.incomplete() == 0);
    CHECK(guest.log_view.gaps() == 0);
    pvd_gap(guest.log.core());
    pvd_gap(guest.log.core());
    pvd_incomplete(guest.log.core(), PVDIRTY_I_CHILD);
    guest.log.control().devices[511] = PVDIRTY_DEV(0x123, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_IOMMU);
    CHECK(guest.log_view.gaps() == 2);
    CHECK(guest.log_view.incomplete() == 1U << PVDIRTY_I_CHILD);
    CHECK(guest.log_view.devices()[511] == 0x03020123);
    CHECK(guest.log_view.devices()[0] == 0);
}
