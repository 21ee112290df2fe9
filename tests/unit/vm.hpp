// SPDX-License-Identifier: MIT
/** A VM with two ports for the session's tests, and what its guest does. */
#ifndef PVDIRTY_TESTS_UNIT_VM_HPP
#define PVDIRTY_TESTS_UNIT_VM_HPP

#include <cstddef>
#include <cstring>

#include "guest/guest_log.hpp"
#include "pvdirty/domain.hpp"

namespace pvdirty::test {

inline constexpr std::uint32_t feature_touch = 1U << PVDIRTY_F_TOUCH;
inline constexpr std::uint32_t feature_bitmap = 1U << PVDIRTY_F_BITMAP;
inline constexpr std::uint32_t feature_inflight = 1U << PVDIRTY_F_INFLIGHT;

inline constexpr unsigned status_features_ok =
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
inline constexpr unsigned status_driver_ok = status_features_ok | VIRTIO_CONFIG_S_DRIVER_OK;

/** The capability as the guest reads it. */
inline pvdirty_cap read_cap(const Port& port) {
    pvdirty_cap cap{};
    std::memcpy(&cap, port.capability().bytes().data(), sizeof(cap));
    return cap;
}

/** Registers a log through a port, from power-on. */
inline void register_port(Port& port, std::uint64_t addr, std::uint32_t pages,
                          std::uint32_t features = PVDIRTY_FEATURES_LOG) {
    port.write(offsetof(pvdirty_cap, device_status), 0, 1);
    port.write(offsetof(pvdirty_cap, guest_features), features, 4);
    port.write(offsetof(pvdirty_cap, log_addr_lo), static_cast<std::uint32_t>(addr), 4);
    port.write(offsetof(pvdirty_cap, log_addr_hi), static_cast<std::uint32_t>(addr >> 32), 4);
    port.write(offsetof(pvdirty_cap, log_pages), pages, 4);
    port.write(offsetof(pvdirty_cap, device_status), status_driver_ok, 1);
}

inline void unregister_port(Port& port) {
    port.write(offsetof(pvdirty_cap, device_status), 0, 1);
}

/** Ports rp0 with device net0 at routing id 0x100, and rp1, empty. */
struct Vm {
    Guest guest{{{0, PVDIRTY_WINDOW_PAGES}, {4, 4096}}};
    Domain domain{guest.ram, 1};
    Port& rp0 = domain.add_port("rp0", PVDIRTY_FEATURES_ALL);
    Port& rp1 = domain.add_port("rp1", PVDIRTY_FEATURES_ALL);
    int net0_rid = 0x100;
    Device& net0 = domain.add_device(rp0, "net0", [this] { return net0_rid; });

    void entry(std::size_t index, int rid, pvdirty_dev_state state,
               pvdirty_dev_reason reason = PVDIRTY_R_NONE) const {
        guest.log.control().devices[index] = PVDIRTY_DEV(rid, state, reason);
    }
    void register_both() {
        register_port(rp0, guest.log.addr(), guest.log.pages());
        register_port(rp1, guest.log.addr(), guest.log.pages());
    }
    /** All is well: both ports registered, the device tracked. */
    void track() {
        entry(7, 0x100, PVDIRTY_DEV_TRACKED);
        register_both();
    }
    HarvestResult harvest() { return domain.harvest({}, {}); }
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_VM_HPP
