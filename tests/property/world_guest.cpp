// SPDX-License-Identifier: MIT
/* What the guest and its devices do. */
#include "property/world.hpp"

#include <cstring>

#include <rapidcheck.h>

#include "property/layout.hpp"

namespace pvdirty::test {

std::optional<unsigned> World::any_device(unsigned number, bool tracked) const {
    for (unsigned i = 0; i < max_devices; i++) {
        const unsigned device = (number + i) % max_devices;
        if (devices_[device].host != nullptr && devices_[device].tracked == tracked) {
            return device;
        }
    }
    return std::nullopt;
}

World::Mapping* World::any_mapping(unsigned number, bool live) {
    for (std::size_t i = 0; i < mappings_.size(); i++) {
        Mapping& mapping = mappings_[(number + i) % mappings_.size()];
        if (mapping.live || !live) {
            return &mapping;
        }
    }
    return nullptr;
}

/* Does the log that the host reads say what this device does? */
bool World::seen_by_host(unsigned device) const {
    const Port* port = ports_[device % max_ports];
    return devices_[device].tracked && port != nullptr && port->capability().registered() &&
           domain_->log() && domain_->log()->addr() == logs_[kernel_]->addr();
}

void World::map(const Command& command) {
    const auto device = any_device(command.a, true);
    if (!device) {
        return;
    }
    const PageRange pages = pages_for(command.b, command.c);
    memory_.hold(pages);
    if (fault_ == Fault::guest_counts_late) {
        mappings_.push_back({*device, pages, true});
    }
    machine_.start(command.c % Machine::cpus, [this, device, pages] {
        pvd_hold(logs_[kernel_]->core(), pages.first, pages.last);
        if (fault_ != Fault::guest_counts_late) { // the driver gets the address now
            mappings_.push_back({*device, pages, devices_[*device].tracked});
        }
    });
}

void World::unmap(const Command& command) {
    const Mapping* mapping = any_mapping(command.a, false);
    if (mapping == nullptr) {
        return;
    }
    const PageRange pages = mapping->pages;
    mappings_.erase(mappings_.begin() + (mapping - mappings_.data()));
    machine_.start(command.c % Machine::cpus, [this, pages] {
        machine_.sees_completion();
        release(pages);
    });
}

void World::release(PageRange pages) {
    pvd_log* log = logs_[kernel_]->core();
    pvd_log lowers = *log;
    lowers.ctl = &silent_;
    switch (fault_) {
    case Fault::guest_lowers_first:
        pvd_release(&lowers, pages.first, pages.last);
        if (pvd_guest_logging(log)) {
            pvd_mark(log, pages.first, pages.last);
        }
        return;
    case Fault::guest_never_marks:
        return pvd_release(&lowers, pages.first, pages.last);
    default:
        return pvd_release(log, pages.first, pages.last);
    }
}

void World::sync(const Command& command) {
    const Mapping* mapping = any_mapping(command.a, true);
    if (mapping == nullptr) {
        return;
    }
    machine_.start(command.c % Machine::cpus, [this, pages = mapping->pages] {
        machine_.sees_completion();
        if (pvd_guest_logging(logs_[kernel_]->core())) {
            pvd_mark(logs_[kernel_]->core(), pages.first, pages.last);
        }
    });
}

void World::device_writes(const Command& command) {
    const Mapping* mapping = any_mapping(command.a, true);
    if (mapping == nullptr) {
        return;
    }
    const PageRange& pages = mapping->pages;
    memory_.write(pages.first + command.b % (pages.last - pages.first + 1));
    wrote_untracked_ = wrote_untracked_ || !seen_by_host(mapping->device);
}

/* A page that is mapped 255 times at once. */
void World::stick(const Command& command) {
    const auto device = any_device(command.a, true);
    if (!device) {
        return;
    }
    const PageRange page = pages_for(command.b, 0);
    memory_.hold(page);
    machine_.start(command.c % Machine::cpus, [this, device, page] {
        for (unsigned i = 0; i < PVDIRTY_COUNT_STUCK; i++) {
            pvd_hold(logs_[kernel_]->core(), page.first, page.last);
        }
        mappings_.push_back({*device, page, devices_[*device].tracked});
    });
}

std::uint32_t World::entry(unsigned device, pvdirty_dev_state state) {
    return state == PVDIRTY_DEV_FREE
               ? 0
               : PVDIRTY_DEV(rid_of(device), state,
                             state == PVDIRTY_DEV_TRACKED ? PVDIRTY_R_NONE : PVDIRTY_R_NO_DRIVER);
}

/* On the guest's CPU that does this for all devices: the kernel's locks let no two do it at once.
 */
void World::set_entry(unsigned device, pvdirty_dev_state state) {
    GuestLog& log = *logs_[kernel_];
    std::uint32_t* where = &log.control().devices[device];
    const bool gap =
        state == PVDIRTY_DEV_UNTRACKED && PVDIRTY_DEV_STATE(*where) != PVDIRTY_DEV_UNTRACKED;
    if (gap && fault_ == Fault::guest_hides_gap) {
        return;
    }
    if (gap && fault_ == Fault::guest_gap_before_entry) {
        pvd_gap(log.core());
    }
    machine_.store(where, entry(device, state));
    if (gap && fault_ != Fault::guest_gap_before_entry) {
        pvd_gap(log.core());
    }
}

void World::unbind(const Command& command) {
    machine_.finish(tracking_cpu);
    const auto device = any_device(command.a, true);
    if (!device) {
        return;
    }
    disturbed_ = true;
    machine_.start(tracking_cpu, [this, device] {
        disturbed_ = true;
        set_entry(*device, PVDIRTY_DEV_UNTRACKED);
        disturbed_ = true;
        devices_[*device].tracked = false;
        devices_[*device].stray = true;
    });
}

/* The new driver resets the device, which writes to no old mapping after that. */
void World::bind(const Command& command) {
    machine_.finish(tracking_cpu);
    const auto device = any_device(command.a, false);
    if (!device) {
        return;
    }
    disturbed_ = true;
    machine_.start(tracking_cpu, [this, device] {
        disturbed_ = true;
        for (Mapping& mapping : mappings_) {
            mapping.live = mapping.live && mapping.device != *device;
        }
        devices_[*device].stray = false;
        devices_[*device].tracked = devices_[*device].host != nullptr;
        set_entry(*device, PVDIRTY_DEV_TRACKED);
        disturbed_ = true;
    });
}

void World::retire(const Command& command) {
    machine_.finish(tracking_cpu);
    const auto device = any_device(command.a, true);
    if (!device) {
        return;
    }
    machine_.start(tracking_cpu, [this, device] {
        for (Mapping& mapping : mappings_) {
            mapping.live = mapping.live && mapping.device != *device;
        }
        devices_[*device].tracked = false;
        set_entry(*device, PVDIRTY_DEV_FREE);
    });
}

void World::stray_write(const Command& command) {
    for (unsigned i = 0; i < max_devices; i++) {
        const GuestDevice& device = devices_[(command.a + i) % max_devices];
        if (device.stray && device.host != nullptr) {
            memory_.write(pages_for(command.b, 0).first);
            wrote_untracked_ = true;
            return;
        }
    }
}

bool World::enter(unsigned port) {
    if (ports_[port] == nullptr) {
        return false;
    }
    const GuestLog& log = *logs_[kernel_];
    Port& p = *ports_[port];
    p.write(status_offset, 0, 1);
    p.write(status_offset, VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
    p.write(status_offset, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER, 1);
    p.write(offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
    const unsigned features_ok =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    p.write(status_offset, features_ok, 1);
    p.write(offsetof(pvdirty_cap, log_addr_lo), static_cast<std::uint32_t>(log.addr()), 4);
    p.write(offsetof(pvdirty_cap, log_addr_hi), static_cast<std::uint32_t>(log.addr() >> 32), 4);
    p.write(offsetof(pvdirty_cap, log_pages), log.pages(), 4);
    p.write(status_offset, features_ok | VIRTIO_CONFIG_S_DRIVER_OK, 1);
    return p.capability().registered();
}

/* A kernel comes up: what the one before left to its devices, they go on with. */
void World::boot() {
    disturbed_ = true;
    machine_.abandon();
    for (unsigned i = 0; i < max_devices; i++) {
        const bool busy = std::any_of(mappings_.begin(), mappings_.end(),
                                      [i](const Mapping& m) { return m.live && m.device == i; });
        devices_[i].stray = devices_[i].stray || busy;
        devices_[i].tracked = false;
    }
    mappings_.clear();
    for (Port* port : ports_) {
        if (port != nullptr) {
            port->enumerated();
        }
    }
    kernel_ ^= 1;
    const std::uint64_t addr = ram_gpa + kernel_ * log_bytes();
    logs_[kernel_].reset();
    std::memset(ram_.at<std::byte>(addr), 0, log_bytes());
    logs_[kernel_].emplace(ram_, addr, sections);
    log_copy_.all_dirty();
    for (unsigned port = 0; port < max_ports; port++) {
        RC_ASSERT(enter(port) == (ports_[port] != nullptr));
    }
}

} // namespace pvdirty::test
