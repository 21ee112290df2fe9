// SPDX-License-Identifier: MIT
/* Migration states: what drivers differ in, and what the kernel does with errors. */
#include <catch2/catch.hpp>

#include <exception>

#include "device/kinds.hpp"

using Catch::Matchers::Contains;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

struct Side {
    StatesDevice device;
    std::unique_ptr<pvdirty::DeviceState> state;
    MemoryStream stream;

    explicit Side(StatesTraits traits) : device(traits), state(open(device)) {
        device.fill(checked_content({Bytes(10, 1)}, {Bytes(100, 2)}));
    }
    ~Side() noexcept(false) { // a check that fails may end the test
        state.reset();
        if (std::uncaught_exceptions() == 0) {
            CHECK(device.held() == 0);
            CHECK(device.violations.empty());
        }
    }
};

} // namespace

TEST_CASE("migration states: the model goes the kernel's ways", "[device-states]") {
    using S = StatesDevice;
    struct Way {
        S::State from, to;
        std::vector<S::State> through;
    };
    // As drivers/vfio/vfio_main.c of Linux 6.12 lists them for a device that has all states.
    const std::vector<Way> ways = {
        {S::pre_copy, S::stop_copy, {S::pre_copy_p2p}},
        {S::pre_copy, S::stopped, {S::running, S::running_p2p}},
        {S::pre_copy, S::running_p2p, {S::running}},
        {S::pre_copy, S::resuming, {S::running, S::running_p2p, S::stopped}},
        {S::pre_copy_p2p, S::running, {S::running_p2p}},
        {S::pre_copy_p2p, S::stopped, {S::running_p2p}},
        {S::resuming, S::running, {S::stopped, S::running_p2p}},
        {S::resuming, S::stop_copy, {S::stopped}},
        {S::running, S::stopped, {S::running_p2p}},
        {S::running, S::resuming, {S::running_p2p, S::stopped}},
        {S::running, S::stop_copy, {S::running_p2p, S::stopped}},
        {S::running, S::pre_copy_p2p, {S::running_p2p}},
        {S::running_p2p, S::pre_copy, {S::running}},
        {S::stopped, S::pre_copy, {S::running_p2p, S::running}},
        {S::stopped, S::running, {S::running_p2p}},
        {S::stop_copy, S::resuming, {S::stopped}},
        {S::stop_copy, S::running, {S::stopped, S::running_p2p}},
        {S::stop_copy, S::running_p2p, {S::stopped}},
    };
    const StatesDevice all({.pre_copy = true, .p2p = true});
    for (const Way& way : ways) {
        CAPTURE(way.from, way.to);
        S::State now = way.from;
        for (const S::State through : way.through) {
            REQUIRE(all.next_state(now, way.to) == through);
            now = through;
        }
        CHECK(all.next_state(now, way.to) == way.to);
    }
    CHECK_FALSE(all.next_state(S::stop_copy, S::pre_copy));
    CHECK_FALSE(all.next_state(S::stop_copy, S::pre_copy_p2p));
    CHECK_FALSE(all.next_state(S::error, S::running));
    CHECK_FALSE(all.next_state(S::running, S::error));
    const StatesDevice few({.pre_copy = false, .p2p = false});
    CHECK(few.next_state(S::running, S::stop_copy) == S::stopped);
    CHECK_FALSE(few.next_state(S::running, S::pre_copy));
    CHECK_FALSE(few.next_state(S::running, S::running_p2p));
    CHECK(StatesDevice({.p2p = false}).next_state(S::pre_copy, S::stop_copy) == S::stop_copy);
}

TEST_CASE("migration states: a session that begins without its fd is given up", "[device-states]") {
    Side side({});
    side.device.gives_no_fd = true;
    CHECK_THAT(why(side.state->save_setup(side.stream.sink())), Contains("gave no data fd"));
    CHECK(side.device.runs());
    CHECK(side.device.state == StatesDevice::running);
    CHECK(side.device.resets == 0);
}

TEST_CASE("migration states: a change that was made and could not be told is taken back",
          "[device-states]") {
    Side side({});
    side.device.faults.plan(Fault::fails_late, 1); // no fd was free: EMFILE
    CHECK_THAT(why(side.state->save_setup(side.stream.sink())),
               Contains("PRE_COPY failed: Too many open files"));
    side.device.faults.none();
    CHECK(side.device.state == StatesDevice::running);
    CHECK(side.device.resets == 0);
    REQUIRE(save_all(*side.state, side.stream));
}

TEST_CASE("migration states: nothing for now is no end, and no error", "[device-states]") {
    const bool says_nomsg = GENERATE(true, false);
    Side side({.says_nomsg = says_nomsg});
    REQUIRE(side.state->save_setup(side.stream.sink()));
    CHECK(side.state->save_iterate(side.stream.sink()) == 18U);
    CHECK(side.state->save_iterate(side.stream.sink()) == 0U);
    CHECK(side.state->save_iterate(side.stream.sink()) == 0U);
    REQUIRE(side.state->save_complete(side.stream.sink(), {}));
    Side destination({});
    REQUIRE(load_all(*destination.state, side.stream));
    CHECK(destination.device.taken().front().size() == 118);
}

TEST_CASE("migration states: ENOMSG has no place once the device is stopped", "[device-states]") {
    Side side({});
    auto calls = side.device.calls();
    calls.read = [read = calls.read](int fd, void* out, std::size_t len) {
        const auto n = read(fd, out, len);
        return n == 0 ? -ENOMSG : n;
    };
    auto state = std::move(*pvdirty::DeviceState::open(7, calls));
    CHECK_THAT(why(save_all(*state, side.stream)), Contains("reading device data failed"));
    CHECK(side.device.rests());
}

TEST_CASE("migration states: data without end is ended", "[device-states]") {
    Side side({});
    side.device.never_ends = true;
    auto state = std::move(*pvdirty::DeviceState::open(7, side.device.calls(), {50 << 20}));
    const auto count = std::make_shared<std::uint64_t>(0);
    const pvdirty::ByteSink sink = [count](std::span<const std::uint8_t> bytes) {
        *count += bytes.size();
        return true;
    };
    REQUIRE(state->save_setup(sink));
    CHECK_THAT(why(state->save_complete(sink, {})), Contains("more than 52428800 bytes"));
    CHECK(*count < (52 << 20));
    CHECK(side.device.rests());
}

TEST_CASE("migration states: a device may not know how much is to come", "[device-states]") {
    Side knows({});
    Side does_not({.knows_size = false});
    REQUIRE(knows.state->save_setup(knows.stream.sink()));
    REQUIRE(does_not.state->save_setup(does_not.stream.sink()));
    CHECK(knows.state->save_pending() == pvdirty::DevicePending{18, 100});
    CHECK(does_not.state->save_pending() == pvdirty::DevicePending{18, std::nullopt});
}

TEST_CASE("migration states: an error state is left by a reset, and that is said",
          "[device-states]") {
    Side side({});
    REQUIRE(side.state->save_setup(side.stream.sink()));
    side.device.faults.plan(Fault::breaks, 0);
    CHECK(why(side.state->stop()) ==
          "setting the device's migration state STOP_COPY failed: Input/output error; the device "
          "had to be reset, and has lost its state");
    CHECK(side.device.rests());
    CHECK(side.state->device_was_reset());
}
