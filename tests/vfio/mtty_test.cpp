// SPDX-License-Identifier: MIT
/* DeviceState over the kernel's migration states: from one mtty to another. */
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include <linux/vfio.h>

#include "device/kinds.hpp"
#include "vfio/kernel_faults.hpp"
#include "vfio/mtty.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using Catch::Matchers::Contains;
using pvdirty::DeviceCalls;
using pvdirty::DeviceState;
using pvdirty::system_calls;

namespace {

std::unique_ptr<DeviceState> open(Mtty& device, const DeviceCalls& calls = system_calls()) {
    auto state = DeviceState::open(device.fd(), calls);
    if (!state) {
        throw std::runtime_error(state.error());
    }
    return std::move(*state);
}

MemoryStream saved(Mtty& device, const DeviceCalls& calls = system_calls()) {
    MemoryStream stream;
    const auto state = open(device, calls);
    if (const auto done = save_all(*state, stream); !done) {
        throw std::runtime_error(done.error());
    }
    return stream;
}

/* A stopped device's data, in one piece. */
Bytes data_of(const MemoryStream& stream) {
    Bytes data;
    const Bytes& bytes = stream.bytes();
    for (std::size_t at = 0; at + 24 <= bytes.size();) {
        const std::size_t length = bytes[at + 22] * 256U + bytes[at + 23];
        if (bytes[at + 7] == 3) {
            const auto payload = bytes.begin() + static_cast<std::ptrdiff_t>(at + 24);
            data.insert(data.end(), payload, payload + static_cast<std::ptrdiff_t>(length));
        }
        at += 24 + length;
    }
    return data;
}

/*
 * A whole migration of a device that runs, and is written to in it.
 * @returns what is wrong with the destination, or nullptr
 */
const char* wrong(const DeviceCalls& at_source, const DeviceCalls& at_destination) {
    Mtty source;
    Mtty destination;
    source.fill(11);
    destination.fill(200);
    const auto save = open(source, at_source);
    const auto load = open(destination, at_destination);
    MemoryStream stream;
    if (!save->save_setup(stream.sink()) || !save->save_pending() ||
        !save->save_iterate(stream.sink())) {
        return "the beginning";
    }
    if (!source.runs()) {
        return "the source is stopped early";
    }
    if (!save->quiesce() || source.state() != VFIO_DEVICE_STATE_PRE_COPY_P2P) {
        return "the source is not quiesced";
    }
    source.send(0, 0xa5); // CPUs may write to a device that is quiesced
    source.send(1, 0x5a);
    if (!save->stop() || source.runs() || !save->save_complete(stream.sink(), Bytes{9, 8})) {
        return "the end";
    }
    if (!source.rests()) {
        return "the source is not stopped";
    }
    if (!load_all(*load, stream) || !stream.at_end() || load->config() != Bytes{9, 8}) {
        return "the load";
    }
    if (!destination.rests()) {
        return "the destination is not stopped";
    }
    if (save->device_was_reset() || load->device_was_reset()) {
        return "a reset";
    }
    if (data_of(saved(destination)) != data_of(stream)) {
        return "what the destination saves";
    }
    if (!load->run_quiesced() || destination.state() != VFIO_DEVICE_STATE_RUNNING_P2P) {
        return "the destination is not quiesced";
    }
    if (!load->run() || !destination.runs()) {
        return "the destination does not run";
    }
    const Bytes expected = source.drain();
    if (expected.size() != 2 * (2 + 15) || destination.drain() != expected) {
        return "what the guest sees";
    }
    return nullptr;
}

/* The system's ioctl, but a device is not brought into this state. */
auto without_state(std::uint32_t left_out) {
    return [left_out](int fd, unsigned long request, void* arg) {
        vfio_device_feature header{};
        vfio_device_feature_mig_state state{};
        if (request == VFIO_DEVICE_FEATURE) {
            std::memcpy(&header, arg, sizeof(header));
            std::memcpy(&state, static_cast<std::uint8_t*>(arg) + sizeof(header), sizeof(state));
        }
        const bool skipped =
            (header.flags & VFIO_DEVICE_FEATURE_SET) != 0 && state.device_state == left_out;
        return skipped ? 0 : system_calls().ioctl(fd, request, arg);
    };
}

/* A load that must fail, and what becomes of the device. */
void check_refused(const Bytes& bytes, const std::string& message = "") {
    Mtty destination;
    destination.fill(77);
    const auto state = open(destination);
    MemoryStream stream(bytes);
    const Done done = load_all(*state, stream);
    REQUIRE_FALSE(done);
    CHECK_THAT(why(done), Contains(message));
    CHECK(why(done).find('\n') == std::string::npos);
    CHECK(destination.rests());
    CHECK_THAT(why(state->run()), Contains("the load has failed"));
    CHECK(destination.rests());
    REQUIRE(state->cleanup());
    CHECK(destination.rests());
}

/* Where the records of a stream begin, and its end. */
std::vector<std::size_t> records(const Bytes& bytes) {
    std::vector<std::size_t> starts;
    std::size_t at = 0;
    while (at < bytes.size()) {
        starts.push_back(at);
        at += 24U + bytes[at + 22] * 256U + bytes[at + 23];
    }
    starts.push_back(at);
    return starts;
}

/* The stream with its last data record so many bytes longer, or shorter, and an end that fits. */
Bytes resized(Bytes bytes, int more) {
    auto starts = records(bytes);
    const std::size_t data = starts[starts.size() - 3];
    const std::size_t end = starts[starts.size() - 2];
    REQUIRE(bytes[data + 7] == 3);
    REQUIRE(bytes[end + 7] == 5);
    bytes[data + 23] = static_cast<std::uint8_t>(bytes[data + 23] + more);
    bytes[end + 24 + 15] = static_cast<std::uint8_t>(bytes[end + 24 + 15] + more);
    const auto tail = bytes.begin() + static_cast<std::ptrdiff_t>(end);
    if (more > 0) {
        bytes.insert(tail, static_cast<std::size_t>(more), 0);
    } else {
        bytes.erase(tail + more, tail);
    }
    return bytes;
}

Bytes a_stream(unsigned ports = 2) {
    Mtty source(ports);
    source.fill(11);
    return saved(source).bytes();
}

} // namespace

TEST_CASE("mtty: what is saved is loaded, byte for byte", "[mtty]") {
    CHECK(wrong(system_calls(), system_calls()) == nullptr);
}

TEST_CASE("mtty: a migration that is wrong is found", "[mtty]") {
    DeviceCalls source = system_calls();
    DeviceCalls destination = system_calls();
    SECTION("a byte is read wrong") {
        source.read = [](int fd, void* out, std::size_t len) {
            const auto n = system_calls().read(fd, out, len);
            if (n > 0) {
                static_cast<std::uint8_t*>(out)[n - 4] ^= 1;
            }
            return n;
        };
    }
    SECTION("a byte is written wrong") {
        destination.write = [](int fd, const void* in, std::size_t len) {
            const auto* from = static_cast<const std::uint8_t*>(in);
            Bytes bytes(from, from + len);
            bytes.back() ^= 0x10;
            return system_calls().write(fd, bytes.data(), len);
        };
    }
    SECTION("the source is not stopped") {
        source.ioctl = without_state(VFIO_DEVICE_STATE_STOP);
    }
    SECTION("the source is not quiesced") {
        source.ioctl = without_state(VFIO_DEVICE_STATE_PRE_COPY_P2P);
    }
    SECTION("the destination is not quiesced") {
        destination.ioctl = without_state(VFIO_DEVICE_STATE_RUNNING_P2P);
    }
    SECTION("nothing is written") {
        destination.write = [](int, const void*, std::size_t len) {
            return static_cast<std::int64_t>(len);
        };
    }
    CHECK(wrong(source, destination) != nullptr);
}

TEST_CASE("mtty: a save can be given up, and done again", "[mtty]") {
    Mtty source;
    source.fill(3);
    const auto state = open(source);
    MemoryStream stream;
    REQUIRE(state->save_setup(stream.sink()));
    CHECK(source.state() == VFIO_DEVICE_STATE_PRE_COPY);
    REQUIRE(state->cleanup());
    CHECK(source.state() == VFIO_DEVICE_STATE_RUNNING);
    CHECK_FALSE(state->device_was_reset());
    MemoryStream again;
    REQUIRE(save_all(*state, again));
    Mtty destination;
    const auto load = open(destination);
    REQUIRE(load_all(*load, again));
    CHECK(destination.drain() == source.drain());
}

TEST_CASE("mtty: a paused device is saved, and never runs", "[mtty]") {
    Mtty source;
    source.fill(5);
    const auto state = open(source);
    REQUIRE(state->stop());
    REQUIRE(source.rests());
    MemoryStream stream;
    REQUIRE(state->save_setup(stream.sink()));
    CHECK(source.rests());
    REQUIRE(state->save_complete(stream.sink(), {}));
    CHECK(source.rests());
    Mtty destination;
    const auto load = open(destination);
    REQUIRE(load_all(*load, stream));
    CHECK(destination.drain() == source.drain());
}

TEST_CASE("mtty: stopped and run by way of its P2P state, and saved from there", "[mtty]") {
    Mtty source;
    source.fill(41);
    const auto state = open(source);
    REQUIRE(state->quiesce());
    CHECK(source.state() == VFIO_DEVICE_STATE_RUNNING_P2P);
    REQUIRE(state->stop());
    CHECK(source.rests());
    REQUIRE(state->run_quiesced());
    CHECK(source.state() == VFIO_DEVICE_STATE_RUNNING_P2P);
    MemoryStream given_up;
    REQUIRE(state->save_setup(given_up.sink()));
    CHECK(source.state() == VFIO_DEVICE_STATE_PRE_COPY_P2P);
    REQUIRE(state->cleanup());
    CHECK(source.state() == VFIO_DEVICE_STATE_RUNNING_P2P);
    MemoryStream stream;
    REQUIRE(save_all(*state, stream));
    CHECK(source.rests());
    Mtty destination;
    destination.fill(90);
    const auto load = open(destination);
    REQUIRE(load_all(*load, stream));
    REQUIRE(load->run_quiesced());
    CHECK(destination.state() == VFIO_DEVICE_STATE_RUNNING_P2P);
    CHECK(data_of(saved(destination)) == data_of(stream));
    REQUIRE(state->run());
    CHECK(source.state() == VFIO_DEVICE_STATE_RUNNING);
    CHECK(destination.drain() == source.drain());
    CHECK_FALSE((state->device_was_reset() || load->device_was_reset()));
}

TEST_CASE("mtty: a stream that ends early is refused, wherever it ends", "[mtty]") {
    const Bytes whole = a_stream();
    for (std::size_t length = 0; length < whole.size(); length++) {
        CAPTURE(length);
        check_refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
    }
}

TEST_CASE("mtty: records in another order are refused", "[mtty]") {
    const Bytes whole = a_stream();
    const auto starts = records(whole);
    const auto at = [&](std::size_t n) {
        return whole.begin() + static_cast<std::ptrdiff_t>(starts[n]);
    };
    for (std::size_t n = 0; n + 2 < starts.size(); n++) {
        CAPTURE(n);
        Bytes swapped(whole.begin(), at(n));
        swapped.insert(swapped.end(), at(n + 1), at(n + 2));
        swapped.insert(swapped.end(), at(n), at(n + 1));
        swapped.insert(swapped.end(), at(n + 2), whole.end());
        check_refused(swapped);
        Bytes lacking(whole.begin(), at(n));
        lacking.insert(lacking.end(), at(n + 1), whole.end());
        check_refused(lacking);
    }
}

TEST_CASE("mtty: the device refuses what is not its data", "[mtty]") {
    const Bytes whole = a_stream();
    SECTION("more than it has") {
        check_refused(resized(whole, 1), "writing device data");
    }
    SECTION("less than it has") {
        check_refused(resized(whole, -1), "setting the device's migration state STOP");
    }
    SECTION("of a device with one port") {
        check_refused(a_stream(1), "writing device data");
    }
    SECTION("another magic number") {
        Bytes bytes = whole;
        const auto starts = records(whole);
        for (std::size_t n = 0; n + 1 < starts.size(); n++) {
            if (bytes[starts[n] + 7] == 3) {
                bytes[starts[n] + 24] ^= 1;
                break;
            }
        }
        check_refused(bytes, "writing device data");
    }
    SECTION("the same as it is: the control") {
        Mtty destination;
        const auto state = open(destination);
        MemoryStream stream(resized(resized(whole, 1), -1));
        CHECK(load_all(*state, stream));
    }
}

TEST_CASE("mtty: a fault in the kernel while it is opened is told, and changes nothing", "[mtty]") {
    KernelFaults faults;
    unsigned told = 0;
    const DeviceCalls calls = faulty(faults);
    const Mtty device;
    const unsigned met = faults.everywhere([&] {
        const auto state = DeviceState::open(device.fd(), calls);
        if (!state) {
            told++;
            CHECK_THAT(state.error(), Contains("VFIO_DEVICE_FEATURE_MIGRATION failed"));
        }
        CHECK(device.state() == VFIO_DEVICE_STATE_RUNNING);
    });
    CHECK(told > 0);
    WARN(met << " faults, " << told << " of them told");
}

TEST_CASE("mtty: a fault anywhere in the kernel leaves the source as documented", "[mtty]") {
    KernelFaults faults;
    unsigned told = 0;
    const DeviceCalls calls = faulty(faults);
    const unsigned met = faults.everywhere([&] {
        Mtty source;
        source.fill(21);
        faults.hold();
        const auto state = open(source, calls);
        faults.resume();
        MemoryStream stream;
        bool had_stopped = false;
        const Done done = [&]() -> Done {
            auto begun = state->save_setup(stream.sink());
            begun = begun.and_then([&] { return state->save_pending().map([](const auto&) {}); });
            begun = begun.and_then(
                [&] { return state->save_iterate(stream.sink()).map([](const auto&) {}); });
            had_stopped = begun.has_value();
            return begun.and_then([&] { return state->stop(); }).and_then([&] {
                return state->save_complete(stream.sink(), {});
            });
        }();
        faults.hold();
        Mtty destination;
        const auto load = open(destination);
        if (!done) {
            told++;
            CHECK(why(done).find('\n') == std::string::npos);
            CHECK((had_stopped ? source.rests() : source.runs()));
            REQUIRE_FALSE(load_all(*load, stream)); // nothing takes it for whole
            REQUIRE(load->cleanup());
            REQUIRE(state->cleanup());
            CHECK((had_stopped ? source.rests() : source.runs()));
            REQUIRE(state->run());
            CHECK(source.runs());
            CHECK_FALSE(state->device_was_reset());
            MemoryStream again;
            REQUIRE(save_all(*state, again));
            REQUIRE(load_all(*load, again));
        } else {
            CHECK(source.rests());
            REQUIRE(load_all(*load, stream));
        }
        CHECK(destination.drain() == source.drain());
    });
    CHECK(told > 0);
    WARN(met << " faults, " << told << " of them told");
}

TEST_CASE("mtty: a fault anywhere in the kernel leaves the destination reset and stopped",
          "[mtty]") {
    const Bytes whole = a_stream();
    KernelFaults faults;
    unsigned told = 0;
    const DeviceCalls calls = faulty(faults);
    Mtty right;
    right.fill(11);
    const Bytes expected = right.drain();
    const unsigned met = faults.everywhere([&] {
        Mtty destination;
        destination.fill(99);
        faults.hold();
        const auto state = open(destination, calls);
        faults.resume();
        MemoryStream stream(whole);
        const Done done = load_all(*state, stream);
        faults.hold();
        CHECK(destination.rests());
        if (!done) {
            told++;
            CHECK(state->device_was_reset());
            CHECK_THAT(why(state->run()), Contains("the load has failed"));
            REQUIRE(state->cleanup());
            CHECK(destination.rests());
            MemoryStream again(whole);
            REQUIRE(load_all(*state, again));
        }
        REQUIRE(state->run());
        CHECK(destination.drain() == expected);
    });
    CHECK(told > 0);
    WARN(met << " faults, " << told << " of them told");
}

TEST_CASE("mtty: a fault anywhere in the kernel on the way by P2P leaves it as documented",
          "[mtty]") {
    const bool saves = GENERATE(true, false);
    KernelFaults faults;
    unsigned told = 0;
    const DeviceCalls calls = faulty(faults);
    const unsigned met = faults.everywhere([&] {
        Mtty device;
        device.fill(61);
        faults.hold();
        const auto state = open(device, calls);
        MemoryStream stream;
        if (saves) {
            REQUIRE(state->save_setup(stream.sink()));
        }
        faults.resume();
        const Done quiesced = state->quiesce();
        if (!quiesced) {
            CHECK((device.runs() || (saves && device.state() == VFIO_DEVICE_STATE_PRE_COPY_P2P)));
        }
        const Done stopped = quiesced.and_then([&] { return state->stop(); });
        faults.hold();
        if (saves && stopped) {
            REQUIRE(state->save_complete(stream.sink(), {}));
        }
        REQUIRE(state->cleanup());
        CHECK(device.state() == (quiesced ? VFIO_DEVICE_STATE_STOP : VFIO_DEVICE_STATE_RUNNING));
        faults.resume();
        const Done back = state->run_quiesced();
        CHECK(device.state() == (back ? VFIO_DEVICE_STATE_RUNNING_P2P : VFIO_DEVICE_STATE_STOP));
        const Done ran = back.and_then([&] { return state->run(); });
        CHECK(device.state() == (ran ? VFIO_DEVICE_STATE_RUNNING : VFIO_DEVICE_STATE_STOP));
        faults.hold();
        told += stopped && ran ? 0 : 1;
        REQUIRE(state->run());
        CHECK_FALSE(state->device_was_reset());
        MemoryStream again;
        REQUIRE(save_all(*state, again));
        Mtty destination;
        const auto load = open(destination);
        REQUIRE(load_all(*load, again));
        CHECK(destination.drain() == device.drain());
    });
    CHECK(told > 0);
    WARN(met << " faults, " << told << " of them told");
}
