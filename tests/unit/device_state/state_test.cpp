// SPDX-License-Identifier: MIT
/* A device's own state: what is the same for both protocols of the kernel. */
#include <catch2/catch.hpp>

#include <exception>

#include "device/kinds.hpp"

using Catch::Matchers::Contains;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr Fault faults[] = {Fault::fails, Fault::fails_late, Fault::breaks, Fault::falls_short,
                            Fault::interrupted};

const DeviceKind& any_kind() {
    const DeviceKind& kind = device_kinds()[GENERATE(range<std::size_t>(0, 8))];
    return kind;
}

struct Side {
    std::unique_ptr<DeviceModel> device;
    std::unique_ptr<pvdirty::DeviceState> state;

    explicit Side(const DeviceKind& kind) : device(kind.make()), state(open(*device)) {
        device->fill(kind.content);
    }
    ~Side() noexcept(false) { // a check that fails may end the test
        state.reset();
        if (std::uncaught_exceptions() == 0) {
            CHECK(device->held() == 0);
            CHECK(device->violations.empty());
        }
    }
};

MemoryStream saved(const DeviceKind& kind) {
    Side source(kind);
    MemoryStream stream;
    REQUIRE(save_all(*source.state, stream));
    return stream;
}

/* After a save that failed: what the documentation says for each call. */
void check_source_settled(Side& source, bool had_stopped) {
    CHECK(source.device->runs() == !had_stopped);
    REQUIRE(source.state->cleanup());
    CHECK(source.device->runs() == !had_stopped);
    CHECK((had_stopped ? source.device->rests() : source.device->runs()));
    REQUIRE(source.state->run());
    CHECK(source.device->runs());
    // And it can be saved as if nothing had been, unless it had to be reset.
    MemoryStream stream;
    source.device->fill({});
    REQUIRE(source.state->save_setup(stream.sink()));
    REQUIRE(source.state->cleanup());
    CHECK(source.device->runs());
}

} // namespace

TEST_CASE("device state: what is saved is loaded, byte for byte", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    const unsigned rounds = GENERATE(0U, 1U, 2U, 5U);
    Side source(kind);
    MemoryStream stream;
    REQUIRE(save_all(*source.state, stream, {9, 8, 7}, rounds));
    CHECK(source.device->rests());
    CHECK(source.device->resets == 0);
    CHECK(source.device->violations.empty());

    Side destination(kind);
    REQUIRE(load_all(*destination.state, stream));
    CHECK(stream.at_end());
    CHECK(destination.device->taken() == kind.loaded());
    CHECK(destination.state->config() == Bytes{9, 8, 7});
    CHECK(destination.device->resets == 0);
    CHECK_FALSE(destination.device->runs());
    REQUIRE(destination.state->cleanup());
    CHECK_FALSE(destination.device->runs());
    REQUIRE(destination.state->run());
    CHECK(destination.device->runs());
    CHECK(destination.device->taken() == kind.loaded());
    REQUIRE(source.state->cleanup());
    CHECK(source.device->rests());
}

TEST_CASE("device state: the device runs until stop, and gives what it can before",
          "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    Side source(kind);
    MemoryStream stream;
    REQUIRE(source.state->save_setup(stream.sink()));
    const auto before = source.state->save_pending();
    REQUIRE(before);
    const std::size_t expected = joined(kind.content.pre_copy).size();
    CHECK(before->pre_copy == expected);
    CHECK(*source.state->save_pending() == *before);
    std::uint64_t given = 0;
    for (auto sent = source.state->save_iterate(stream.sink()); *sent != 0;
         sent = source.state->save_iterate(stream.sink())) {
        given += *sent;
        CHECK(source.state->save_pending()->pre_copy == expected - given);
    }
    CHECK(given == expected);
    CHECK(source.device->runs());
    CHECK(source.device->starts == 1);
    REQUIRE(source.state->stop());
    CHECK_FALSE(source.device->runs());
    REQUIRE(source.state->stop());
    const std::size_t rest = joined(kind.content.stop_copy).size();
    CHECK(source.state->save_pending()->pre_copy == 0);
    CHECK(source.state->save_pending()->stop_copy.value_or(rest) == rest);
    const std::size_t sent = stream.bytes().size();
    CHECK(source.state->save_iterate(stream.sink()) == 0U);
    CHECK(stream.bytes().size() == sent + 24);
    REQUIRE(source.state->save_complete(stream.sink(), {}));
    Side destination(kind);
    REQUIRE(load_all(*destination.state, stream));
    CHECK(destination.device->taken() == kind.loaded());
    CHECK(destination.state->config().empty());
}

TEST_CASE("device state: a paused device is saved, and never runs", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    Side source(kind);
    const bool by_library = GENERATE(true, false);
    if (by_library) {
        REQUIRE(source.state->stop());
    } else {
        source.device->pause();
    }
    MemoryStream stream;
    SECTION("to its end") {
        REQUIRE(save_all(*source.state, stream));
        Side destination(kind);
        destination.device->pause();
        REQUIRE(load_all(*destination.state, stream));
        CHECK(destination.device->taken() == kind.loaded());
        CHECK(destination.device->starts == 1);
    }
    SECTION("and given up") {
        REQUIRE(source.state->save_setup(stream.sink()));
        REQUIRE(source.state->cleanup());
    }
    CHECK(source.device->starts == 1);
    CHECK(source.device->rests());
}

TEST_CASE("device state: a save can be given up at any point", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    const int calls = GENERATE(range(0, 5));
    const bool quiesces = GENERATE(true, false);
    Side source(kind);
    MemoryStream stream;
    if (calls > 0) {
        REQUIRE(source.state->save_setup(stream.sink()));
    }
    if (calls > 1) {
        REQUIRE(source.state->save_iterate(stream.sink()));
    }
    if (calls > 1 && quiesces) {
        REQUIRE(source.state->quiesce());
        CHECK(source.device->runs());
        CHECK_THAT(why(source.state->run_quiesced()), Contains("a save has begun"));
    }
    if (calls > 2) {
        REQUIRE(source.state->stop());
        CHECK_THAT(why(source.state->run()), Contains("a save has begun"));
    }
    if (calls > 3) {
        REQUIRE(source.state->save_complete(stream.sink(), {}));
    }
    REQUIRE(source.state->cleanup());
    CHECK(source.device->runs() == (calls <= 2));
    REQUIRE(source.state->run());
    CHECK(source.device->runs());
    CHECK(source.device->resets == 0);
    // Once more, from the beginning.
    MemoryStream again;
    REQUIRE(save_all(*source.state, again));
    Side destination(kind);
    REQUIRE(load_all(*destination.state, again));
    CHECK(destination.device->taken() == kind.loaded());
}

TEST_CASE("device state: any access that fails leaves the source as documented", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    for (const Fault fault : faults) {
        for (std::uint64_t at = 0;; at++) {
            CAPTURE(static_cast<int>(fault), at);
            Side source(kind);
            source.device->faults.plan(fault, at);
            MemoryStream stream;
            // What is called, and whether the device is stopped when that fails.
            bool had_stopped = false;
            const Done done = [&]() -> Done {
                auto begun = source.state->save_setup(stream.sink());
                for (int i = 0; begun && i < 3; i++) {
                    begun = source.state->save_pending().map([](const auto&) {});
                    begun = begun.and_then([&] {
                        return source.state->save_iterate(stream.sink()).map([](const auto&) {});
                    });
                }
                begun = begun.and_then([&] { return source.state->quiesce(); });
                had_stopped = begun.has_value();
                return begun.and_then([&] { return source.state->stop(); }).and_then([&] {
                    return source.state->save_complete(stream.sink(), {});
                });
            }();
            const bool happened = source.device->faults.happened();
            source.device->faults.none();
            if (done) {
                REQUIRE(source.device->rests());
                Side destination(kind);
                REQUIRE(load_all(*destination.state, stream));
                REQUIRE(destination.device->taken() == kind.loaded());
                if (!happened) {
                    break;
                }
                continue;
            }
            CHECK(why(done).find('\n') == std::string::npos);
            CHECK_THAT(why(done), Contains("failed") || Contains("ended"));
            // No destination takes it for whole.
            Side other(kind);
            MemoryStream sent(stream.bytes());
            CHECK_FALSE(load_all(*other.state, sent));
            const bool reset = source.device->resets != 0;
            CHECK(source.state->device_was_reset() == reset);
            if (fault == Fault::breaks && had_stopped) {
                CHECK(reset);
                CHECK_THAT(why(done), Contains("has lost its state"));
            }
            if (fault != Fault::breaks) {
                CHECK_FALSE(reset);
            }
            // A device that broke while it ran is reset when the save is given up, or when it is to
            // run: one that was found broken has not been touched.
            if (fault == Fault::breaks && at == 0) {
                REQUIRE(source.state->cleanup());
                CHECK(source.device->resets == 0);
                CHECK_THAT(why(source.state->run()), Contains("has lost its state"));
                CHECK(source.device->rests());
                REQUIRE(source.state->run());
            } else if (fault != Fault::breaks || had_stopped) {
                check_source_settled(source, had_stopped);
            } else {
                REQUIRE(source.state->cleanup());
                CHECK(source.device->runs());
                CHECK(source.state->device_was_reset());
            }
        }
    }
}

TEST_CASE("device state: any access that fails leaves the destination reset and stopped",
          "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    const MemoryStream stream = saved(kind);
    for (const Fault fault : faults) {
        for (std::uint64_t at = 0;; at++) {
            CAPTURE(static_cast<int>(fault), at);
            Side destination(kind);
            destination.device->faults.plan(fault, at);
            MemoryStream in(stream.bytes());
            const Done done = load_all(*destination.state, in);
            const bool happened = destination.device->faults.happened();
            destination.device->faults.none();
            if (done) {
                REQUIRE(destination.device->taken() == kind.loaded());
                REQUIRE_FALSE(destination.device->runs());
                if (!happened) {
                    break;
                }
                continue;
            }
            CHECK(why(done).find('\n') == std::string::npos);
            CHECK(destination.device->rests());
            CHECK(destination.device->resets == 1);
            CHECK(destination.state->device_was_reset());
            CHECK(destination.state->config().empty());
            CHECK_THAT(why(destination.state->load(in.source())), Contains("the load has failed"));
            CHECK_THAT(why(destination.state->run()), Contains("the load has failed"));
            REQUIRE(destination.state->cleanup());
            CHECK(destination.device->rests());
            MemoryStream again(stream.bytes());
            REQUIRE(load_all(*destination.state, again));
            CHECK(destination.device->taken() == kind.loaded());
        }
    }
}

TEST_CASE("device state: a device that nothing recovers must not be used", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    Side side(kind);
    MemoryStream stream;
    std::string message;
    SECTION("at the source") {
        REQUIRE(side.state->save_setup(stream.sink()));
        side.device->faults.plan(Fault::breaks, 0, true);
        message = why(side.state->stop());
    }
    SECTION("in setup") {
        // Without pre-copy there is nothing in it that could break but its first look.
        side.device->faults.plan(Fault::breaks, kind.runs_pre_copy ? 1 : 0, true);
        message = why(side.state->save_setup(stream.sink()));
        if (!kind.runs_pre_copy) {
            side.device->faults.none();
            return;
        }
    }
    SECTION("at the destination") {
        MemoryStream in = saved(kind);
        side.device->faults.plan(Fault::breaks, 2, true);
        message = why(load_all(*side.state, in));
    }
    CHECK_THAT(message, Contains("must not be used: VFIO_DEVICE_RESET failed"));
    for (const Done& refused :
         {side.state->run(), side.state->stop(), side.state->save_setup(stream.sink()),
          side.state->quiesce(), side.state->run_quiesced()}) {
        CHECK_THAT(why(refused), Contains("could not be reset"));
    }
    CHECK_THAT(why(side.state->cleanup()), Contains("VFIO_DEVICE_RESET failed"));
    CHECK_THAT(why(side.state->run()), Contains("could not be reset"));
    side.device->faults.none();
    REQUIRE(side.state->cleanup());
    CHECK(side.device->rests());
    CHECK(side.device->resets == 1);
    REQUIRE(side.state->run());
    CHECK(side.device->runs());
}

TEST_CASE("device state: a stream that takes no more ends the save", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    const std::size_t whole = saved(kind).bytes().size();
    for (std::size_t limit = 0; limit < whole;
         limit += limit < 200 || limit > whole - 50 ? 1 : 97) {
        CAPTURE(limit);
        Side source(kind);
        MemoryStream stream;
        stream.limit(limit);
        CHECK(why(save_all(*source.state, stream)) == "the stream takes no more device state");
        CHECK(source.device->resets == 0);
        const bool stopped = source.device->rests();
        CHECK(stopped != source.device->runs());
        REQUIRE(source.state->cleanup());
        CHECK(source.device->runs() != stopped);
        REQUIRE(source.state->run());
    }
}

TEST_CASE("device state: calls that cannot come are refused, and do nothing", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    Side side(kind);
    pvdirty::DeviceState& state = *side.state;
    MemoryStream stream;
    const auto sink = stream.sink();
    const auto source = stream.source();
    CHECK_THAT(why(state.save_pending()), Contains("save_pending cannot come here: nothing"));
    CHECK_THAT(why(state.save_iterate(sink)), Contains("nothing has begun"));
    CHECK_THAT(why(state.save_complete(sink, {})), Contains("nothing has begun"));
    REQUIRE(state.save_setup(sink));
    CHECK_THAT(why(state.save_setup(sink)), Contains("a save has begun"));
    CHECK_THAT(why(state.load(source)), Contains("load cannot come here: a save has begun"));
    REQUIRE(state.run());
    CHECK(side.device->runs());
    REQUIRE(state.save_complete(sink, {}));
    CHECK_THAT(why(state.save_iterate(sink)), Contains("the device has been saved"));
    CHECK_THAT(why(state.load(source)), Contains("the device has been saved"));
    REQUIRE(state.stop());
    REQUIRE(state.cleanup());
    CHECK_FALSE(state.load(source).value());
    CHECK_THAT(why(state.save_setup(sink)), Contains("a load has begun"));
    CHECK_THAT(why(state.run()), Contains("a load has begun"));
    REQUIRE(load_all(state, stream));
    CHECK_THAT(why(state.load(source)), Contains("the device has been loaded"));
    REQUIRE(state.stop());
    REQUIRE(state.run());
    CHECK(side.device->resets == 0);
}

TEST_CASE("device state: a load that is given up leaves nothing of it", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    MemoryStream stream = saved(kind);
    Side destination(kind);
    CHECK_FALSE(destination.state->load(stream.source()).value());
    REQUIRE(destination.state->cleanup());
    CHECK(destination.device->rests());
    CHECK(destination.device->resets == 1);
}

TEST_CASE("device state: a device without either protocol is refused", "[device-state]") {
    RegionDevice device(RegionLayout{.areas = {}, .offsets = {32}});
    pvdirty::DeviceCalls calls = device.calls();
    SECTION("it has no regions") {
        calls.ioctl = [](int, unsigned long, void*) { return 0; };
        // Every feature is answered, and has nothing in it.
        CHECK_THAT(why(pvdirty::DeviceState::open(7, calls)), Contains("without STOP_COPY"));
    }
    SECTION("it is no VFIO device") {
        calls.ioctl = [](int, unsigned long, void*) { return -ENOTTY; };
        CHECK_THAT(why(pvdirty::DeviceState::open(7, calls)),
                   Contains("VFIO_DEVICE_GET_INFO failed"));
    }
    SECTION("that it has migration states cannot be told") {
        calls.ioctl = [](int, unsigned long, void*) { return -EFAULT; };
        CHECK_THAT(why(pvdirty::DeviceState::open(7, calls)),
                   Contains("VFIO_DEVICE_FEATURE_MIGRATION failed"));
    }
    SECTION("it has others") {
        calls.ioctl = [](int, unsigned long request, void*) { return request == 15211 ? 0 : -25; };
        CHECK_THAT(why(pvdirty::DeviceState::open(7, calls)),
                   Contains("neither migration states nor a migration region"));
    }
}

TEST_CASE("device state: a device in another state is not touched", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    Side side(kind);
    MemoryStream stream;
    if (auto* region = dynamic_cast<RegionDevice*>(side.device.get())) {
        region->state = RegionDevice::resuming;
    } else {
        dynamic_cast<StatesDevice&>(*side.device).state = StatesDevice::resuming;
    }
    CHECK_THAT(why(side.state->save_setup(stream.sink())), Contains("neither"));
    CHECK(side.device->resets == 0);
    CHECK(stream.bytes().empty());
    CHECK_FALSE(side.device->runs());
    CHECK_FALSE(side.device->rests());
}

TEST_CASE("device state: more than is allowed is not sent", "[device-state]") {
    const DeviceKind& kind = any_kind();
    CAPTURE(kind.name);
    const auto device = kind.make();
    device->fill(kind.content);
    const std::size_t all = joined(kind.content.all()).size();
    const bool enough = GENERATE(true, false);
    const auto state =
        std::move(*pvdirty::DeviceState::open(7, device->calls(), {all - (enough ? 0 : 1)}));
    MemoryStream stream;
    const Done done = save_all(*state, stream);
    CHECK(done.has_value() == enough);
    if (!enough) {
        CHECK_THAT(why(done), Contains("bytes of state"));
        CHECK(device->rests());
    }
    Bytes config(pvdirty::max_device_config_bytes + (enough ? 0 : 1));
    REQUIRE(state->cleanup());
    const auto larger = open(*device);
    CHECK(save_all(*larger, stream, config).has_value() == enough);
    CHECK(device->rests());
}
