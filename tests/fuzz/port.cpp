// SPDX-License-Identifier: MIT
#include "fuzz/port.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "fuzz/require.hpp"

namespace pvdirty::fuzz {

namespace {

constexpr unsigned features_ok =
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
constexpr unsigned driver_ok = features_ok | VIRTIO_CONFIG_S_DRIVER_OK;

} // namespace

void write_anything(Machine& machine, const ConfigWrite& write) {
    static const std::vector<std::uint32_t> statuses = {
        0, 1, 3, features_ok, driver_ok, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_NEEDS_RESET};
    Choices& choices = machine.choices;
    const auto any = static_cast<std::uint32_t>(choices.any());

    if (choices.chance(8)) {
        write(any, static_cast<std::uint32_t>(choices.any()),
              static_cast<std::uint32_t>(choices.any()));
        return;
    }
    const auto offset = static_cast<std::uint32_t>(choices.below(PVDIRTY_CAP_LEN + 8));
    std::uint32_t value = any;
    if (offset == offsetof(pvdirty_cap, device_status)) {
        value = choices.of(statuses);
    } else if (offset == offsetof(pvdirty_cap, guest_features)) {
        value = static_cast<std::uint32_t>(choices.below(16));
    }
    write(offset, value, 1U << choices.below(4));
}

void register_log(Machine& machine, const ConfigWrite& write) {
    Choices& choices = machine.choices;
    const Layout& layout = machine.guest.layout();
    const auto features =
        choices.below(2) == 0 ? PVDIRTY_FEATURES_LOG : static_cast<std::uint32_t>(choices.below(8));

    write(offsetof(pvdirty_cap, device_status), 0, 1);
    write(offsetof(pvdirty_cap, guest_features), features, 4);
    write(offsetof(pvdirty_cap, device_status), features_ok, 1);
    write(offsetof(pvdirty_cap, log_addr_lo), static_cast<std::uint32_t>(layout.addr), 4);
    write(offsetof(pvdirty_cap, log_addr_hi), static_cast<std::uint32_t>(layout.addr >> 32), 4);
    write(offsetof(pvdirty_cap, log_pages), static_cast<std::uint32_t>(layout.pages), 4);
    if (choices.chance(8)) {
        write_anything(machine, write);
    }
    write(offsetof(pvdirty_cap, device_status), driver_ok, 1);
}

pvdirty_cap read_capability(const std::uint8_t* bytes) {
    pvdirty_cap cap{};
    std::memcpy(&cap, bytes, sizeof(cap));
    return cap;
}

void require_legal(const pvdirty_cap& cap, std::uint32_t host_features, std::uint32_t domain) {
    PVDIRTY_REQUIRE(cap.cap_vndr == 0 && cap.cap_next == 0 && cap.cap_len == PVDIRTY_CAP_LEN);
    PVDIRTY_REQUIRE(cap.cfg_type == PVDIRTY_CAP_TYPE && cap.signature == PVDIRTY_CAP_SIGNATURE);
    PVDIRTY_REQUIRE(cap.version == PVDIRTY_VERSION && cap.notify == 0);
    PVDIRTY_REQUIRE(cap.host_features == host_features && cap.domain == domain);
    PVDIRTY_REQUIRE(cap.error <= PVDIRTY_E_LOG_GONE);
    PVDIRTY_REQUIRE(std::all_of(std::begin(cap.reserved), std::end(cap.reserved),
                                [](std::uint8_t byte) { return byte == 0; }));

    const unsigned steps =
        cap.device_status & ~unsigned{VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET};
    PVDIRTY_REQUIRE(steps == 0 || steps == 1 || steps == 3 || steps == features_ok ||
                    steps == driver_ok);
    // Only what was registered needs a reset, and DRIVER_OK is taken away then.
    PVDIRTY_REQUIRE((cap.device_status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0 || steps == features_ok);
    if ((steps & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
        const bool marks = (cap.guest_features & 1U << PVDIRTY_F_BITMAP) != 0;
        const bool counts = (cap.guest_features & 1U << PVDIRTY_F_INFLIGHT) != 0;
        PVDIRTY_REQUIRE(cap.guest_features != 0 && (cap.guest_features & ~host_features) == 0);
        PVDIRTY_REQUIRE(marks || !counts);
    }
}

bool is_registered(const pvdirty_cap& cap) {
    return cap.device_status == driver_ok;
}

bool uses_log(const pvdirty_cap& cap) {
    return is_registered(cap) && (cap.guest_features & 1U << PVDIRTY_F_BITMAP) != 0;
}

bool can_be_complete(const pvdirty_cap& cap) {
    return uses_log(cap) && (cap.guest_features & 1U << PVDIRTY_F_INFLIGHT) != 0;
}

std::uint64_t log_addr(const pvdirty_cap& cap) {
    return std::uint64_t{cap.log_addr_hi} << 32 | cap.log_addr_lo;
}

} // namespace pvdirty::fuzz
