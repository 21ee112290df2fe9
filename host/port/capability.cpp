// SPDX-License-Identifier: MIT
/* The port's registers and virtio's status handshake over them. */
#include "pvdirty/capability.hpp"

#include <cstddef>
#include <cstring>

#include "log/word.hpp"

namespace pvdirty {

namespace {

/* Status bits in the order in which a guest may set them. */
constexpr unsigned status_acknowledge = VIRTIO_CONFIG_S_ACKNOWLEDGE;
constexpr unsigned status_driver = status_acknowledge | VIRTIO_CONFIG_S_DRIVER;
constexpr unsigned status_features = status_driver | VIRTIO_CONFIG_S_FEATURES_OK;
constexpr unsigned status_running = status_features | VIRTIO_CONFIG_S_DRIVER_OK;
/* With one of these, only a reset helps. */
constexpr unsigned status_broken = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;

constexpr bool is_step(unsigned status) noexcept {
    return status == 0 || status == status_acknowledge || status == status_driver ||
           status == status_features || status == status_running;
}

constexpr std::uint32_t notify_offset = offsetof(pvdirty_cap, notify);
constexpr std::uint32_t status_offset = offsetof(pvdirty_cap, device_status);

constexpr std::uint32_t state_magic = 0x53505650; // "PVPS"
constexpr std::uint16_t state_version = 1;

/* Layout of a saved port, little-endian; what follows is 0. */
struct SavedPort {
    std::uint32_t magic;
    std::uint16_t version;
    std::uint16_t error;
    std::uint32_t guest_features;
    std::uint32_t log_addr_lo;
    std::uint32_t log_addr_hi;
    std::uint32_t log_pages;
    std::uint8_t status;
    std::uint8_t reserved[port_state_len - 25];
};
static_assert(sizeof(SavedPort) == port_state_len && offsetof(SavedPort, status) == 24);

} // namespace

Capability::Capability(std::uint32_t host_features, std::uint32_t domain) noexcept
    : host_features_(host_features & PVDIRTY_FEATURES_ALL), domain_(domain) {
    show();
}

void Capability::show() noexcept {
    pvdirty_cap cap{};
    cap.cap_len = PVDIRTY_CAP_LEN;
    cap.cfg_type = PVDIRTY_CAP_TYPE;
    cap.signature = little_endian<std::uint32_t>(PVDIRTY_CAP_SIGNATURE);
    cap.version = little_endian<std::uint16_t>(PVDIRTY_VERSION);
    cap.error = little_endian(error_);
    cap.host_features = little_endian(host_features_);
    cap.guest_features = little_endian(guest_features_);
    cap.domain = little_endian(domain_);
    cap.log_addr_lo = little_endian(log_addr_lo_);
    cap.log_addr_hi = little_endian(log_addr_hi_);
    cap.log_pages = little_endian(log_pages_);
    cap.device_status = status_;
    std::memcpy(bytes_.data(), &cap, bytes_.size());
}

bool Capability::registered() const noexcept {
    return status_ == status_running;
}

Registration Capability::registration() const noexcept {
    return {guest_features_, std::uint64_t{log_addr_hi_} << 32 | log_addr_lo_, log_pages_};
}

std::uint32_t Capability::features_in_use() const noexcept {
    return (status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0 ? guest_features_ : 0;
}

void Capability::reset() noexcept {
    guest_features_ = 0;
    log_addr_lo_ = 0;
    log_addr_hi_ = 0;
    log_pages_ = 0;
    error_ = PVDIRTY_OK;
    status_ = 0;
    show();
}

void Capability::revoke(pvdirty_error error) noexcept {
    status_ = static_cast<std::uint8_t>((status_ & ~unsigned{VIRTIO_CONFIG_S_DRIVER_OK}) |
                                        VIRTIO_CONFIG_S_NEEDS_RESET);
    refuse(error);
}

void Capability::refuse(pvdirty_error error) noexcept {
    error_ = static_cast<std::uint16_t>(error);
    show();
}

void Capability::write(std::uint32_t offset, std::uint32_t value, std::uint32_t len,
                       Registrar& registrar) {
    // The status is the only register narrower than 32 bits that can be written.
    if (offset == status_offset && (len == 1 || len == 4)) {
        write_status(static_cast<std::uint8_t>(value & 0xff), registrar);
        return;
    }
    if (len != 4) {
        return;
    }
    std::uint32_t* field = nullptr;
    unsigned writable_until = VIRTIO_CONFIG_S_DRIVER_OK;
    switch (offset) {
    case offsetof(pvdirty_cap, guest_features):
        field = &guest_features_;
        writable_until = VIRTIO_CONFIG_S_FEATURES_OK;
        break;
    case offsetof(pvdirty_cap, log_addr_lo):
        field = &log_addr_lo_;
        break;
    case offsetof(pvdirty_cap, log_addr_hi):
        field = &log_addr_hi_;
        break;
    case offsetof(pvdirty_cap, log_pages):
        field = &log_pages_;
        break;
    case notify_offset: // each harvest looks at the control page anyway
    default:
        return;
    }
    if ((status_ & (writable_until | status_broken)) != 0) {
        refuse(PVDIRTY_E_STATE);
        return;
    }
    *field = value;
    show();
}

bool Capability::features_valid() const noexcept {
    const bool counts = (guest_features_ & (1U << PVDIRTY_F_INFLIGHT)) != 0;
    const bool marks = (guest_features_ & (1U << PVDIRTY_F_BITMAP)) != 0;
    return guest_features_ != 0 && (guest_features_ & ~host_features_) == 0 && (!counts || marks);
}

void Capability::write_status(std::uint8_t value, Registrar& registrar) {
    if (value == 0) {
        registrar.leave();
        reset();
        return;
    }
    if ((value & VIRTIO_CONFIG_S_FAILED) != 0) {
        // The guest gives up; it may say so in any state.
        registrar.leave();
        status_ |= VIRTIO_CONFIG_S_FAILED;
        show();
        return;
    }
    // Bits are only added, without leaving one out, and never to a broken port.
    if (!is_step(value) || (status_ & ~value) != 0) {
        refuse(PVDIRTY_E_STATE);
        return;
    }
    status_ |= static_cast<std::uint8_t>(value & status_driver);
    if ((value & ~status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
        if (!features_valid()) {
            refuse(PVDIRTY_E_FEATURES);
            return;
        }
        status_ |= VIRTIO_CONFIG_S_FEATURES_OK;
    }
    if ((value & ~status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) {
        const pvdirty_error error = registrar.enter(registration());
        if (error != PVDIRTY_OK) {
            refuse(error);
            return;
        }
        status_ |= VIRTIO_CONFIG_S_DRIVER_OK;
    }
    show();
}

void Capability::save(std::span<std::uint8_t, port_state_len> out) const noexcept {
    SavedPort saved{};
    saved.magic = little_endian(state_magic);
    saved.version = little_endian(state_version);
    saved.error = little_endian(error_);
    saved.guest_features = little_endian(guest_features_);
    saved.log_addr_lo = little_endian(log_addr_lo_);
    saved.log_addr_hi = little_endian(log_addr_hi_);
    saved.log_pages = little_endian(log_pages_);
    saved.status = status_;
    std::memcpy(out.data(), &saved, sizeof(saved));
}

tl::expected<void, std::string> Capability::load(std::span<const std::uint8_t> in) {
    SavedPort saved{};

    reset();
    if (in.size() != sizeof(saved)) {
        return tl::unexpected("saved port state has " + std::to_string(in.size()) + " bytes, not " +
                              std::to_string(sizeof(saved)));
    }
    std::memcpy(&saved, in.data(), sizeof(saved));
    if (little_endian(saved.magic) != state_magic) {
        return tl::unexpected<std::string>("saved port state has no signature");
    }
    if (const unsigned version = little_endian(saved.version); version != state_version) {
        return tl::unexpected("saved port state has version " + std::to_string(version) +
                              ", this host reads " + std::to_string(state_version));
    }
    for (const std::uint8_t byte : saved.reserved) {
        if (byte != 0) {
            return tl::unexpected<std::string>("saved port state has reserved bytes that are set");
        }
    }
    const unsigned steps = saved.status & ~status_broken;
    const std::uint16_t error = little_endian(saved.error);
    // revoke() takes DRIVER_OK away, and nothing else sets NEEDS_RESET.
    const bool revoked = (saved.status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
    if (!is_step(steps) || (revoked && steps != status_features) || error > PVDIRTY_E_LOG_GONE) {
        return tl::unexpected<std::string>("saved port state has an impossible status or error");
    }
    guest_features_ = little_endian(saved.guest_features);
    if ((steps & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !features_valid()) {
        const std::uint32_t features = std::exchange(guest_features_, 0);
        return tl::unexpected("the guest uses features " + std::to_string(features) +
                              ", this port offers " + std::to_string(host_features_));
    }
    log_addr_lo_ = little_endian(saved.log_addr_lo);
    log_addr_hi_ = little_endian(saved.log_addr_hi);
    log_pages_ = little_endian(saved.log_pages);
    error_ = error;
    status_ = saved.status;
    show();
    return {};
}

} // namespace pvdirty
