// SPDX-License-Identifier: MIT
/*
 * Devices that must be gone before a migration ends: those that are held for, until nothing is
 * left of them, and those whose state cannot be saved.
 */
#include <catch2/catch.hpp>

#include <array>
#include <string>

#include "pvdirty/policy.hpp"
#include "pvdirty/pvdirty.h"
#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::Device;
using pvdirty::FinalPass;
using pvdirty::Logger;
using pvdirty::MigrationKind;
using pvdirty::OnIncomplete;
using pvdirty::Policy;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr std::uint64_t ram = std::uint64_t{1} << 30;
constexpr std::uint64_t threshold = std::uint64_t{1} << 20;

/** Under each policy: none of them lets a device stay behind. */
Policy any_policy() {
    return GENERATE(Policy{}, Policy{.on_incomplete = OnIncomplete::all_dirty},
                    Policy{.blind = true});
}

/** A tracked guest, with a session on. */
struct Session : Vm {
    Session() {
        track();
        domain.set_logging(Logger::session, true);
        harvest();
    }
};

void check_waits(const Policy& policy, const Session& vm) {
    CHECK(vm.domain.holding());
    const auto round = policy.round(vm.domain, ram, threshold);
    CHECK(round.hold);
    CHECK(round.awaits_device);
    CHECK_FALSE(round.fail);
    const auto last = policy.final_pass(vm.domain, ram);
    CHECK(last.pass == FinalPass::fail);
    CHECK_THAT(last.message, Contains("net0 (below rp0): is still there"));
    const auto save = policy.may_save(vm.domain, ram, true);
    CHECK_FALSE(save.allowed);
    CHECK_THAT(save.message, Contains("net0 (below rp0): is still there"));
}

void check_ends(const Policy& policy, const Session& vm) {
    CHECK_FALSE(vm.domain.holding());
    const auto round = policy.round(vm.domain, ram, threshold);
    CHECK_FALSE(round.hold);
    CHECK_FALSE(round.awaits_device);
    CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::reported);
    CHECK(policy.may_save(vm.domain, ram, true).allowed);
}

} // namespace

TEST_CASE("unplug: the end waits for what is held for, until it is removed", "[unplug]") {
    const Policy policy = any_policy();
    Session vm;
    vm.domain.hold_for(vm.net0, true);
    CHECK(policy.may_start(vm.domain, MigrationKind::pre_copy, ram).allowed);
    check_waits(policy, vm);
    SECTION("unplugged first") {
        vm.domain.unplug_device(vm.net0);
        CHECK_FALSE(vm.domain.covers());
        check_waits(policy, vm);
        vm.domain.unplug_device(vm.net0);
        check_waits(policy, vm);
        vm.domain.remove_device(vm.net0);
        check_ends(policy, vm);
    }
    SECTION("at once") {
        vm.domain.remove_device(vm.net0);
        check_ends(policy, vm);
    }
    SECTION("given up: it stays") {
        vm.domain.hold_for(vm.net0, false);
        check_ends(policy, vm);
    }
}

TEST_CASE("unplug: what goes with its port is still there until it is removed", "[unplug]") {
    const Policy policy = any_policy();
    Vm vm;
    Device& net1 = vm.domain.add_device(vm.rp1, "net1", [] { return 0x200; });
    vm.domain.hold_for(vm.net0, true);
    vm.domain.remove_port(vm.rp0);
    CHECK(vm.domain.covers()); // net1
    CHECK(vm.domain.holding());
    // The port's end alone may be a reason to fail; else the round waits.
    const auto round = policy.round(vm.domain, ram, threshold);
    CHECK((round.fail || round.awaits_device));
    CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
    CHECK_THAT(policy.final_pass(vm.domain, ram).message, Contains("net0 (below rp0)"));
    vm.domain.unplug_device(vm.net0);
    CHECK(vm.domain.holding());
    vm.domain.remove_device(vm.net0);
    CHECK_FALSE(vm.domain.holding());
    vm.domain.remove_device(net1);
    CHECK_FALSE(vm.domain.covers());
}

TEST_CASE("unplug: each is counted once, however often it is said", "[unplug]") {
    Vm vm;
    Device& net1 = vm.domain.add_device(vm.rp1, "net1", [] { return 0x200; });
    vm.domain.hold_for(vm.net0, false);
    CHECK_FALSE(vm.domain.holding());
    vm.domain.hold_for(vm.net0, true);
    vm.domain.hold_for(vm.net0, true);
    vm.domain.hold_for(net1, true);
    vm.domain.hold_for(net1, false);
    vm.domain.hold_for(net1, false);
    CHECK(vm.domain.holding());
    vm.domain.remove_device(net1);
    CHECK(vm.domain.holding());
    vm.domain.remove_device(vm.net0);
    CHECK_FALSE(vm.domain.holding());
    CHECK(vm.domain.in_the_way() == nullptr);
}

TEST_CASE("unplug: a state that cannot be saved", "[unplug]") {
    const Policy policy = any_policy();
    Session vm;
    vm.domain.set_migratable(vm.net0, false);
    SECTION("no migration starts with it, and none ends") {
        const auto start = policy.may_start(vm.domain, MigrationKind::pre_copy, ram);
        CHECK_FALSE(start.allowed);
        CHECK_THAT(start.message, Contains("net0 (below rp0): its state cannot be migrated"));
        CHECK_THAT(policy.why_blocked(vm.domain).value_or(""), Contains("--policy unplug"));
        CHECK_FALSE(vm.domain.holding());
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
        CHECK_FALSE(policy.may_save(vm.domain, ram, true).allowed);
    }
    SECTION("held for, one starts, and waits") {
        vm.domain.hold_for(vm.net0, true);
        CHECK_FALSE(policy.why_blocked(vm.domain));
        CHECK(policy.may_start(vm.domain, MigrationKind::pre_copy, ram).allowed);
        check_waits(policy, vm);
        vm.domain.hold_for(vm.net0, false);
        CHECK(policy.why_blocked(vm.domain));
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
    }
    SECTION("unplugged, what is left of it may write while the VM is stopped") {
        vm.domain.unplug_device(vm.net0);
        CHECK(policy.why_blocked(vm.domain));
        CHECK(policy.final_pass(vm.domain, ram).pass == FinalPass::fail);
        vm.domain.remove_device(vm.net0);
        CHECK_FALSE(policy.why_blocked(vm.domain));
        check_ends(policy, vm);
    }
    SECTION("it can be, after all") {
        vm.domain.set_migratable(vm.net0, true);
        CHECK_FALSE(policy.why_blocked(vm.domain));
        check_ends(policy, vm);
    }
}

TEST_CASE("unplug: the C API says the same", "[unplug][capi]") {
    const pvd_vmm_ops ops{
        .ram_hold = [](void*, uint64_t, uint64_t) { return pvd_ram{}; },
        .ram_release = [](void*, pvd_ram) {},
        .ram_written = [](void*, uint64_t, uint64_t) {},
        .device_rid = [](void*, void*) { return -1; },
    };
    pvd_domain* domain = pvd_domain_new(&ops, nullptr, 1);
    pvd_port* port = pvd_port_new(domain, "rp0", PVDIRTY_FEATURES_ALL);
    pvd_device* device = pvd_device_add(port, "nvme0", nullptr);
    const pvd_policy policy{.on_incomplete = PVD_ALL_DIRTY, .final_limit = 0, .blind = true};
    std::array<char, 256> why{};

    CHECK_FALSE(pvd_port_registered(port));
    CHECK_FALSE(pvd_device_tracked(device, why.data(), why.size()));
    CHECK_THAT(std::string(why.data()), Contains("nvme0 (below rp0)"));
    pvd_device_set_migratable(device, false);
    CHECK_FALSE(pvd_may_migrate(domain, &policy, why.data(), why.size()));
    CHECK_THAT(std::string(why.data()), Contains("its state cannot be migrated"));
    pvd_device_hold(device, true);
    CHECK(pvd_may_migrate(domain, &policy, why.data(), why.size()));
    pvd_logging(domain, PVD_LOGGER_SESSION, true);

    const bool with_port = GENERATE(false, true);
    if (with_port) {
        pvd_port_free(port);
    }
    pvd_device_unplugged(device);
    const pvd_round round = pvd_check_round(domain, &policy, ram, threshold);
    CHECK(round.hold);
    CHECK(round.awaits_device);
    CHECK(pvd_check_final_pass(domain, &policy, ram, why.data(), why.size()) == PVD_FINAL_FAIL);
    CHECK_THAT(std::string(why.data()), Contains("is still there"));
    CHECK_FALSE(pvd_may_save(domain, &policy, ram, true, why.data(), why.size()));
    pvd_device_remove(device);
    CHECK_FALSE(pvd_check_round(domain, &policy, ram, threshold).awaits_device);
    CHECK(pvd_check_final_pass(domain, &policy, ram, why.data(), why.size()) != PVD_FINAL_FAIL);
    if (!with_port) {
        pvd_port_free(port);
    }
    pvd_domain_free(domain);
}
