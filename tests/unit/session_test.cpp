// SPDX-License-Identifier: MIT
/* Completeness, logging and harvests, and ports that share a log. */
#include <catch2/catch.hpp>

#include "guest/page_set.hpp"
#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::Logger;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

TEST_CASE("complete: without a covered device, always", "[complete]") {
    Vm vm;
    vm.domain.remove_device(vm.net0);
    vm.domain.set_logging(Logger::session, true);
    CHECK_FALSE(vm.domain.why_incomplete());
    CHECK_FALSE(vm.harvest().all_dirty);

    // Whatever the guest does with the log then, it has no device that could write.
    vm.register_both();
    pvd_incomplete(vm.guest.log.core(), PVDIRTY_I_UNDERFLOW);
    pvd_gap(vm.guest.log.core());
    CHECK_FALSE(vm.harvest().all_dirty);
    unregister_port(vm.rp0);
    vm.rp1.enumerated();
    CHECK_FALSE(vm.harvest().all_dirty);
    CHECK(vm.domain.latched().empty());
    CHECK(vm.domain.pending() == 0);
}

TEST_CASE("complete: the reason names the device", "[complete]") {
    Vm vm;
    const auto why = [&vm] { return vm.domain.why_incomplete().value_or("complete"); };

    CHECK(why() == "net0 (below rp0): the guest has not registered the port");
    SECTION("tracked") {
        vm.track();
        CHECK(why() == "complete");
    }
    SECTION("another port is registered") {
        vm.entry(0, 0x100, PVDIRTY_DEV_TRACKED);
        register_port(vm.rp1, vm.guest.log.addr(), vm.guest.log.pages());
        CHECK(why() == "net0 (below rp0): the guest has not registered the port");
    }
    SECTION("features that are never complete") {
        const auto features = GENERATE(as<std::uint32_t>{}, feature_touch, feature_bitmap,
                                       feature_touch | feature_bitmap);
        vm.entry(0, 0x100, PVDIRTY_DEV_TRACKED);
        register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages(), features);
        REQUIRE(vm.rp0.capability().registered());
        CHECK_THAT(why(), Contains("net0 (below rp0)") && Contains("INFLIGHT"));
    }
    SECTION("FEATURES_OK only") {
        vm.rp0.write(offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
        vm.rp0.write(offsetof(pvdirty_cap, device_status), status_features_ok, 1);
        CHECK_THAT(why(), Contains("not registered"));
    }
    SECTION("not enumerated") {
        vm.track();
        vm.net0_rid = -1;
        CHECK_THAT(why(), Contains("net0 (below rp0)") && Contains("not enumerated"));
    }
    SECTION("no entry") {
        vm.track();
        vm.net0_rid = 0x101;
        CHECK_THAT(why(), Contains("net0 (below rp0)") && Contains("does not see it"));
    }
    SECTION("untracked, with each reason") {
        vm.track();
        std::set<std::string> reasons;
        for (int reason = PVDIRTY_R_NONE; reason <= PVDIRTY_R_OUTSIDE; reason++) {
            vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, static_cast<pvdirty_dev_reason>(reason));
            CHECK_THAT(why(), Contains("net0 (below rp0): "));
            reasons.insert(why());
        }
        CHECK(reasons.size() == PVDIRTY_R_OUTSIDE + 1);
        CHECK(reasons.count("net0 (below rp0): driver bound before the layer came") == 1);
    }
    SECTION("a state that the format does not know") {
        vm.track();
        vm.entry(7, 0x100, static_cast<pvdirty_dev_state>(3));
        CHECK_THAT(why(), Contains("does not track it"));
    }
    SECTION("two entries that disagree") {
        vm.track();
        vm.entry(GENERATE(as<std::size_t>{}, 0, 511), 0x100, PVDIRTY_DEV_UNTRACKED,
                 PVDIRTY_R_IOMMU);
        CHECK_THAT(why(), Contains("vIOMMU"));
    }
    SECTION("the log as a whole, with each reason") {
        vm.track();
        std::set<std::string> reasons;
        for (unsigned bit = 0; bit < 32; bit++) {
            vm.guest.log.control().incomplete = 1U << bit;
            CHECK_THAT(why(), Contains("log: "));
            reasons.insert(why());
        }
        CHECK(reasons.size() == PVDIRTY_I_NO_MEMORY + 2);
    }
    SECTION("a second device that is not tracked") {
        vm.track();
        vm.domain.add_device(vm.rp1, "disk0", [] { return 0x200; });
        CHECK_THAT(why(), Contains("disk0 (below rp1)"));
    }
}

TEST_CASE("complete: an entry that has gone counts as tracked only without a gap", "[complete]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    vm.entry(7, 0, PVDIRTY_DEV_FREE);
    CHECK_FALSE(vm.domain.why_incomplete());
    pvd_gap(vm.guest.log.core());
    CHECK_THAT(vm.domain.why_incomplete().value_or(""), Contains("does not see it"));
}

TEST_CASE("complete: an entry that has gone, and was not tracked before", "[complete]") {
    Vm vm;
    vm.track();
    vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_DRIVER);
    vm.domain.set_logging(Logger::session, true);
    vm.entry(7, 0, PVDIRTY_DEV_FREE);
    CHECK_THAT(vm.domain.why_incomplete().value_or(""), Contains("does not see it"));
}

TEST_CASE("complete: what a log said goes with it", "[complete]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    unregister_port(vm.rp0);
    unregister_port(vm.rp1);
    vm.entry(7, 0, PVDIRTY_DEV_FREE);
    vm.register_both();
    CHECK_THAT(vm.domain.why_incomplete().value_or(""), Contains("does not see it"));
}

TEST_CASE("logging: published while anybody wants it", "[session]") {
    Vm vm;
    vm.track();
    const auto word = [&vm] { return vm.guest.log.control().logging; };
    CHECK(word() == 0);
    vm.domain.set_logging(Logger::session, true);
    CHECK(word() == 1);
    vm.domain.set_logging(Logger::dirty_log, true);
    vm.domain.set_logging(Logger::dirty_log, true);
    vm.domain.set_logging(Logger::session, false);
    CHECK(word() == 1);
    CHECK(vm.domain.logging());
    vm.domain.set_logging(Logger::dirty_log, false);
    CHECK(word() == 0);
    CHECK_FALSE(vm.domain.logging());
    vm.domain.set_logging(Logger::dirty_log, false);
    CHECK(word() == 0);
}

TEST_CASE("logging: a registration while somebody wants marks publishes at once", "[session]") {
    Vm vm;
    vm.domain.set_logging(Logger::dirty_log, true);
    vm.track();
    CHECK(vm.guest.log.control().logging == 1);
}

TEST_CASE("logging: a registration while nobody wants marks takes a stale word back", "[session]") {
    Vm vm;
    vm.guest.log.control().logging = 1;
    vm.track();
    CHECK(vm.guest.log.control().logging == 0);
}

TEST_CASE("logging: running brings the word in line, and writes it only then", "[session]") {
    Vm vm;
    vm.track();
    vm.guest.ram.take_written();
    vm.domain.running();
    CHECK(vm.guest.ram.take_written().empty());
    vm.guest.log.control().logging = 1;
    vm.domain.running();
    CHECK(vm.guest.log.control().logging == 0);
    CHECK(vm.guest.ram.take_written().size() == 1);
}

TEST_CASE("session: a start discards old marks, and keeps the in-flight counters", "[session]") {
    Vm vm;
    vm.track();
    pvd_mark(vm.guest.log.core(), 10, 20);
    pvd_hold(vm.guest.log.core(), 30, 31);
    SECTION("when nobody was logging") {
        vm.domain.set_logging(Logger::session, true);
        vm.domain.set_logging(Logger::dirty_log, true);
        const auto result = vm.harvest();
        CHECK(result.pages_marked == 0);
        CHECK(result.pages_in_flight == 2);
    }
    SECTION("marks that somebody else waits for are not discarded") {
        vm.domain.set_logging(Logger::dirty_log, true);
        pvd_mark(vm.guest.log.core(), 40, 40);
        vm.domain.set_logging(Logger::session, true);
        CHECK(vm.harvest().pages_marked == 1);
    }
}

TEST_CASE("session: harvests report, count and say what is pending", "[session]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE(vm.domain.latched().empty());
    pvd_hold(vm.guest.log.core(), 100, 103);
    pvd_release(vm.guest.log.core(), 100, 100);
    Collector in_flight;
    Collector marked;
    const auto result = vm.domain.harvest(pvdirty::PageSink(in_flight), pvdirty::PageSink(marked));
    CHECK(in_flight.pages() == PageSet({{101, 103}}));
    CHECK(marked.pages() == PageSet({{100, 100}}));
    CHECK(result.pages_in_flight == 3);
    CHECK(result.pages_marked == 1);
    CHECK_FALSE(result.all_dirty);
    CHECK(vm.domain.pending() == 3);
    pvd_release(vm.guest.log.core(), 101, 102);
    CHECK(vm.harvest().pages_marked == 2);
    CHECK(vm.domain.pending() == 1);
    CHECK(vm.domain.statistics().harvests == 2);
    CHECK(vm.domain.statistics().pages_marked == 3);
    CHECK(vm.domain.statistics().pages_in_flight == 1);
    CHECK(vm.domain.statistics().answered_all_dirty == 0);

    vm.domain.set_logging(Logger::session, false);
    CHECK(vm.domain.statistics().harvests == 2);
    vm.harvest();
    CHECK(vm.domain.statistics().harvests == 2);
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.domain.statistics().harvests == 0);
    CHECK(vm.domain.statistics().pages_marked == 0);
}

TEST_CASE("session: page by page, in flight or unknown", "[session]") {
    Vm vm;
    CHECK(vm.domain.page_in_flight(5));
    vm.track();
    pvd_hold(vm.guest.log.core(), 5, 5);
    CHECK(vm.domain.page_in_flight(5));
    CHECK_FALSE(vm.domain.page_in_flight(6));
    const std::uint64_t outside = 2 * PVDIRTY_WINDOW_PAGES;
    CHECK_FALSE(vm.domain.page_in_flight(outside));
    pvd_hold(vm.guest.log.core(), outside, outside);
    CHECK(vm.domain.page_in_flight(outside));
}

TEST_CASE("ports: one log for all, and the last one to leave drops it", "[ports]") {
    Vm vm;
    vm.track();
    CHECK(vm.guest.ram.holds() == 5);
    SECTION("another log is refused while one is registered") {
        unregister_port(vm.rp1);
        register_port(vm.rp1, vm.guest.log.addr(), vm.guest.log.pages() + 1);
        CHECK(read_cap(vm.rp1).error == PVDIRTY_E_LOG_BUSY);
        CHECK_FALSE(vm.rp1.capability().registered());
        register_port(vm.rp1, vm.guest.log.addr() + 4096, vm.guest.log.pages());
        CHECK(read_cap(vm.rp1).error == PVDIRTY_E_LOG_BUSY);
        // A port that was refused holds nothing.
        unregister_port(vm.rp0);
        CHECK(vm.guest.ram.holds() == 0);
    }
    SECTION("a port for TOUCH needs no log and holds none") {
        register_port(vm.rp1, 1, 0, feature_touch);
        CHECK(vm.rp1.capability().registered());
        unregister_port(vm.rp0);
        CHECK(vm.guest.ram.holds() == 0);
    }
    SECTION("in any order") {
        unregister_port(vm.rp0);
        CHECK(vm.guest.ram.holds() == 5);
        unregister_port(vm.rp1);
        CHECK(vm.guest.ram.holds() == 0);
        CHECK_FALSE(vm.domain.log());
    }
    SECTION("a port that is unplugged leaves too") {
        vm.domain.remove_port(vm.rp1);
        CHECK(vm.guest.ram.holds() == 5);
        vm.domain.remove_port(vm.rp0);
        CHECK(vm.guest.ram.holds() == 0);
        CHECK_FALSE(vm.domain.why_incomplete());
    }
    SECTION("an attach error reaches the guest") {
        vm.rp0.reset();
        vm.rp1.reset();
        vm.guest.log.control().signature = 0;
        vm.register_both();
        CHECK(read_cap(vm.rp0).error == PVDIRTY_E_LOG_HEADER);
        CHECK(read_cap(vm.rp0).device_status == status_features_ok);
    }
    SECTION("leaving writes nothing: the memory may belong to somebody else by now") {
        vm.domain.set_logging(Logger::session, true);
        vm.guest.ram.take_written();
        vm.rp0.reset();
        vm.rp1.reset();
        CHECK(vm.guest.log.control().logging == 1);
        CHECK(vm.guest.ram.take_written().empty());
    }
}

TEST_CASE("ports: a new kernel that enumerates one drops them all", "[ports]") {
    Vm vm;
    SECTION("not before anything is registered") {
        vm.rp0.write(offsetof(pvdirty_cap, device_status), VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
        vm.rp0.enumerated();
        CHECK(read_cap(vm.rp0).device_status == VIRTIO_CONFIG_S_ACKNOWLEDGE);
    }
    SECTION("then, all of them") {
        vm.track();
        vm.rp1.enumerated();
        CHECK(read_cap(vm.rp0).device_status == 0);
        CHECK(read_cap(vm.rp1).device_status == 0);
        CHECK(vm.guest.ram.holds() == 0);
        CHECK(vm.domain.why_incomplete());
    }
    SECTION("not for a port that is new to a guest that goes on") {
        vm.track();
        vm.domain.add_port("rp2", PVDIRTY_FEATURES_ALL).enumerated();
        CHECK(vm.domain.log());
        CHECK_FALSE(vm.domain.why_incomplete());
    }
}

TEST_CASE("ports: RAM that goes takes the log with it", "[ports]") {
    Vm vm;
    vm.track();
    vm.domain.ram_removed(vm.guest.log.addr(), 4096);
    for (const pvdirty::Port* port : {&vm.rp0, &vm.rp1}) {
        CHECK(read_cap(*port).error == PVDIRTY_E_LOG_GONE);
        CHECK(read_cap(*port).device_status == (status_features_ok | VIRTIO_CONFIG_S_NEEDS_RESET));
    }
    CHECK(vm.guest.ram.holds() == 0);
    vm.register_both();
    CHECK_FALSE(vm.domain.why_incomplete());
}
