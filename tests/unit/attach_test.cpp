// SPDX-License-Identifier: MIT
/* Registration of a log: each error, each bound, and that RAM is held and given back. */
#include <catch2/catch.hpp>

#include <cstddef>
#include <cstring>

#include "guest/guest_log.hpp"
#include "pvdirty/log.hpp"

using pvdirty::Log;
using pvdirty::test::Guest;
using pvdirty::test::GuestLog;
using pvdirty::test::Ram;

namespace {

pvdirty_error attach(Guest& guest) {
    const auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    return log ? PVDIRTY_OK : log.error();
}

} // namespace

TEST_CASE("attach: a good log is held while it is registered, and not written", "[attach]") {
    Guest guest({{0, PVDIRTY_WINDOW_PAGES}, {4, 1000}});
    {
        auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
        REQUIRE(log);
        CHECK(log->addr() == guest.log.addr());
        CHECK(log->pages() == guest.log.pages());
        CHECK(log->sections() == 2);
        CHECK(guest.ram.holds() == 5);
        CHECK_FALSE(log->published());

        Log moved = std::move(*log);
        CHECK(guest.ram.holds() == 5);
        CHECK(moved.in_flight(0) == false);
    }
    CHECK(guest.ram.holds() == 0);
    CHECK(guest.ram.written_calls() == 0);
}

TEST_CASE("attach: address and size of the log", "[attach]") {
    Guest guest({{0, 64}});
    const auto error = [&](std::uint64_t addr, std::uint32_t pages) {
        const auto log = Log::attach(guest.ram, addr, pages);
        return log ? PVDIRTY_OK : log.error();
    };
    const std::uint64_t addr = guest.log.addr();
    REQUIRE(guest.log.pages() == 3);
    CHECK(error(addr, 3) == PVDIRTY_OK);
    CHECK(error(addr + 64, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(addr + 2048, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(addr - 4096, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(0, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(UINT64_MAX - 4095, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(UINT64_MAX - 4095, UINT32_MAX) == PVDIRTY_E_LOG_ADDR);
    CHECK(error((std::uint64_t{1} << 52) - 4096, 3) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(addr, UINT32_MAX) == PVDIRTY_E_LOG_ADDR);
    CHECK(error(addr, 0) == PVDIRTY_E_LOG_SIZE);
    CHECK(error(addr, 2) == PVDIRTY_E_LOG_SIZE);
    CHECK(guest.ram.holds() == 0);
}

TEST_CASE("attach: a log may be larger than its sections need, not smaller", "[attach]") {
    const std::uint32_t nsections = 100;
    std::vector<pvdirty::test::SectionSpec> sections;
    for (std::uint32_t i = 0; i < nsections; i++) {
        sections.push_back({i, 512});
    }
    Guest guest(sections);
    REQUIRE(guest.log.pages() == 2 + (nsections * (32 + 128) + 4095) / 4096);
    CHECK(attach(guest) == PVDIRTY_OK);
    const auto small = Log::attach(guest.ram, guest.log.addr(), guest.log.pages() - 1);
    REQUIRE_FALSE(small);
    CHECK(small.error() == PVDIRTY_E_LOG_SIZE);
    guest.log.control().nsections = nsections / 2;
    CHECK(attach(guest) == PVDIRTY_OK);
}

TEST_CASE("attach: header", "[attach]") {
    Guest guest({{0, 64}});
    SECTION("signature") {
        guest.log.control().signature ^= 1;
        CHECK(attach(guest) == PVDIRTY_E_LOG_HEADER);
    }
    SECTION("version 0") {
        guest.log.control().version = 0;
        CHECK(attach(guest) == PVDIRTY_E_LOG_HEADER);
    }
    SECTION("a later version") {
        guest.log.control().version = PVDIRTY_VERSION + 1;
        CHECK(attach(guest) == PVDIRTY_E_LOG_HEADER);
    }
    SECTION("reserved fields are not read") {
        guest.log.control().reserved0 = 1;
        guest.log.control().reserved1[51] = 1;
        CHECK(attach(guest) == PVDIRTY_OK);
    }
    SECTION("no section") {
        guest.log.control().nsections = 0;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_COUNT);
    }
    SECTION("too many sections") {
        guest.log.control().nsections = PVDIRTY_MAX_SECTIONS + 1;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_COUNT);
        guest.log.control().nsections = UINT32_MAX;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_COUNT);
        guest.log.control().nsections = PVDIRTY_MAX_SECTIONS;
        CHECK(attach(guest) == PVDIRTY_E_LOG_SIZE);
    }
}

TEST_CASE("attach: as many sections as there may be", "[attach]") {
    std::vector<pvdirty::test::SectionSpec> sections;
    for (std::uint32_t i = 0; i < PVDIRTY_MAX_SECTIONS; i++) {
        sections.push_back({i, 1});
    }
    Guest guest(sections);
    auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    REQUIRE(log);
    CHECK(log->sections() == PVDIRTY_MAX_SECTIONS);
    const std::uint64_t last = std::uint64_t{PVDIRTY_MAX_SECTIONS - 1} << PVDIRTY_WINDOW_SHIFT;
    pvd_mark(guest.log.core(), last, last);
    CHECK(log->harvest({}) == 1);
}

TEST_CASE("attach: windows", "[attach]") {
    Guest guest({{1, 512}, {2, 512}});
    pvdirty_section& first = guest.log.section(0);
    pvdirty_section& second = guest.log.section(1);
    SECTION("unaligned") {
        second.base_pfn += GENERATE(as<std::uint64_t>{}, 1, 512, PVDIRTY_WINDOW_PAGES / 2);
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("twice the same") {
        second.base_pfn = first.base_pfn;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("descending") {
        std::swap(first.base_pfn, second.base_pfn);
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("no page") {
        second.npages = 0;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("more pages than a window has") {
        second.npages = GENERATE(as<std::uint32_t>{}, PVDIRTY_WINDOW_PAGES + 1, UINT32_MAX);
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("reserved") {
        second.reserved = GENERATE(as<std::uint32_t>{}, 1, 0x80000000U);
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    SECTION("the last window of the address space is the last") {
        second.base_pfn = (std::uint64_t{1} << 40) - PVDIRTY_WINDOW_PAGES;
        CHECK(attach(guest) == PVDIRTY_OK);
        second.base_pfn += PVDIRTY_WINDOW_PAGES;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
        second.base_pfn = ~std::uint64_t{0} - PVDIRTY_WINDOW_PAGES + 1;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_RANGE);
    }
    CHECK(guest.ram.holds() == 0);
}

TEST_CASE("attach: areas of a section", "[attach]") {
    Guest guest({{0, 512}, {1, 512}}, 4096);
    __le64 pvdirty_section::*const area =
        GENERATE(&pvdirty_section::marks, &pvdirty_section::counts);
    __le64& where = guest.log.section(1).*area;
    const std::uint64_t size = area == &pvdirty_section::marks ? 64 : 512;
    const std::uint64_t end = guest.ram.gpa() + guest.ram.size();

    CHECK(attach(guest) == PVDIRTY_OK);
    for (const std::uint64_t bad : std::initializer_list<std::uint64_t>{
             where + 8, where + 32, end, end - size + 64, guest.ram.gpa() - 64, 0, UINT64_MAX - 63,
             (std::uint64_t{1} << 52) - 64}) {
        INFO("area at " << std::hex << bad);
        where = bad;
        CHECK(attach(guest) == PVDIRTY_E_SECTION_ADDR);
    }
    where = end - size;
    CHECK(attach(guest) == PVDIRTY_OK);
    CHECK(guest.ram.holds() == 0);
}

TEST_CASE("attach: a view that atomics cannot use is refused and given back", "[attach]") {
    Guest guest({{0, 512}});
    guest.ram.skew_views(4);
    CHECK(attach(guest) == PVDIRTY_E_LOG_ADDR);
    CHECK(guest.ram.holds() == 0);
}

TEST_CASE("attach: the table is copied", "[attach]") {
    Guest guest({{0, 512}, {1, 512}});
    auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    REQUIRE(log);
    guest.log.section(0).npages = UINT32_MAX;
    guest.log.section(0).marks = 0;
    guest.log.section(1).counts = UINT64_MAX;
    guest.log.control().nsections = UINT32_MAX;
    guest.log.control().signature = 0;
    pvd_mark(guest.log.core(), 100, 200);
    pvd_hold(guest.log.core(), 300, 301);
    CHECK(log->scan({}) == 2);
    CHECK(log->harvest({}) == 101);
}

TEST_CASE("attach: which RAM the log uses", "[attach]") {
    Guest guest({{0, 512}});
    const auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    REQUIRE(log);
    const std::uint64_t begin = guest.ram.gpa();
    const std::uint64_t size = guest.ram.size();
    CHECK(log->uses(begin, 1));
    CHECK(log->uses(begin + size - 1, 1));
    CHECK(log->uses(0, UINT64_MAX));
    CHECK(log->uses(begin - 4096, 4097));
    CHECK_FALSE(log->uses(begin, 0));
    CHECK_FALSE(log->uses(begin - 4096, 4096));
    CHECK_FALSE(log->uses(begin + size, UINT64_MAX - begin - size));
}

TEST_CASE("attach: areas that overlap are refused", "[attach]") {
    Guest guest({{0, PVDIRTY_WINDOW_PAGES}, {1, 512}});
    pvdirty_section& first = guest.log.section(0);
    pvdirty_section& second = guest.log.section(1);
    const std::uint64_t log_end = guest.log.addr() + guest.log.pages() * 4096ULL;
    REQUIRE(first.marks == log_end); // each area ends where the next one begins
    REQUIRE(attach(guest) == PVDIRTY_OK);
    SECTION("with the log itself") {
        second.marks = GENERATE_REF(as<std::uint64_t>{}, guest.log.addr(), log_end - 64);
    }
    SECTION("marks with counters of the same section") {
        second.counts = second.marks;
    }
    SECTION("with an area of another section") {
        second.counts = GENERATE_REF(as<std::uint64_t>{}, first.marks, first.marks + 32768 - 64,
                                     first.counts - 64, first.counts + 262144 - 64);
    }
    CHECK(attach(guest) == PVDIRTY_E_SECTION_ADDR);
    CHECK(guest.ram.holds() == 0);
}

TEST_CASE("attach: a guest that writes anything into its log harms nobody else", "[attach]") {
    Guest guest({{0, PVDIRTY_WINDOW_PAGES}, {1, 512}});
    auto log = Log::attach(guest.ram, guest.log.addr(), guest.log.pages());
    REQUIRE(log);
    for (const int byte : {0x80, 0x01, 0xff}) {
        std::memset(guest.ram.at<char>(guest.ram.gpa()), byte, guest.ram.size());
        for (int round = 0; round < 3; round++) {
            CHECK(log->scan({}) <= PVDIRTY_WINDOW_PAGES + 512);
            CHECK(log->harvest({}) <= PVDIRTY_WINDOW_PAGES + 512);
        }
        CHECK(log->in_flight(0) == true);
        CHECK(log->devices().size() == PVDIRTY_MAX_DEVICES);
    }
    CHECK_FALSE(guest.ram.written_outside());
}
