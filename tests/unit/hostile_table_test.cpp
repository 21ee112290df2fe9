// SPDX-License-Identifier: MIT
/* Logs that no honest guest registers: each is refused by its own error, and all is dirty then. */
#include <catch2/catch.hpp>

#include <functional>
#include <string>
#include <vector>

#include "unit/hostile.hpp"

using pvdirty::Logger;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

/** What a hostile guest asks for. */
struct Request {
    std::uint64_t addr;
    std::uint32_t pages;
};

struct Attack {
    std::string name;
    pvdirty_error error;
    /** Spoils the log, or what is asked for. */
    std::function<void(HostileVm&, Request&)> spoil;
};

Attack section_attack(const std::string& name, pvdirty_error error,
                      const std::function<void(HostileVm&, pvdirty_section&)>& spoil) {
    return {name, error, [spoil](HostileVm& vm, Request&) { spoil(vm, vm.log.section(1)); }};
}

/* Places for marks, or counters, that are not RAM of their own. */
std::vector<Attack> area_attacks(const std::string& area, __le64 pvdirty_section::*field) {
    struct Place {
        std::string name;
        std::function<std::uint64_t(HostileVm&)> gpa;
    };
    using Vm = HostileVm;
    const std::uint64_t size = area == "marks" ? 512 : 4096; // of section 1
    const std::vector<Place> places{
        {"into the control page", [](Vm& vm) { return vm.log.addr(); }},
        {"into the root", [](Vm& vm) { return vm.log.addr() + PVDIRTY_LOG_TOP; }},
        {"into the table, its own entry", [](Vm& vm) { return vm.log.addr() + PVDIRTY_LOG_TABLE; }},
        {"into the summaries", [](Vm& vm) { return vm.log.addr() + PVDIRTY_LOG_SUMMARIES(2); }},
        {"into another section's marks", [](Vm& vm) { return vm.log.section(0).marks + 64; }},
        {"into another section's counters", [](Vm& vm) { return vm.log.section(0).counts; }},
        {"to the end of another section's counters",
         [](Vm& vm) { return vm.log.section(0).counts + PVDIRTY_WINDOW_PAGES - 64; }},
        {"over the start of another section's marks",
         [size](Vm& vm) { return vm.log.section(0).marks - size + 64; }},
        {"to page 0", [](Vm&) { return std::uint64_t{0}; }},
        {"below the RAM", [](Vm&) { return Vm::ram_gpa - 64; }},
        {"across two regions", [](Vm&) { return Vm::ram_gpa + Vm::piece - 64; }},
        {"across the end of RAM into the hole", [](Vm&) { return Vm::hole_gpa - 64; }},
        {"into the hole", [](Vm&) { return Vm::hole_gpa; }},
        {"into ROM", [](Vm&) { return Vm::rom_gpa; }},
        {"from ROM into RAM", [](Vm&) { return Vm::last_gpa - 64; }},
        {"past the end", [](Vm&) { return Vm::end_gpa - 64; }},
        {"beyond the end", [](Vm&) { return Vm::end_gpa; }},
        {"to the last bytes of the address space", [](Vm&) { return UINT64_MAX - 63; }},
        {"past 2^52", [](Vm&) { return (std::uint64_t{1} << 52) - 64; }},
        {"to 8 mod 64", [](Vm&) { return Vm::last_gpa + 8; }},
        {"to 63 mod 64", [](Vm&) { return Vm::last_gpa + 63; }},
    };
    std::vector<Attack> attacks;
    attacks.reserve(places.size());
    for (const Place& place : places) {
        attacks.push_back(section_attack(area + " " + place.name, PVDIRTY_E_SECTION_ADDR,
                                         [field, place](HostileVm& vm, pvdirty_section& section) {
                                             section.*field = place.gpa(vm);
                                         }));
    }
    return attacks;
}

std::vector<Attack> window_attacks() {
    using Vm = HostileVm;
    constexpr pvdirty_error range = PVDIRTY_E_SECTION_RANGE;
    const auto duplicate = [](Vm& vm, pvdirty_section& section) { section = vm.log.section(0); };
    return {
        section_attack("the same entry twice", range, duplicate),
        section_attack("the same window twice", range,
                       [](Vm& vm, pvdirty_section& section) {
                           section.base_pfn = vm.log.section(0).base_pfn;
                       }),
        section_attack("windows that descend", range,
                       [](Vm&, pvdirty_section& section) { section.base_pfn = 0; }),
        section_attack("an unaligned window", range,
                       [](Vm&, pvdirty_section& section) { section.base_pfn++; }),
        section_attack(
            "a window past 2^52", range,
            [](Vm&, pvdirty_section& section) { section.base_pfn = std::uint64_t{1} << 40; }),
        section_attack("a window at the end of 64 bits", range,
                       [](Vm&, pvdirty_section& section) {
                           section.base_pfn = UINT64_MAX - PVDIRTY_WINDOW_PAGES + 1;
                       }),
        section_attack("no page", range, [](Vm&, pvdirty_section& section) { section.npages = 0; }),
        section_attack(
            "a page too many", range,
            [](Vm&, pvdirty_section& section) { section.npages = PVDIRTY_WINDOW_PAGES + 1; }),
        section_attack("2^32 - 1 pages", range,
                       [](Vm&, pvdirty_section& section) { section.npages = UINT32_MAX; }),
        section_attack("a reserved bit", range,
                       [](Vm&, pvdirty_section& section) { section.reserved = 1; }),
    };
}

std::vector<Attack> log_attacks() {
    using Vm = HostileVm;
    const auto at = [](std::uint64_t addr) {
        return [addr](Vm&, Request& request) { request.addr = addr; };
    };
    const auto sized = [](std::uint32_t pages) {
        return [pages](Vm&, Request& request) { request.pages = pages; };
    };
    const auto counting = [](std::uint32_t sections) {
        return [sections](Vm& vm, Request&) { vm.log.control().nsections = sections; };
    };
    return {
        {"log at 64 mod 4096", PVDIRTY_E_LOG_ADDR, at(Vm::ram_gpa + 64)},
        {"log at page 0", PVDIRTY_E_LOG_ADDR, at(0)},
        {"log in the hole", PVDIRTY_E_LOG_ADDR, at(Vm::hole_gpa)},
        {"log in ROM", PVDIRTY_E_LOG_ADDR, at(Vm::rom_gpa)},
        {"log in the last page", PVDIRTY_E_LOG_ADDR, at(Vm::end_gpa - PVDIRTY_PAGE_SIZE)},
        {"log across two regions", PVDIRTY_E_LOG_ADDR, at(Vm::ram_gpa + Vm::piece - 4096)},
        {"log beyond the end", PVDIRTY_E_LOG_ADDR, at(Vm::end_gpa)},
        {"log at the end of 64 bits", PVDIRTY_E_LOG_ADDR, at(UINT64_MAX - 4095)},
        {"log of 16 TiB", PVDIRTY_E_LOG_ADDR, sized(UINT32_MAX)},
        {"log of no page", PVDIRTY_E_LOG_SIZE, sized(0)},
        {"log a page too small", PVDIRTY_E_LOG_SIZE, sized(2)},
        {"a log of zeros", PVDIRTY_E_LOG_HEADER, at(Vm::last_gpa)},
        {"no section", PVDIRTY_E_SECTION_COUNT, counting(0)},
        {"sections past the limit", PVDIRTY_E_SECTION_COUNT, counting(PVDIRTY_MAX_SECTIONS + 1)},
        {"2^32 - 1 sections", PVDIRTY_E_SECTION_COUNT, counting(UINT32_MAX)},
        {"more sections than the log has room for", PVDIRTY_E_LOG_SIZE, counting(1000)},
        {"an entry of zeros", PVDIRTY_E_SECTION_RANGE, counting(3)},
    };
}

std::vector<Attack> all_attacks() {
    std::vector<Attack> all = log_attacks();
    for (const auto& more : {window_attacks(), area_attacks("marks", &pvdirty_section::marks),
                             area_attacks("counters", &pvdirty_section::counts)}) {
        all.insert(all.end(), more.begin(), more.end());
    }
    return all;
}

} // namespace

TEST_CASE("hostile table: refused with its error, and nothing is held", "[hostile]") {
    for (const Attack& attack : all_attacks()) {
        INFO(attack.name);
        HostileVm vm;
        Request request{vm.log.addr(), vm.log.pages()};
        REQUIRE(vm.answer(request.addr, request.pages) == PVDIRTY_OK); // the same guest, honest
        unregister_port(vm.rp0);
        attack.spoil(vm, request);
        CHECK(vm.answer(request.addr, request.pages) == attack.error);
        CHECK(vm.status() == status_features_ok);
        CHECK(vm.memory.holds() == 0);
        CHECK_FALSE(vm.domain.log());
        CHECK_FALSE(vm.memory.stray());
    }
}

TEST_CASE("hostile table: all is dirty from a refusal to the session's end", "[hostile]") {
    for (const Attack& attack : all_attacks()) {
        INFO(attack.name);
        HostileVm vm;
        vm.register_log();
        vm.domain.set_logging(Logger::session, true);
        REQUIRE_FALSE(vm.harvest().all_dirty);

        Request request{vm.log.addr(), vm.log.pages()};
        std::vector<std::byte> honest(vm.ram.at<std::byte>(HostileVm::ram_gpa),
                                      vm.ram.at<std::byte>(HostileVm::ram_gpa) +
                                          std::size_t{vm.log.pages()} * PVDIRTY_PAGE_SIZE);
        unregister_port(vm.rp0);
        attack.spoil(vm, request);
        REQUIRE(vm.answer(request.addr, request.pages) == attack.error);
        CHECK(vm.harvest().all_dirty);
        CHECK(vm.domain.pending() == UINT64_MAX);

        // A log in good order does not make the past good, in this session.
        std::memcpy(vm.ram.at<std::byte>(HostileVm::ram_gpa), honest.data(), honest.size());
        vm.register_log();
        REQUIRE(vm.domain.log());
        CHECK(vm.harvest().all_dirty);
        CHECK_FALSE(vm.domain.latched().empty());
        vm.domain.set_logging(Logger::session, false);
        vm.domain.set_logging(Logger::session, true);
        CHECK_FALSE(vm.harvest().all_dirty);
    }
}

TEST_CASE("hostile table: trying again costs no more than trying once", "[hostile]") {
    HostileVm vm;
    vm.log.section(1).counts = HostileVm::rom_gpa;
    vm.register_log();
    for (int i = 0; i < 1000; i++) {
        vm.rp0.write(offsetof(pvdirty_cap, device_status), status_driver_ok, 1);
        REQUIRE(read_cap(vm.rp0).error == PVDIRTY_E_SECTION_ADDR);
        REQUIRE(vm.memory.holds() == 0);
    }
    vm.log.section(1).counts = HostileVm::last_gpa;
    vm.rp0.write(offsetof(pvdirty_cap, device_status), status_driver_ok, 1);
    CHECK(vm.status() == status_driver_ok);
    CHECK(vm.memory.holds() == 5);
}

TEST_CASE("hostile table: the VMM limits the sections", "[hostile]") {
    HostileVm vm;
    const auto with_limit = [&vm](std::uint32_t limit) {
        vm.domain.limit_sections(limit);
        return vm.answer(vm.log.addr(), vm.log.pages());
    };
    CHECK(with_limit(0) == PVDIRTY_E_SECTION_COUNT);
    CHECK(with_limit(1) == PVDIRTY_E_SECTION_COUNT);
    CHECK(vm.memory.holds() == 0);
    CHECK(with_limit(2) == PVDIRTY_OK);
    vm.log.control().nsections = PVDIRTY_MAX_SECTIONS + 1;
    CHECK(with_limit(UINT32_MAX) == PVDIRTY_E_SECTION_COUNT);
}
