// SPDX-License-Identifier: MIT
/* What makes a session all dirty to its end: each cause of the latch, and what is none. */
#include <catch2/catch.hpp>

#include <functional>

#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::Logger;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

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
