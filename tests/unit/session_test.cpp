// SPDX-License-Identifier: MIT
/* Logging, harvests and completeness: each way not to be complete, and each cause of the latch. */
#include <catch2/catch.hpp>

#include <functional>

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

TEST_CASE("latch: an incomplete start is all dirty to the end", "[latch]") {
    Vm vm;
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.domain.latched() == "net0 (below rp0): the guest has not registered the port");
    CHECK(vm.domain.pending() == UINT64_MAX);
    vm.track();
    REQUIRE_FALSE(vm.domain.why_incomplete());
    for (unsigned i = 1; i <= 3; i++) {
        CHECK(vm.harvest().all_dirty);
        CHECK(vm.domain.statistics().answered_all_dirty == i);
    }
    CHECK(vm.domain.latched() == "net0 (below rp0): the guest has not registered the port");

    // The next session looks anew.
    vm.domain.set_logging(Logger::session, false);
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.domain.latched().empty());
    CHECK(vm.domain.pending() == 0);
    CHECK_FALSE(vm.harvest().all_dirty);
}

TEST_CASE("latch: a session looks anew also while the dirty log is on", "[latch]") {
    Vm vm;
    vm.domain.set_logging(Logger::dirty_log, true);
    CHECK_FALSE(vm.domain.latched().empty());
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.domain.latched().empty());
    // The dirty log that joins a session does not make it forget.
    vm.domain.set_logging(Logger::dirty_log, false);
    pvd_gap(vm.guest.log.core());
    CHECK(vm.harvest().all_dirty);
    vm.domain.set_logging(Logger::dirty_log, true);
    CHECK(vm.harvest().all_dirty);
}

TEST_CASE("latch: each event, and the level is well again by the next harvest", "[latch]") {
    struct Cause {
        const char* name;
        std::function<void(Vm&)> event;
        const char* words;
    };
    const std::vector<Cause> causes = {
        {"gap",
         [](Vm& vm) {
             vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED);
             pvd_gap(vm.guest.log.core());
             vm.entry(7, 0x100, PVDIRTY_DEV_TRACKED);
         },
         "stopped tracking"},
        {"registration of another port",
         [](Vm& vm) {
             unregister_port(vm.rp1);
             register_port(vm.rp1, vm.guest.log.addr(), vm.guest.log.pages());
         },
         "rp1"},
        {"unregistration and re-registration", [](Vm& vm) { vm.register_both(); }, "rp0"},
        {"reset and re-registration",
         [](Vm& vm) {
             vm.rp0.reset();
             vm.register_both();
         },
         "rp0"},
        {"failure of a port",
         [](Vm& vm) {
             vm.rp0.write(offsetof(pvdirty_cap, device_status), VIRTIO_CONFIG_S_FAILED, 1);
             vm.register_both();
         },
         "rp0"},
        {"enumeration",
         [](Vm& vm) {
             vm.rp1.enumerated();
             vm.register_both();
         },
         "new kernel"},
        {"hot-plug",
         [](Vm& vm) {
             vm.entry(8, 0x200, PVDIRTY_DEV_TRACKED);
             vm.domain.add_device(vm.rp1, "disk0", [] { return 0x200; });
         },
         "disk0 (below rp1)"},
        {"RAM with the log goes",
         [](Vm& vm) {
             vm.domain.ram_removed(vm.guest.ram.gpa() + vm.guest.ram.size() - 1, 1);
             vm.register_both();
         },
         "RAM that held the log"},
        {"port unplugged", [](Vm& vm) { vm.domain.remove_port(vm.rp1); }, "rp1: was unplugged"},
    };
    for (const Cause& cause : causes) {
        INFO(cause.name);
        Vm vm;
        vm.track();
        vm.domain.set_logging(Logger::session, true);
        REQUIRE_FALSE(vm.harvest().all_dirty);
        cause.event(vm);
        REQUIRE_FALSE(vm.domain.why_incomplete());
        CHECK(vm.harvest().all_dirty);
        CHECK_THAT(vm.domain.latched(), Contains(cause.words));
        CHECK(vm.domain.pending() == UINT64_MAX);
        CHECK(vm.guest.log.control().logging == 1);
        CHECK(vm.harvest().all_dirty);
    }
}

TEST_CASE("latch: a registration alone", "[latch]") {
    Vm vm;
    vm.track();
    pvdirty::Port& rp2 = vm.domain.add_port("rp2", PVDIRTY_FEATURES_ALL);
    vm.domain.set_logging(Logger::session, true);
    // Without the reset that register_port() begins with.
    rp2.write(offsetof(pvdirty_cap, guest_features), feature_touch, 4);
    rp2.write(offsetof(pvdirty_cap, device_status), status_driver_ok, 1);
    REQUIRE(rp2.capability().registered());
    CHECK(vm.harvest().all_dirty);
    CHECK_THAT(vm.domain.latched(), Contains("rp2"));
}

TEST_CASE("latch: a port that leaves, and nothing else", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    unregister_port(vm.rp1); // no device is below it, and rp0 keeps the log
    REQUIRE_FALSE(vm.domain.why_incomplete());
    CHECK(vm.harvest().all_dirty);
    CHECK_THAT(vm.domain.latched(), Contains("rp1"));
}

TEST_CASE("latch: a level that a harvest finds", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    SECTION("untracked, without a word") {
        vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_USER_DMA);
        CHECK(vm.harvest().all_dirty);
        CHECK(vm.domain.latched() == "net0 (below rp0): driven from user space in the guest");
        vm.entry(7, 0x100, PVDIRTY_DEV_TRACKED);
    }
    SECTION("incomplete") {
        pvd_hold(vm.guest.log.core(), 2 * PVDIRTY_WINDOW_PAGES, 2 * PVDIRTY_WINDOW_PAGES);
        CHECK(vm.harvest().all_dirty);
        CHECK(vm.domain.latched() == "log: a page outside every section was mapped");
        vm.guest.log.control().incomplete = 0;
    }
    SECTION("underflow") {
        pvd_release(vm.guest.log.core(), 0, 0);
        CHECK(vm.harvest().all_dirty);
        CHECK(vm.domain.latched() == "log: a page was unmapped more often than mapped");
        vm.guest.log.control().incomplete = 0;
    }
    SECTION("another routing id") {
        vm.net0_rid = 0x108;
        CHECK(vm.harvest().all_dirty);
        vm.net0_rid = 0x100;
    }
    CHECK(vm.harvest().all_dirty);
}

TEST_CASE("latch: what has nothing to do with the log does not latch", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    vm.domain.ram_removed(0, 1 << 20);
    vm.rp0.write(offsetof(pvdirty_cap, notify), 1, 4);
    vm.rp0.write(offsetof(pvdirty_cap, log_pages), 1, 4);
    vm.domain.add_port("rp2", PVDIRTY_FEATURES_ALL);
    vm.entry(100, 0x999, PVDIRTY_DEV_UNTRACKED);
    CHECK_FALSE(vm.harvest().all_dirty);
}

TEST_CASE("latch: a device that goes in good order", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    pvd_hold(vm.guest.log.core(), 5, 6);
    pvd_release(vm.guest.log.core(), 5, 5);

    SECTION("its entry still there") {}
    SECTION("its entry gone, its routing id too") {
        vm.entry(7, 0, PVDIRTY_DEV_FREE);
        CHECK_FALSE(vm.domain.harvest({}, {}).all_dirty);
        pvd_mark(vm.guest.log.core(), 5, 5);
        vm.net0_rid = -1;
    }
    vm.domain.remove_device(vm.net0);
    const auto result = vm.harvest();
    CHECK_FALSE(result.all_dirty);
    CHECK(result.pages_marked == 1);
    CHECK(result.pages_in_flight == 1);

    SECTION("its marks may not go with the log, even when no device is left") {
        pvd_mark(vm.guest.log.core(), 9, 9);
        vm.rp0.reset();
        vm.rp1.reset();
        CHECK(vm.harvest().all_dirty);
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

TEST_CASE("latch: an entry that goes between two sessions", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    vm.domain.set_logging(Logger::session, false);
    // What it was in the session before does not speak for it in this one.
    vm.entry(7, 0, PVDIRTY_DEV_FREE);
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.harvest().all_dirty);
    CHECK_THAT(vm.domain.latched(), Contains("does not see it"));
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

TEST_CASE("latch: a device that goes and was not tracked", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    SECTION("untracked at its end") {
        vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_OTHER_OPS);
    }
    SECTION("a gap since the last look") {
        pvd_gap(vm.guest.log.core());
        vm.entry(7, 0, PVDIRTY_DEV_FREE);
    }
    SECTION("its entry gone, and a gap") {
        vm.entry(7, 0, PVDIRTY_DEV_FREE);
        pvd_gap(vm.guest.log.core());
    }
    SECTION("the log incomplete") {
        pvd_incomplete(vm.guest.log.core(), PVDIRTY_I_CHILD);
    }
    SECTION("its port not registered any more") {
        unregister_port(vm.rp0);
    }
    vm.domain.remove_device(vm.net0);
    CHECK(vm.harvest().all_dirty);
    CHECK_FALSE(vm.domain.latched().empty());
}

TEST_CASE("latch: an entry that goes without a gap, at another routing id", "[latch]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    vm.entry(7, 0, PVDIRTY_DEV_FREE);
    vm.net0_rid = 0x101;
    CHECK(vm.harvest().all_dirty);
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
