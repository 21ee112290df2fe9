// SPDX-License-Identifier: MIT
/* The registers of the port: each field, each width, each state, each refusal. */
#include <catch2/catch.hpp>

#include <cstddef>
#include <cstring>
#include <optional>

#include "pvdirty/capability.hpp"

using pvdirty::Capability;
using pvdirty::Registration;

namespace {

constexpr unsigned acknowledge = VIRTIO_CONFIG_S_ACKNOWLEDGE;
constexpr unsigned driver = acknowledge | VIRTIO_CONFIG_S_DRIVER;
constexpr unsigned features_ok = driver | VIRTIO_CONFIG_S_FEATURES_OK;
constexpr unsigned driver_ok = features_ok | VIRTIO_CONFIG_S_DRIVER_OK;
constexpr unsigned failed = VIRTIO_CONFIG_S_FAILED;
constexpr unsigned needs_reset = VIRTIO_CONFIG_S_NEEDS_RESET;

constexpr std::uint32_t touch = 1U << PVDIRTY_F_TOUCH;
constexpr std::uint32_t bitmap = 1U << PVDIRTY_F_BITMAP;
constexpr std::uint32_t inflight = 1U << PVDIRTY_F_INFLIGHT;

class Recorder final : public pvdirty::Registrar {
public:
    pvdirty_error answer = PVDIRTY_OK;
    std::optional<Registration> entered;
    int enters = 0;
    int leaves = 0;

    pvdirty_error enter(const Registration& registration) override {
        enters++;
        entered = registration;
        return answer;
    }
    void leave() override { leaves++; }
};

/** A port and what its guest does. */
struct Port {
    Recorder registrar;
    Capability capability{PVDIRTY_FEATURES_ALL, 77};

    [[nodiscard]] pvdirty_cap cap() const {
        pvdirty_cap cap{};
        std::memcpy(&cap, capability.bytes().data(), sizeof(cap));
        return cap;
    }
    void write(std::size_t offset, std::uint32_t value, std::uint32_t len = 4) {
        capability.write(static_cast<std::uint32_t>(offset), value, len, registrar);
    }
    void status(unsigned value) { write(offsetof(pvdirty_cap, device_status), value, 1); }
    void features(std::uint32_t value) { write(offsetof(pvdirty_cap, guest_features), value); }
    /** From power-on to a state of the handshake. */
    void reach(unsigned value, std::uint32_t wanted = bitmap | inflight) {
        if (value == 0) {
            return;
        }
        status(driver & value);
        features(wanted);
        status(value);
    }
};

} // namespace

TEST_CASE("capability: power-on values", "[capability]") {
    const Port port;
    const pvdirty_cap cap = port.cap();
    CHECK(cap.cap_vndr == 0);
    CHECK(cap.cap_next == 0);
    CHECK(cap.cap_len == 44);
    CHECK(cap.cfg_type == 0x50);
    CHECK(std::memcmp(&cap.signature, "PVDY", 4) == 0);
    CHECK(cap.version == 1);
    CHECK(cap.error == PVDIRTY_OK);
    CHECK(cap.host_features == (touch | bitmap | inflight));
    CHECK(cap.guest_features == 0);
    CHECK(cap.domain == 77);
    CHECK(cap.log_addr_lo == 0);
    CHECK(cap.log_addr_hi == 0);
    CHECK(cap.log_pages == 0);
    CHECK(cap.notify == 0);
    CHECK(cap.device_status == 0);
    CHECK(cap.reserved[0] + cap.reserved[1] + cap.reserved[2] == 0);
    CHECK_FALSE(port.capability.registered());
}

TEST_CASE("capability: features that this version does not know are not offered", "[capability]") {
    const Capability capability(0xffffffff, 0);
    std::uint32_t offered = 0;
    std::memcpy(&offered, capability.bytes().data() + offsetof(pvdirty_cap, host_features), 4);
    CHECK(offered == PVDIRTY_FEATURES_ALL);
}

TEST_CASE("capability: writable registers keep what is written", "[capability]") {
    Port port;
    port.write(offsetof(pvdirty_cap, guest_features), 0x89abcdef);
    port.write(offsetof(pvdirty_cap, log_addr_lo), 0x12345000);
    port.write(offsetof(pvdirty_cap, log_addr_hi), 0x9abc);
    port.write(offsetof(pvdirty_cap, log_pages), 0xffffffff);
    const pvdirty_cap cap = port.cap();
    CHECK(cap.guest_features == 0x89abcdef);
    CHECK(cap.log_addr_lo == 0x12345000);
    CHECK(cap.log_addr_hi == 0x9abc);
    CHECK(cap.log_pages == 0xffffffff);
    CHECK(cap.error == PVDIRTY_OK);
    CHECK(port.capability.registration().log_addr == 0x9abc12345000);
}

TEST_CASE("capability: everything else is ignored", "[capability]") {
    Port port;
    port.reach(driver);
    const auto before = port.capability.bytes();
    const auto unchanged = [&](std::size_t offset, std::uint32_t len) {
        INFO("offset " << offset << " length " << len);
        port.write(offset, 0xffffffff, len);
        CHECK(port.capability.bytes() == before);
    };
    SECTION("read-only registers, with their own width and as words") {
        for (const std::size_t offset : {0U, 4U, 8U, 12U, 20U, 36U}) {
            unchanged(offset, 4);
        }
        unchanged(offsetof(pvdirty_cap, version), 2);
        unchanged(offsetof(pvdirty_cap, error), 2);
        for (const std::size_t offset : {0U, 1U, 2U, 3U, 41U, 42U, 43U}) {
            unchanged(offset, 1);
        }
    }
    SECTION("parts of registers") {
        for (const std::size_t offset : {16U, 24U, 28U, 32U, 36U}) {
            for (std::size_t part = 0; part < 4; part++) {
                unchanged(offset + part, 1);
                unchanged(offset + part, 2);
            }
        }
        unchanged(offsetof(pvdirty_cap, device_status), 2);
    }
    SECTION("unaligned, outside, and widths that do not exist") {
        for (const std::size_t offset : {17U, 18U, 26U, 30U, 39U, 41U}) {
            unchanged(offset, 4);
        }
        for (const std::size_t offset :
             {std::size_t{44}, std::size_t{64}, std::size_t{0xffffffff}}) {
            for (const std::uint32_t len : {1U, 2U, 4U}) {
                unchanged(offset, len);
            }
        }
        for (const std::uint32_t len : {0U, 3U, 5U, 8U, 0xffffffffU}) {
            unchanged(offsetof(pvdirty_cap, guest_features), len);
            unchanged(offsetof(pvdirty_cap, device_status), len);
        }
    }
}

TEST_CASE("capability: notify may be written in any state and reads 0", "[capability]") {
    for (const unsigned state : {0U, acknowledge, driver, features_ok, driver_ok}) {
        Port port;
        port.reach(state);
        port.write(offsetof(pvdirty_cap, notify), 0xffffffff);
        CHECK(port.cap().notify == 0);
        CHECK(port.cap().error == PVDIRTY_OK);
    }
}

TEST_CASE("capability: the handshake, step by step", "[capability]") {
    Port port;
    port.status(acknowledge);
    CHECK(port.cap().device_status == acknowledge);
    port.status(driver);
    CHECK(port.cap().device_status == driver);
    port.features(bitmap | inflight);
    port.status(features_ok);
    CHECK(port.cap().device_status == features_ok);
    CHECK_FALSE(port.capability.registered());
    port.write(offsetof(pvdirty_cap, log_addr_lo), 0x5000);
    port.write(offsetof(pvdirty_cap, log_addr_hi), 0x1);
    port.write(offsetof(pvdirty_cap, log_pages), 3);
    port.status(driver_ok);
    CHECK(port.cap().device_status == driver_ok);
    CHECK(port.cap().error == PVDIRTY_OK);
    CHECK(port.capability.registered());
    REQUIRE(port.registrar.entered);
    CHECK(port.registrar.entered->features == (bitmap | inflight));
    CHECK(port.registrar.entered->log_addr == 0x100005000);
    CHECK(port.registrar.entered->log_pages == 3);
    CHECK(port.registrar.enters == 1);

    SECTION("the same status again asks for nothing") {
        port.status(driver_ok);
        CHECK(port.registrar.enters == 1);
        CHECK(port.cap().error == PVDIRTY_OK);
    }
    SECTION("status 0 puts everything back") {
        port.status(0);
        CHECK(port.registrar.leaves == 1);
        CHECK(port.capability.bytes() == Port().capability.bytes());
    }
}

TEST_CASE("capability: the status as an aligned word", "[capability]") {
    Port port;
    port.write(offsetof(pvdirty_cap, device_status), 0xabcdef00 | acknowledge, 4);
    CHECK(port.cap().device_status == acknowledge);
    CHECK(port.cap().reserved[0] == 0);
}

TEST_CASE("capability: several steps in one write", "[capability]") {
    Port port;
    port.features(bitmap | inflight);
    port.status(driver_ok);
    CHECK(port.cap().device_status == driver_ok);
    CHECK(port.registrar.enters == 1);
}

TEST_CASE("capability: status values that are refused", "[capability]") {
    const unsigned state =
        GENERATE(as<unsigned>{}, 0U, acknowledge, driver, features_ok, driver_ok);
    for (unsigned value = 1; value < 256; value++) {
        const bool step =
            value == acknowledge || value == driver || value == features_ok || value == driver_ok;
        if ((value & failed) != 0 || (step && (state & ~value) == 0)) {
            continue;
        }
        Port port;
        port.reach(state);
        INFO("state " << state << " value " << value);
        REQUIRE(port.cap().device_status == state);
        port.status(value);
        CHECK(port.cap().device_status == state);
        CHECK(port.cap().error == PVDIRTY_E_STATE);
        CHECK(port.capability.registered() == (state == driver_ok));
        CHECK(port.registrar.leaves == 0);
    }
}

TEST_CASE("capability: features that are refused", "[capability]") {
    const std::uint32_t wanted =
        GENERATE(as<std::uint32_t>{}, 0U, inflight, touch | inflight, 1U << 3, bitmap | 1U << 31);
    Port port;
    port.status(driver);
    port.features(wanted);
    port.status(features_ok);
    CHECK(port.cap().device_status == driver);
    CHECK(port.cap().error == PVDIRTY_E_FEATURES);

    // The guest may think again; the error stays until a reset.
    port.features(bitmap);
    port.status(features_ok);
    CHECK(port.cap().device_status == features_ok);
    CHECK(port.cap().error == PVDIRTY_E_FEATURES);
    port.status(0);
    CHECK(port.cap().error == PVDIRTY_OK);
}

TEST_CASE("capability: features that the port does not offer are refused", "[capability]") {
    Port port;
    port.capability = Capability(touch, 0);
    port.reach(features_ok, bitmap);
    CHECK(port.cap().device_status == driver);
    CHECK(port.cap().error == PVDIRTY_E_FEATURES);
}

TEST_CASE("capability: features that are taken", "[capability]") {
    const std::uint32_t wanted = GENERATE(as<std::uint32_t>{}, touch, bitmap, bitmap | inflight,
                                          touch | bitmap, touch | bitmap | inflight);
    Port port;
    port.reach(driver_ok, wanted);
    CHECK(port.cap().device_status == driver_ok);
    CHECK(port.capability.registration().features == wanted);
    CHECK(port.capability.registration().wants_log() == ((wanted & bitmap) != 0));
    CHECK(port.capability.registration().can_be_complete() == ((wanted & inflight) != 0));
}

TEST_CASE("capability: registers are read-only from their state on", "[capability]") {
    struct Rule {
        std::size_t offset;
        unsigned last_state;
    };
    const Rule rule = GENERATE(Rule{offsetof(pvdirty_cap, guest_features), driver},
                               Rule{offsetof(pvdirty_cap, log_addr_lo), features_ok},
                               Rule{offsetof(pvdirty_cap, log_addr_hi), features_ok},
                               Rule{offsetof(pvdirty_cap, log_pages), features_ok});
    const unsigned state =
        GENERATE(as<unsigned>{}, 0U, acknowledge, driver, features_ok, driver_ok);
    Port port;
    port.reach(state);
    REQUIRE(port.cap().device_status == state);
    auto expected = port.cap();
    port.write(rule.offset, 0x5a5a5a5a);
    if ((state & ~rule.last_state) == 0) {
        const std::uint32_t value = 0x5a5a5a5a;
        std::memcpy(reinterpret_cast<char*>(&expected) + rule.offset, &value, 4);
    } else {
        expected.error = PVDIRTY_E_STATE;
    }
    const pvdirty_cap after = port.cap();
    CHECK(std::memcmp(&after, &expected, sizeof(after)) == 0);
}

TEST_CASE("capability: DRIVER_OK that is refused leaves FEATURES_OK", "[capability]") {
    Port port;
    port.reach(features_ok);
    port.registrar.answer = PVDIRTY_E_LOG_SIZE;
    port.status(driver_ok);
    CHECK(port.cap().device_status == features_ok);
    CHECK(port.cap().error == PVDIRTY_E_LOG_SIZE);
    CHECK_FALSE(port.capability.registered());

    port.write(offsetof(pvdirty_cap, log_pages), 9);
    port.registrar.answer = PVDIRTY_OK;
    port.status(driver_ok);
    CHECK(port.capability.registered());
    CHECK(port.registrar.entered->log_pages == 9);
}

TEST_CASE("capability: FAILED at any time", "[capability]") {
    const unsigned state =
        GENERATE(as<unsigned>{}, 0U, acknowledge, driver, features_ok, driver_ok);
    const unsigned others = GENERATE(as<unsigned>{}, 0U, 0x7fU);
    Port port;
    port.reach(state);
    port.status(failed | others);
    CHECK(port.cap().device_status == (state | failed));
    CHECK(port.registrar.leaves == 1);
    CHECK_FALSE(port.capability.registered());

    port.status(driver_ok);
    CHECK(port.cap().error == PVDIRTY_E_STATE);
    port.features(bitmap);
    CHECK(port.cap().device_status == (state | failed));
    port.status(0);
    CHECK(port.cap().device_status == 0);
}

TEST_CASE("capability: nothing but a reset after the host has revoked", "[capability]") {
    Port port;
    port.reach(driver_ok);
    port.capability.revoke(PVDIRTY_E_LOG_GONE);
    CHECK(port.cap().device_status == (features_ok | needs_reset));
    CHECK(port.cap().error == PVDIRTY_E_LOG_GONE);
    CHECK_FALSE(port.capability.registered());
    for (const unsigned value : {driver_ok, driver_ok | needs_reset, features_ok | needs_reset}) {
        port.status(value);
        CHECK(port.cap().device_status == (features_ok | needs_reset));
        CHECK(port.cap().error == PVDIRTY_E_STATE);
    }
    port.write(offsetof(pvdirty_cap, log_pages), 9);
    CHECK(port.cap().log_pages == 0);
    port.status(0);
    port.reach(driver_ok);
    CHECK(port.capability.registered());
}
