// SPDX-License-Identifier: MIT
/* Ports, devices and the registration of the log. */
#include "pvdirty/domain.hpp"

#include <algorithm>
#include <utility>

#include "pvdirty/error.hpp"

namespace pvdirty {

Device::Device(Port& port, const std::string& name, RidFunction rid)
    : port_(&port), label_(name + " (below " + port.name() + ")"), rid_(std::move(rid)) {}

Port::Port(Domain& domain, std::string name, std::uint32_t host_features)
    : domain_(domain), name_(std::move(name)), capability_(host_features, domain.id()) {}

void Port::write(std::uint32_t offset, std::uint32_t value, std::uint32_t len) {
    capability_.write(offset, value, len, *this);
}

void Port::reset() {
    leave();
    capability_.reset();
}

void Port::enumerated() {
    // A port that nobody registered is new to this kernel too: hot-plugged, or at boot.
    if (capability_.registered()) {
        domain_.drop_registration(PVDIRTY_OK);
    }
}

void Port::save(std::span<std::uint8_t, port_state_len> out) const noexcept {
    capability_.save(out);
}

tl::expected<void, std::string> Port::load(std::span<const std::uint8_t> in) {
    domain_.leave_log(*this);
    if (auto loaded = capability_.load(in); !loaded) {
        domain_.latch(name_ + ": " + loaded.error());
        return loaded;
    }
    if (capability_.registered() && capability_.registration().wants_log()) {
        // The logging word stays as it came: both sides' RAM is equal until this one runs.
        const pvdirty_error error = domain_.join_log(*this, capability_.registration(), false);
        if (error != PVDIRTY_OK) {
            capability_.revoke(error);
            domain_.latch(name_ + ": the log is refused here: " + std::string(describe(error)));
        }
    }
    domain_.latch(name_ + ": its state was loaded while pages were logged");
    return {};
}

pvdirty_error Port::enter(const Registration& registration) {
    if (registration.wants_log()) {
        const pvdirty_error error = domain_.join_log(*this, registration, true);
        if (error != PVDIRTY_OK) {
            return error;
        }
    }
    domain_.latch(name_ + ": the guest registered the port while pages were logged");
    return PVDIRTY_OK;
}

void Port::leave() {
    domain_.leave_log(*this);
    domain_.latch(name_ + ": the port was reset, or the guest left it");
}

Port& Domain::add_port(std::string name, std::uint32_t host_features) {
    return ports_.emplace_back(*this, std::move(name), host_features);
}

void Domain::remove_port(Port& port) {
    if (port.capability().registered()) {
        latch(port.name_ + ": was unplugged while pages were logged");
        port.leave();
    }
    for (auto next = devices_.begin(); next != devices_.end();) {
        const auto device = next++;
        if (device->port_ == &port) {
            device->port_ = nullptr;
            unplugged_.splice(unplugged_.end(), devices_, device);
        }
    }
    ports_.remove_if([&](const Port& other) { return &other == &port; });
}

Device& Domain::add_device(Port& port, const std::string& name, RidFunction rid) {
    Device& device = devices_.emplace_back(port, name, std::move(rid));
    exposed_ = true;
    latch(device.label() + ": plugged in while pages were logged");
    return device;
}

void Domain::remove_device(Device& device) {
    unplug_device(device);
    hold_for(device, false);
    unplugged_.remove_if([&](const Device& other) { return &other == &device; });
}

void Domain::set_migratable(Device& device, bool migratable) noexcept {
    device.migratable_ = migratable;
}

void Domain::hold_for(Device& device, bool hold) noexcept {
    if (std::exchange(device.held_for_, hold) != hold) {
        held_.fetch_add(hold ? 1U : -1U, std::memory_order_relaxed);
    }
}

const Device* Domain::unmigratable() const noexcept {
    for (const auto* list : {&devices_, &unplugged_}) {
        for (const Device& device : *list) {
            if (!device.migratable_ && !device.held_for_) {
                return &device;
            }
        }
    }
    return nullptr;
}

const Device* Domain::in_the_way() const noexcept {
    for (const auto* list : {&devices_, &unplugged_}) {
        for (const Device& device : *list) {
            if (device.held_for_ || !device.migratable_) {
                return &device;
            }
        }
    }
    return nullptr;
}

void Domain::ram_removed(std::uint64_t gpa, std::uint64_t len) {
    if (log_ && log_->uses(gpa, len)) {
        drop_registration(PVDIRTY_E_LOG_GONE);
    }
}

/* Attaches the log, or joins the one that is there. */
pvdirty_error Domain::join_log(Port& port, const Registration& registration, bool publish) {
    if (log_) {
        if (log_->addr() != registration.log_addr || log_->pages() != registration.log_pages) {
            return PVDIRTY_E_LOG_BUSY;
        }
    } else {
        auto log =
            Log::attach(memory_, registration.log_addr, registration.log_pages, max_sections_);
        if (!log) {
            return log.error();
        }
        log_ = std::move(*log);
        gaps_seen_ = log_->gaps();
        if (publish) {
            running();
        }
    }
    port.uses_log_ = true;
    return PVDIRTY_OK;
}

void Domain::leave_log(Port& port) {
    const bool used = std::exchange(port.uses_log_, false);
    if (used && std::none_of(ports_.begin(), ports_.end(),
                             [](const Port& other) { return other.uses_log_; })) {
        drop_log();
    }
}

/*
 * Nothing is written to the log here: its memory may belong to somebody else by now (a new kernel,
 * firmware). A logging word that stays 1 only makes the guest mark for nobody.
 */
void Domain::drop_log() {
    log_.reset();
    for (Device& device : devices_) {
        device.tracked_rid_ = -1;
    }
}

/* All ports at once; error PVDIRTY_OK puts their registers back to power-on values. */
void Domain::drop_registration(pvdirty_error error) {
    for (Port& port : ports_) {
        if (error == PVDIRTY_OK) {
            port.capability_.reset();
        } else if (port.uses_log_) {
            port.capability_.revoke(error);
        }
        port.uses_log_ = false;
    }
    drop_log();
    latch(error == PVDIRTY_OK ? "a new kernel enumerates the ports: the registration is dropped"
                              : std::string(describe(error)));
}

} // namespace pvdirty
