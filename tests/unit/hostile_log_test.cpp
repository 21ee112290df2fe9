// SPDX-License-Identifier: MIT
/* A registered log in the hands of a hostile guest: moved, scribbled on, its RAM taken away. */
#include <catch2/catch.hpp>

#include <array>
#include <bit>
#include <random>
#include <thread>

#include "guest/page_set.hpp"
#include "unit/hostile.hpp"

using Catch::Matchers::Contains;
using pvdirty::Logger;
using pvdirty::PageSink;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr std::uint32_t status_register = offsetof(pvdirty_cap, device_status);

/** Are all pages that a sink gets in a window of the log, below its end? */
class InWindows {
public:
    explicit InWindows(const std::vector<SectionSpec>& sections)
        : covered_(PageSet::covered(sections)) {}

    void operator()(std::uint64_t first_pfn, std::uint64_t mask) {
        for (; mask != 0; mask &= mask - 1) {
            pages++;
            ok = ok && covered_.contains(first_pfn + static_cast<unsigned>(std::countr_zero(mask)));
        }
    }
    std::uint64_t pages = 0;
    bool ok = true;

private:
    PageSet covered_;
};

/* One random word, most often one that leads the host on: root, summary, marks, counters. */
void scribble(const HostileVm& vm, std::mt19937_64& random) {
    const auto in = [&random](std::uint64_t gpa, std::uint64_t size) {
        return gpa + random() % (size / 8) * 8;
    };
    const std::uint64_t log = HostileVm::ram_gpa;
    const std::uint64_t marks = log + vm.log.pages() * std::uint64_t{PVDIRTY_PAGE_SIZE};
    const std::array<std::uint64_t, 6> places{
        log + PVDIRTY_LOG_TOP,
        log + PVDIRTY_LOG_TOP + offsetof(pvdirty_top, counts),
        in(log + PVDIRTY_LOG_SUMMARIES(2), 2 * sizeof(pvdirty_summary)),
        in(marks, PVDIRTY_MARKS_BYTES(PVDIRTY_WINDOW_PAGES)),
        in(log, PVDIRTY_PAGE_SIZE),
        in(log, HostileVm::piece),
    };
    const std::array<std::uint64_t, 4> values{0, UINT64_MAX, random(), random()};
    __atomic_store_n(vm.ram.at<std::uint64_t>(places.at(random() % places.size())),
                     values.at(random() % values.size()), __ATOMIC_RELAXED);
}

/* Harvests once and checks what is reported; returns the number of pages. */
std::uint64_t harvest_checked(HostileVm& vm) {
    InWindows in_flight(vm.log.sections());
    InWindows marked(vm.log.sections());
    Collector once;
    auto both = [&](std::uint64_t first, std::uint64_t mask) {
        marked(first, mask);
        once(first, mask);
    };
    const auto result = vm.domain.harvest(PageSink(in_flight), PageSink(both));
    REQUIRE(in_flight.ok);
    REQUIRE(marked.ok);
    REQUIRE(once.ok()); // no page twice
    REQUIRE(result.pages_in_flight == in_flight.pages);
    REQUIRE(result.pages_marked == marked.pages);
    REQUIRE_FALSE(vm.memory.stray());
    return in_flight.pages + marked.pages;
}

} // namespace

TEST_CASE("hostile log: registered twice", "[hostile]") {
    HostileVm vm;
    vm.register_log();
    const GuestLog other(vm.ram, HostileVm::other_log_gpa, {{4, 512}});
    vm.domain.set_logging(Logger::session, true);

    SECTION("the same port asks for DRIVER_OK again") {
        vm.rp0.write(status_register, status_driver_ok, 1);
        CHECK(read_cap(vm.rp0).error == PVDIRTY_OK);
        CHECK_FALSE(vm.harvest().all_dirty);
    }
    SECTION("another port registers the same log") {
        register_port(vm.rp1, vm.log.addr(), vm.log.pages());
        CHECK(vm.memory.holds() == 5);
        unregister_port(vm.rp1);
        CHECK(vm.harvest().all_dirty);
    }
    SECTION("another port registers another log, or the same by another size") {
        register_port(vm.rp1, other.addr(), other.pages());
        CHECK(read_cap(vm.rp1).error == PVDIRTY_E_LOG_BUSY);
        register_port(vm.rp1, vm.log.addr(), vm.log.pages() + 1);
        CHECK(read_cap(vm.rp1).error == PVDIRTY_E_LOG_BUSY);
        CHECK(read_cap(vm.rp1).device_status == status_features_ok);
    }
    CHECK(vm.memory.holds() == 5);
    REQUIRE(vm.domain.log());
    CHECK(vm.domain.log()->addr() == vm.log.addr());
}

TEST_CASE("hostile log: moved while logging", "[hostile]") {
    HostileVm vm;
    vm.register_log();
    GuestLog other(vm.ram, HostileVm::other_log_gpa, {{4, 512}});
    other.control().devices[0] = PVDIRTY_DEV(0x100, PVDIRTY_DEV_TRACKED, 0);
    vm.domain.set_logging(Logger::session, true);

    SECTION("by writing the address of a registered log") {
        const auto low = static_cast<std::uint32_t>(other.addr());
        vm.rp0.write(offsetof(pvdirty_cap, log_addr_lo), low, 4);
        CHECK(read_cap(vm.rp0).error == PVDIRTY_E_STATE);
        vm.rp0.write(offsetof(pvdirty_cap, log_pages), 1, 4);
        CHECK(read_cap(vm.rp0).error == PVDIRTY_E_STATE);
        pvd_mark(other.core(), 4ULL << PVDIRTY_WINDOW_SHIFT, 4ULL << PVDIRTY_WINDOW_SHIFT);
        const auto result = vm.harvest();
        CHECK(result.pages_marked == 0);
        CHECK_FALSE(result.all_dirty);
        CHECK(vm.domain.log()->addr() == vm.log.addr());
    }
    SECTION("by a new registration") {
        unregister_port(vm.rp0);
        register_port(vm.rp0, other.addr(), other.pages());
        REQUIRE(vm.domain.log());
        CHECK(vm.domain.log()->addr() == other.addr());
        CHECK(other.control().logging == 1);
        CHECK(vm.memory.holds() == 3);
        CHECK(vm.harvest().all_dirty);
    }
    SECTION("by a new table over the old one") {
        vm.log.section(0).marks = vm.log.section(0).counts = HostileVm::hole_gpa;
        vm.log.control().nsections = PVDIRTY_MAX_SECTIONS;
        CHECK(harvest_checked(vm) == 0);
        CHECK(vm.memory.holds() == 5);
    }
}

TEST_CASE("hostile log: RAM that holds any part of it is taken away", "[hostile]") {
    HostileVm vm;
    vm.log.section(1).marks = HostileVm::ram_gpa + HostileVm::piece;
    vm.log.section(1).counts = HostileVm::last_gpa;
    vm.register_log();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    REQUIRE(vm.memory.holds() == 5);

    SECTION("RAM without a part of it") {
        vm.domain.ram_removed(HostileVm::hole_gpa, HostileVm::piece);
        vm.domain.ram_removed(HostileVm::last_gpa + 4096, HostileVm::piece - 4096);
        CHECK(vm.memory.holds() == 5);
        CHECK_FALSE(vm.harvest().all_dirty);
    }
    SECTION("a region with a part of it") {
        const std::size_t which = GENERATE(as<std::size_t>{}, 0, 1, 2);
        Ram& region = *std::array{&vm.ram, &vm.next, &vm.last}.at(which);
        // The VMM may unmap it as soon as the library has let go of it.
        vm.domain.ram_removed(region.gpa(), region.size());
        CHECK(vm.memory.holds() == 0);
        vm.memory.remove(region);

        const auto cap = read_cap(vm.rp0);
        CHECK(cap.error == PVDIRTY_E_LOG_GONE);
        CHECK((cap.device_status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
        CHECK((cap.device_status & VIRTIO_CONFIG_S_DRIVER_OK) == 0);
        CHECK(vm.harvest().all_dirty);
        CHECK_THAT(vm.domain.latched(), Contains("removed"));
        CHECK(vm.domain.page_in_flight(0));

        // Nothing but a reset is accepted, and the log is not taken back without its RAM.
        vm.rp0.write(status_register, status_driver_ok, 1);
        CHECK(read_cap(vm.rp0).error == PVDIRTY_E_STATE);
        vm.register_log();
        CHECK(read_cap(vm.rp0).error != PVDIRTY_OK);
        CHECK(vm.memory.holds() == 0);
        vm.domain.set_logging(Logger::session, false);
        vm.domain.set_logging(Logger::session, true);
        CHECK(vm.harvest().all_dirty);
    }
}

TEST_CASE("hostile log: written to in the midst of each harvest", "[hostile]") {
    std::mt19937_64 random(7); // NOLINT(cert-msc51-cpp): a fixed seed, to fail again
    HostileVm vm;
    vm.register_log();
    vm.domain.set_logging(Logger::session, true);
    vm.ram.on_written([&] { scribble(vm, random); });
    std::uint64_t pages = 0;
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < 20; i++) {
            scribble(vm, random);
        }
        pages += harvest_checked(vm);
    }
    CHECK(pages > 0);
    CHECK(vm.memory.holds() == 5);
}

TEST_CASE("hostile log: written to by another CPU all the time", "[hostile]") {
    HostileVm vm;
    vm.register_log();
    vm.domain.set_logging(Logger::session, true);
    std::jthread cpu([&vm](const std::stop_token& stop) {
        std::mt19937_64 random(11); // NOLINT(cert-msc51-cpp): a fixed seed, to fail again
        while (!stop.stop_requested()) {
            scribble(vm, random);
        }
    });
    // A busy machine may let one of the two run alone for long: only rounds that find much count.
    for (int rounds = 0; rounds < 200;) {
        rounds += harvest_checked(vm) > 100 ? 1 : 0;
        static_cast<void>(vm.domain.why_incomplete());
        static_cast<void>(vm.domain.page_in_flight(4ULL << PVDIRTY_WINDOW_SHIFT));
    }
    // The guest may also do so while it registers.
    for (int i = 0; i < 200; i++) {
        vm.register_log();
        const auto cap = read_cap(vm.rp0);
        REQUIRE((cap.error == PVDIRTY_OK) == (cap.device_status == status_driver_ok));
        REQUIRE(vm.domain.log().has_value() == (cap.error == PVDIRTY_OK));
    }
    cpu.request_stop();
    cpu.join();
    unregister_port(vm.rp0);
    CHECK(vm.memory.holds() == 0);
}
