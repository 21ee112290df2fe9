// SPDX-License-Identifier: MIT
/* A port's state in a migration stream, by bytes that nobody vouches for. */
#include <catch2/catch.hpp>

#include <array>

#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::Logger;
using pvdirty::port_state_len;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

using State = std::array<std::uint8_t, port_state_len>;

State save(const pvdirty::Port& port) {
    State state{};
    state.fill(0xee);
    port.save(state);
    return state;
}

} // namespace

TEST_CASE("state: the layout", "[state]") {
    Vm vm;
    vm.track();
    const State state = save(vm.rp0);
    const State expected = {'P', 'V', 'P', 'S', 1,
                            0,   0,   0,   6,   0,
                            0,   0,   0,   0,   0,
                            0,   1,   0,   0,   0,
                            3,   0,   0,   0,   status_driver_ok};
    CHECK(state == expected);
}

TEST_CASE("state: every state of the handshake comes back", "[state]") {
    const auto status =
        GENERATE(as<unsigned>{}, 0, 1, 3, status_features_ok, status_driver_ok,
                 1 | VIRTIO_CONFIG_S_FAILED, status_driver_ok | VIRTIO_CONFIG_S_FAILED);
    Vm source;
    source.rp0.write(offsetof(pvdirty_cap, device_status), status & 3, 1);
    source.rp0.write(offsetof(pvdirty_cap, log_addr_hi), 1, 4);
    source.rp0.write(offsetof(pvdirty_cap, log_pages), 3, 4);
    source.rp0.write(offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
    source.rp0.write(offsetof(pvdirty_cap, device_status), status & status_driver_ok, 1);
    source.rp0.write(offsetof(pvdirty_cap, device_status), status, 1);
    REQUIRE(read_cap(source.rp0).device_status == status);

    Vm destination;
    REQUIRE(destination.rp0.load(save(source.rp0)));
    CHECK(destination.rp0.capability().bytes() == source.rp0.capability().bytes());
    CHECK(destination.domain.log().has_value() == (status == status_driver_ok));
}

TEST_CASE("state: the error register comes back", "[state]") {
    Vm source;
    source.rp0.write(offsetof(pvdirty_cap, device_status), VIRTIO_CONFIG_S_DRIVER, 1);
    REQUIRE(read_cap(source.rp0).error == PVDIRTY_E_STATE);
    Vm destination;
    REQUIRE(destination.rp0.load(save(source.rp0)));
    CHECK(read_cap(destination.rp0).error == PVDIRTY_E_STATE);
}

TEST_CASE("state: a port that ran goes on, and the log stays as it came until it runs", "[state]") {
    Vm source;
    source.track();
    Vm destination;
    destination.entry(7, 0x100, PVDIRTY_DEV_TRACKED);
    destination.guest.log.control().logging = 1; // the source was migrating
    REQUIRE(destination.rp0.load(save(source.rp0)));
    REQUIRE(destination.rp1.load(save(source.rp1)));
    CHECK(destination.guest.ram.holds() == 5);
    CHECK_FALSE(destination.domain.why_incomplete());
    CHECK(destination.guest.log.control().logging == 1);
    CHECK(destination.guest.ram.written_calls() == 0);
    destination.domain.running();
    CHECK(destination.guest.log.control().logging == 0);
    CHECK(destination.guest.ram.take_written().size() == 1);

    // Marks that the source left are no news for the next session.
    pvd_mark(destination.guest.log.core(), 1, 5);
    destination.domain.set_logging(Logger::session, true);
    const auto result = destination.harvest();
    CHECK(result.pages_marked == 0);
    CHECK_FALSE(result.all_dirty);
}

TEST_CASE("state: a log that is refused leaves the port unregistered", "[state]") {
    Vm source;
    source.track();
    Vm destination;
    destination.entry(7, 0x100, PVDIRTY_DEV_TRACKED);
    destination.guest.log.control().signature = 0;
    CHECK(destination.rp0.load(save(source.rp0)));
    CHECK(read_cap(destination.rp0).device_status ==
          (status_features_ok | VIRTIO_CONFIG_S_NEEDS_RESET));
    CHECK(read_cap(destination.rp0).error == PVDIRTY_E_LOG_HEADER);
    CHECK_FALSE(destination.domain.log());
    CHECK_THAT(destination.domain.why_incomplete().value_or(""), Contains("not registered"));
    destination.domain.set_logging(Logger::session, true);
    CHECK(destination.harvest().all_dirty);
    // The guest may begin again.
    destination.guest.log.control().signature = PVDIRTY_LOG_SIGNATURE;
    destination.register_both();
    CHECK_FALSE(destination.domain.why_incomplete());
}

TEST_CASE("state: a refused log is latched when a session is on", "[state]") {
    Vm vm;
    vm.track();
    vm.domain.set_logging(Logger::session, true);
    const State state = save(vm.rp0);
    vm.rp1.reset();
    vm.domain.set_logging(Logger::session, false);
    vm.domain.set_logging(Logger::session, true);
    REQUIRE(vm.domain.latched().empty());
    vm.guest.log.control().signature = 0;
    REQUIRE(vm.rp0.load(state));
    CHECK_THAT(vm.domain.latched(), Contains("rp0") && Contains("refused"));
}

TEST_CASE("state: loading in a session is latched, and the session's word published", "[state]") {
    Vm vm;
    vm.track();
    const State state = save(vm.rp0);
    unregister_port(vm.rp1);
    vm.domain.set_logging(Logger::dirty_log, true);
    vm.domain.set_logging(Logger::session, true);
    REQUIRE_FALSE(vm.harvest().all_dirty);
    // The RAM that was loaded has the word as it was then.
    vm.guest.log.control().logging = 0;
    REQUIRE(vm.rp0.load(state));
    REQUIRE_FALSE(vm.domain.why_incomplete());
    CHECK(vm.harvest().all_dirty);
    CHECK_THAT(vm.domain.latched(), Contains("rp0: its state was loaded"));

    vm.domain.set_logging(Logger::session, false);
    vm.domain.set_logging(Logger::session, true);
    CHECK(vm.guest.log.control().logging == 1);
    CHECK_FALSE(vm.harvest().all_dirty);
}

TEST_CASE("state: bytes that are refused reset the port", "[state]") {
    Vm source;
    source.track();
    State state = save(source.rp0);
    std::size_t len = state.size();
    std::string words;

    SECTION("too short") {
        len = GENERATE(as<std::size_t>{}, 0, 1, 63);
        words = "bytes";
    }
    SECTION("signature") {
        state[3] ^= 1;
        words = "signature";
    }
    SECTION("version") {
        state[4] = 2;
        words = "version 2";
    }
    SECTION("reserved bytes") {
        state[GENERATE(as<std::size_t>{}, 25, 40, 63)] = 1;
        words = "reserved";
    }
    SECTION("a status that no handshake reaches") {
        state[24] = GENERATE(as<std::uint8_t>{}, 2, 4, 7, 8, 9, 10, 12, 14, 16, 0x20, 0x1f, 0x2f,
                             // Needs a reset, and was not registered, or still is.
                             VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_CONFIG_S_NEEDS_RESET | 3,
                             VIRTIO_CONFIG_S_NEEDS_RESET | status_driver_ok);
        words = "impossible";
    }
    SECTION("an error code that does not exist") {
        state[6] = PVDIRTY_E_LOG_GONE + 1;
        words = "impossible";
    }
    SECTION("features that nobody offers") {
        state[8] = 8 | 6;
        words = "features";
    }
    SECTION("no features, or INFLIGHT without BITMAP, in use") {
        state[8] = GENERATE(as<std::uint8_t>{}, 0, 4, 5);
        words = "features";
    }
    Vm destination;
    destination.track();
    const auto loaded = destination.rp0.load(std::span(state).first(len));
    REQUIRE_FALSE(loaded);
    CHECK_THAT(loaded.error(), Contains(words));
    CHECK(destination.rp0.capability().bytes() == Vm().rp0.capability().bytes());
    // Its own registration is gone, that of the other port is not.
    CHECK(destination.guest.ram.holds() == 5);
    unregister_port(destination.rp1);
    CHECK(destination.guest.ram.holds() == 0);
}

TEST_CASE("state: features that this host does not offer", "[state]") {
    Vm source;
    source.track();
    Guest guest({{0, 512}});
    pvdirty::Domain domain(guest.ram, 0);
    pvdirty::Port& port = domain.add_port("rp0", feature_touch | feature_bitmap);
    const auto loaded = port.load(save(source.rp0));
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error() == "the guest uses features 6, this port offers 3");
    CHECK(read_cap(port).device_status == 0);
    CHECK(read_cap(port).guest_features == 0);
}

TEST_CASE("state: any byte may be anything", "[state]") {
    Vm source;
    source.track();
    const State good = save(source.rp0);
    for (std::size_t i = 0; i < good.size(); i++) {
        for (unsigned value = 0; value < 256; value++) {
            State state = good;
            state[i] = static_cast<std::uint8_t>(value);
            Vm destination;
            const bool loaded = destination.rp0.load(state).has_value();
            const pvdirty::Capability& capability = destination.rp0.capability();
            const bool uses_log = capability.registered() && capability.registration().wants_log();
            CHECK(destination.domain.log().has_value() == uses_log);
            if (!loaded) {
                CHECK(read_cap(destination.rp0).device_status == 0);
            }
        }
    }
}
