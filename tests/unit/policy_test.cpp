// SPDX-License-Identifier: MIT
/* The policy's answers: at the start, in each round, at the end; and its C API. */
#include <catch2/catch.hpp>

#include <array>

#include "pvdirty/policy.hpp"
#include "pvdirty/pvdirty.h"
#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::FinalPass;
using pvdirty::Logger;
using pvdirty::MigrationKind;
using pvdirty::OnIncomplete;
using pvdirty::Policy;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr std::uint64_t ram = std::uint64_t{1} << 30;
constexpr std::uint64_t threshold = std::uint64_t{1} << 20;

constexpr Policy refuse{};
constexpr Policy all_dirty{.on_incomplete = OnIncomplete::all_dirty};
constexpr Policy blind{.blind = true};

/** A tracked guest, with a session on. */
struct Session : Vm {
    Session() {
        track();
        domain.set_logging(Logger::session, true);
        harvest();
    }
    void lose_track() {
        pvd_gap(guest.log.core());
        harvest();
    }
};

} // namespace

TEST_CASE("policy: a tracked guest may do all of it, without a word", "[policy]") {
    const Policy policy = GENERATE(refuse, all_dirty, blind);
    Session vm;
    CHECK_FALSE(policy.why_blocked(vm.domain));
    const auto start = policy.may_start(vm.domain, MigrationKind::pre_copy, ram);
    CHECK(start.allowed);
    CHECK(start.message.empty());
    const auto round = policy.round(vm.domain, ram, threshold);
    CHECK_FALSE(round.fail);
    CHECK_FALSE(round.hold);
    CHECK(round.pending_bytes == 0);
    CHECK(policy.why_failing(vm.domain, ram).empty());
    CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::reported);
    CHECK(policy.may_save(vm.domain, ram, true).allowed);
}

TEST_CASE("policy: an incomplete guest at the start", "[policy]") {
    Vm vm;
    const std::string why = "net0 (below rp0): the guest has not registered the port";
    const bool session = GENERATE(false, true);
    vm.domain.set_logging(Logger::session, session);
    SECTION("refuse") {
        const std::string message = "the guest does not track all DMA: " + why +
                                    "; load its pvdirty module before the drivers, or unplug the "
                                    "device";
        CHECK(refuse.why_blocked(vm.domain) == message);
        const auto start = refuse.may_start(vm.domain, MigrationKind::pre_copy, ram);
        CHECK_FALSE(start.allowed);
        CHECK(start.message == message);
    }
    SECTION("all-dirty is not silent") {
        CHECK_FALSE(all_dirty.why_blocked(vm.domain));
        const auto start = all_dirty.may_start(vm.domain, MigrationKind::pre_copy, ram);
        CHECK(start.allowed);
        CHECK(start.message == "the guest does not track all DMA: " + why +
                                   "; all RAM will be sent while the VM is stopped");
    }
    SECTION("all-dirty, with a limit that RAM does not fit in") {
        Policy policy = all_dirty;
        policy.final_limit = ram - 1;
        const auto start = policy.may_start(vm.domain, MigrationKind::pre_copy, ram);
        CHECK_FALSE(start.allowed);
        CHECK_THAT(start.message, Contains(why) && Contains("1024 MiB") && Contains("1023 MiB"));
        policy.final_limit = ram;
        CHECK(policy.may_start(vm.domain, MigrationKind::pre_copy, ram).allowed);
    }
    SECTION("blind, for tests") {
        const auto start = blind.may_start(vm.domain, MigrationKind::pre_copy, ram);
        CHECK(start.allowed);
        CHECK(start.message.empty());
    }
}

TEST_CASE("policy: what was latched since the session started counts at the start", "[policy]") {
    Vm vm;
    vm.domain.set_logging(Logger::session, true);
    vm.track();
    REQUIRE_FALSE(vm.domain.why_incomplete());
    CHECK_FALSE(refuse.may_start(vm.domain, MigrationKind::pre_copy, ram).allowed);
    CHECK_THAT(all_dirty.may_start(vm.domain, MigrationKind::pre_copy, ram).message,
               Contains("not registered the port"));
    // Outside a session, a latch is an old story.
    vm.domain.set_logging(Logger::session, false);
    CHECK_FALSE(vm.domain.latched().empty());
    CHECK(refuse.may_start(vm.domain, MigrationKind::pre_copy, ram).allowed);
    CHECK(all_dirty.may_start(vm.domain, MigrationKind::pre_copy, ram).message.empty());
}

TEST_CASE("policy: with a covered device, only pre-copy", "[policy]") {
    const Policy policy = GENERATE(refuse, all_dirty, blind);
    const auto [kind, name] = GENERATE(table<MigrationKind, const char*>(
        {{MigrationKind::post_copy, "post-copy"},
         {MigrationKind::savevm, "savevm"},
         {MigrationKind::background_snapshot, "a background snapshot"},
         {MigrationKind::colo, "COLO"}}));
    Vm vm;
    vm.track();
    const auto start = policy.may_start(vm.domain, kind, ram);
    CHECK_FALSE(start.allowed);
    CHECK(start.message ==
          std::string(name) + " cannot be right with a device below a port; unplug it first");
    vm.domain.remove_device(vm.net0);
    CHECK(policy.may_start(vm.domain, kind, ram).allowed);
}

TEST_CASE("policy: pages in flight are pending, held back, and limited", "[policy]") {
    Session vm;
    const std::uint64_t pages = GENERATE(as<std::uint64_t>{}, 1, 255, 256, 257);
    pvd_hold(vm.guest.log.core(), 0, pages - 1);
    vm.harvest();
    const auto policy = GENERATE(refuse, all_dirty, blind);
    auto round = policy.round(vm.domain, ram, threshold);
    CHECK(round.pending_bytes == pages * 4096);
    CHECK(round.hold == (pages * 4096 >= threshold));
    CHECK_FALSE(round.fail);

    // By default, half of RAM; else as asked for.
    Policy limited = policy;
    limited.final_limit = GENERATE(as<std::uint64_t>{}, 0, threshold);
    const std::uint64_t ram_here = limited.final_limit != 0 ? ram : 2 * threshold;
    const bool over = pages > 256;
    round = limited.round(vm.domain, ram_here, threshold);
    CHECK(round.fail == over);
    CHECK((limited.final_pass(vm.domain, ram_here).pass == FinalPass::fail) == over);
    CHECK(limited.why_failing(vm.domain, ram_here) ==
          (over ? "1028 KiB are in flight, more than the limit of 1024 KiB" : ""));
    CHECK(limited.may_save(vm.domain, ram_here, true).allowed == (!over || policy.blind));
}

TEST_CASE("policy: a guest that is lost on the way", "[policy]") {
    Session vm;
    vm.lose_track();
    REQUIRE_FALSE(vm.domain.why_incomplete());
    const std::string why = "log: the guest stopped tracking a device for a while";
    SECTION("refuse fails in the next round, at the end, and when the port is saved") {
        // No limit allows it.
        Policy policy = refuse;
        policy.final_limit = GENERATE(as<std::uint64_t>{}, 0, 1, UINT64_MAX);
        const std::string message = "the guest no longer tracks all DMA: " + why;
        CHECK(policy.round(vm.domain, ram, threshold).fail);
        CHECK(policy.why_failing(vm.domain, ram) == message);
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
        CHECK(policy.final_pass(vm.domain, ram).message == message);
        CHECK(policy.may_save(vm.domain, ram, true).message == message);
        CHECK_FALSE(policy.may_save(vm.domain, ram, true).allowed);
    }
    SECTION("all-dirty goes on, and sends all at the end") {
        const auto round = all_dirty.round(vm.domain, ram, threshold);
        CHECK_FALSE(round.fail);
        CHECK_FALSE(round.hold);
        CHECK(round.pending_bytes == 0);
        CHECK(all_dirty.final_pass(vm.domain, ram).pass == FinalPass::all_dirty);
        CHECK(all_dirty.final_pass(vm.domain, ram).message ==
              "all RAM is sent while the VM is stopped: " + why);
        CHECK(all_dirty.may_save(vm.domain, ram, true).allowed);
    }
    SECTION("all-dirty, with a limit that RAM does not fit in") {
        Policy policy = all_dirty;
        policy.final_limit = ram - 1;
        CHECK(policy.round(vm.domain, ram, threshold).fail);
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
        CHECK_THAT(policy.why_failing(vm.domain, ram), Contains(why));
        policy.final_limit = ram;
        CHECK_FALSE(policy.round(vm.domain, ram, threshold).fail);
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::all_dirty);
    }
    SECTION("blind loses data") {
        CHECK_FALSE(blind.round(vm.domain, ram, threshold).fail);
        CHECK(blind.final_pass(vm.domain, ram).pass == FinalPass::reported);
    }
    SECTION("the device's end does not mend it") {
        vm.domain.remove_device(vm.net0);
        CHECK(refuse.round(vm.domain, ram, threshold).fail);
        CHECK_FALSE(refuse.may_save(vm.domain, ram, true).allowed);
        CHECK(all_dirty.final_pass(vm.domain, ram).pass == FinalPass::all_dirty);
    }
}

TEST_CASE("policy: a port is saved after the final pass of a pre-copy only", "[policy]") {
    Session vm;
    CHECK_FALSE(refuse.may_save(vm.domain, ram, false).allowed);
    CHECK_THAT(all_dirty.may_save(vm.domain, ram, false).message, Contains("only a pre-copy"));
    CHECK(blind.may_save(vm.domain, ram, false).allowed);
    vm.domain.remove_device(vm.net0);
    CHECK(refuse.may_save(vm.domain, ram, false).allowed);
}

TEST_CASE("policy: the C API says the same", "[policy][capi]") {
    Guest guest({{0, PVDIRTY_WINDOW_PAGES}});
    const pvd_vmm_ops ops{
        .ram_hold =
            [](void* opaque, uint64_t gpa, uint64_t len) {
                const pvdirty::HeldRam held = static_cast<Guest*>(opaque)->ram.hold(gpa, len);
                return pvd_ram{held.host, held.region};
            },
        .ram_release =
            [](void* opaque, pvd_ram held) {
                static_cast<Guest*>(opaque)->ram.release(
                    {static_cast<std::byte*>(held.host), held.region});
            },
        .ram_written = [](void*, uint64_t, uint64_t) {},
        .device_rid = [](void*, void*) { return 0x100; },
    };
    pvd_domain* domain = pvd_domain_new(&ops, &guest, 0);
    pvd_port* port = pvd_port_new(domain, "rp0", PVDIRTY_FEATURES_ALL);
    std::array<char, 256> text{};
    pvd_policy policy{.on_incomplete = PVD_REFUSE, .final_limit = 0, .blind = false};
    const auto start = [&](pvd_migration kind) {
        return pvd_may_start(domain, &policy, kind, ram, text.data(), text.size());
    };
    const auto final_pass = [&] {
        return pvd_check_final_pass(domain, &policy, ram, text.data(), text.size());
    };
    CHECK(start(PVD_SAVEVM));

    pvd_device* device = pvd_device_add(port, "net0", nullptr);
    CHECK_FALSE(pvd_may_migrate(domain, &policy, text.data(), text.size()));
    CHECK_THAT(text.data(), Contains("net0 (below rp0)"));
    for (const auto& [kind, word] : std::initializer_list<std::pair<pvd_migration, const char*>>{
             {PVD_POST_COPY, "post-copy"},
             {PVD_SAVEVM, "savevm"},
             {PVD_BACKGROUND_SNAPSHOT, "background"},
             {PVD_COLO, "COLO"},
             {PVD_PRE_COPY, "does not track"}}) {
        CHECK_FALSE(start(kind));
        CHECK_THAT(text.data(), Contains(word));
    }
    pvd_logging(domain, PVD_LOGGER_SESSION, true);
    CHECK(pvd_check_round(domain, &policy, ram, threshold).fail);
    pvd_why_failing(domain, &policy, ram, text.data(), text.size());
    CHECK_THAT(text.data(), Contains("no longer"));
    CHECK(final_pass() == PVD_FINAL_FAIL);
    CHECK_FALSE(pvd_may_save(domain, &policy, ram, true, text.data(), text.size()));

    policy.on_incomplete = PVD_ALL_DIRTY;
    CHECK(pvd_may_migrate(domain, &policy, text.data(), text.size()));
    CHECK(start(PVD_PRE_COPY));
    CHECK_THAT(text.data(), Contains("all RAM will be sent"));
    CHECK_FALSE(pvd_check_round(domain, &policy, ram, threshold).fail);
    CHECK(final_pass() == PVD_FINAL_ALL_DIRTY);
    CHECK(pvd_may_save(domain, &policy, ram, true, text.data(), text.size()));
    policy.final_limit = 1;
    CHECK(final_pass() == PVD_FINAL_FAIL);

    policy.blind = true;
    CHECK(final_pass() == PVD_FINAL_REPORTED);
    CHECK(std::string(text.data()).empty());
    pvd_device_remove(device);
    pvd_port_free(port);
    pvd_domain_free(domain);
}
