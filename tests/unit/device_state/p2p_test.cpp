// SPDX-License-Identifier: MIT
/* Several devices that do DMA to each other: the peer-to-peer states of <linux/vfio.h>. */
#include <catch2/catch.hpp>

#include <algorithm>

#include "device/group.hpp"

using Catch::Matchers::Contains;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

using S = StatesDevice;

const std::vector<StatesTraits> mixed = {{},
                                         {.pre_copy = false},
                                         {.p2p = false},
                                         {.says_nomsg = false},
                                         {.pre_copy = false, .p2p = false}};
const std::vector<StatesTraits> few = {{}, {.pre_copy = false}, {.p2p = false}};

constexpr Fault faults[] = {Fault::fails, Fault::fails_late, Fault::breaks, Fault::falls_short,
                            Fault::interrupted};

bool none_breaks_the_protocol(const Group& group) {
    return std::all_of(group.devices.begin(), group.devices.end(), [](const auto& device) {
        return device->violations.empty() && device->resets == 0;
    });
}

std::vector<S::State> states_of(const Group& group) {
    std::vector<S::State> states;
    for (const auto& device : group.devices) {
        states.push_back(device->state);
    }
    return states;
}

/* A whole migration, and what is loaded. @returns what went wrong with the order of the devices */
std::string migrate(Group& source, Group& destination) {
    std::vector<MemoryStream> streams;
    REQUIRE(destination.stop()); // as a VM that waits for one
    REQUIRE(source.save(streams));
    REQUIRE(source.cleanup());
    REQUIRE(destination.load(streams));
    REQUIRE(destination.cleanup());
    REQUIRE(destination.run());
    for (std::size_t i = 0; i < source.devices.size(); i++) {
        CHECK(destination.devices[i]->state == S::running);
        CHECK(source.devices[i]->rests());
        CHECK(destination.devices[i]->taken().front().size() ==
              8 + 100 + i + 1 + (mixed[i].pre_copy ? 10 * (i + 1) : 0));
    }
    return source.wrong + destination.wrong;
}

} // namespace

TEST_CASE("several devices: none writes to one that is stopped", "[device-p2p]") {
    Group source(mixed);
    Group destination(mixed);
    REQUIRE(destination.quiesce());
    CHECK(migrate(source, destination).empty());
    CHECK(none_breaks_the_protocol(source));
    CHECK(none_breaks_the_protocol(destination));
}

TEST_CASE("several devices: who stops or runs them one by one is found", "[device-p2p]") {
    SECTION("stops") {
        Group source(mixed, {.quiesces = false});
        Group destination(mixed);
        REQUIRE(destination.quiesce());
        CHECK_THAT(migrate(source, destination), Contains("while another is in 3"));
    }
    SECTION("runs") {
        Group source(mixed);
        Group destination(mixed, {.runs_quiesced = false});
        for (const auto& device : destination.devices) {
            device->pause();
        }
        CHECK_THAT(migrate(source, destination), Contains("while another is in 1"));
    }
}

TEST_CASE("several devices: one that is quiesced is saved on, in the same session",
          "[device-p2p]") {
    Group group(few);
    std::vector<MemoryStream> streams;
    REQUIRE(group.save_running(streams));
    CHECK(states_of(group) == std::vector{S::pre_copy, S::running, S::pre_copy});
    for (int i = 0; i < 2; i++) { // again: nothing
        REQUIRE(group.quiesce());
        CHECK(states_of(group) == std::vector{S::pre_copy_p2p, S::running_p2p, S::pre_copy});
    }
    for (const auto& state : group.states) {
        CHECK_THAT(why(state->run()), Contains("run cannot come here: a save has begun"));
    }
    CHECK(group.states[0]->save_pending()->pre_copy == 0);
    CHECK(group.states[0]->save_iterate(streams[0].sink()) == 0U);
    REQUIRE(group.stop());
    CHECK(states_of(group) == std::vector{S::stop_copy, S::stopped, S::stop_copy});
    REQUIRE(group.quiesce()); // of one that is stopped: nothing
    CHECK(states_of(group) == std::vector{S::stop_copy, S::stopped, S::stop_copy});
    REQUIRE(group.save_stopped(streams));
    REQUIRE(group.quiesce());
    CHECK(states_of(group) == std::vector{S::stopped, S::stopped, S::stopped});
    Group destination(few);
    REQUIRE(destination.load(streams));
    REQUIRE(destination.quiesce());
    CHECK(states_of(destination) == std::vector{S::stopped, S::stopped, S::stopped});
}

TEST_CASE("several devices: a save that is given up leaves them quiesced until they run",
          "[device-p2p]") {
    Group group(mixed);
    std::vector<MemoryStream> streams;
    REQUIRE(group.save_running(streams));
    REQUIRE(group.quiesce());
    REQUIRE(group.states[0]->stop());
    REQUIRE(group.cleanup());
    CHECK(states_of(group) ==
          std::vector{S::stopped, S::running_p2p, S::running, S::running_p2p, S::running});
    SECTION("and they run on") {
        REQUIRE(group.run());
        CHECK(states_of(group) == std::vector(mixed.size(), S::running));
    }
    SECTION("or are saved as they are") {
        std::vector<MemoryStream> again;
        REQUIRE(group.save_running(again));
        CHECK(states_of(group) ==
              std::vector{S::stopped, S::running_p2p, S::pre_copy, S::pre_copy_p2p, S::running});
        REQUIRE(group.stop());
        REQUIRE(group.save_stopped(again));
        Group destination(mixed);
        CHECK(destination.load(again));
    }
    CHECK(group.wrong.empty());
    CHECK(none_breaks_the_protocol(group));
}

TEST_CASE("several devices: a VM that is paused, and goes on", "[device-p2p]") {
    Group group(mixed);
    for (int i = 0; i < 2; i++) {
        REQUIRE(group.quiesce());
        CHECK(states_of(group) ==
              std::vector{S::running_p2p, S::running_p2p, S::running, S::running_p2p, S::running});
    }
    REQUIRE(group.stop());
    REQUIRE(group.quiesce()); // they stay stopped
    CHECK(states_of(group) == std::vector(mixed.size(), S::stopped));
    REQUIRE(group.run());
    CHECK(states_of(group) == std::vector(mixed.size(), S::running));
    CHECK(group.wrong.empty());
    CHECK(none_breaks_the_protocol(group));
}

TEST_CASE("several devices: any access that fails on one of them leaves all as documented",
          "[device-p2p]") {
    const std::size_t number = GENERATE(0U, 1U, 2U);
    for (const Fault fault : faults) {
        for (std::uint64_t at = 0;; at++) {
            CAPTURE(number, static_cast<int>(fault), at);
            Group group(few);
            StatesDevice& bad = *group.devices[number];
            std::vector<MemoryStream> streams;
            REQUIRE(group.save_running(streams));
            bad.faults.plan(fault, at);
            const Done quiesced = group.quiesce();
            const Done stopped = quiesced ? group.stop() : Done{};
            const bool happened = bad.faults.happened();
            bad.faults.none();
            for (const auto& device : group.devices) {
                const bool broken = device.get() == &bad && fault == Fault::breaks;
                CHECK(device->runs() == (!quiesced && !broken));
            }
            // Given up: whatever it was, all run in the end, and can be saved.
            REQUIRE(group.cleanup());
            REQUIRE(group.run());
            CHECK(group.wrong.empty());
            CHECK(states_of(group) == std::vector(few.size(), S::running));
            CHECK((happened && fault == Fault::breaks) == (bad.resets != 0));
            std::vector<MemoryStream> again;
            REQUIRE(group.save(again));
            Group destination(few);
            REQUIRE(destination.load(again));
            REQUIRE(destination.run());
            if (!happened) {
                CHECK((quiesced && stopped));
                break;
            }
        }
    }
}

TEST_CASE("several devices: one that does not run is stopped, and the others wait for it",
          "[device-p2p]") {
    const std::size_t number = GENERATE(0U, 1U, 2U);
    for (const Fault fault : faults) {
        for (std::uint64_t at = 0;; at++) {
            CAPTURE(number, static_cast<int>(fault), at);
            Group group(few);
            StatesDevice& bad = *group.devices[number];
            REQUIRE(group.quiesce());
            REQUIRE(group.stop());
            bad.faults.plan(fault, at);
            const Done quiesced = group.run_quiesced();
            CHECK(group.wrong.empty());
            const Done ran = quiesced ? group.run() : Done{};
            const bool happened = bad.faults.happened();
            bad.faults.none();
            for (const auto& device : group.devices) {
                CHECK(device->runs() == ((quiesced && ran) || device.get() != &bad));
                CHECK((quiesced || !device->begins_p2p()));
            }
            REQUIRE(group.quiesce());
            REQUIRE(group.run());
            CHECK(states_of(group) == std::vector(few.size(), S::running));
            if (!happened) {
                CHECK((quiesced && ran));
                break;
            }
        }
    }
}
