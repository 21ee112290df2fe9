// SPDX-License-Identifier: MIT
#include "property/world.hpp"

#include <rapidcheck.h>

#include "property/layout.hpp"

namespace pvdirty::test {

World::World(Fault fault)
    : fault_(fault), ram_(ram_gpa, 2 * log_bytes()), domain_(std::make_unique<Domain>(ram_, 1)),
      memory_(sections), log_copy_(ram_) {
    machine_.on_host_access([this](const void* /*where*/) { interrupt(); });
    machine_.on_guest_write([this](const void* where) { log_copy_.guest_wrote(where); });
    ports_[0] = &domain_->add_port("rp0", PVDIRTY_FEATURES_ALL);
    ports_[1] = &domain_->add_port("rp1", PVDIRTY_FEATURES_ALL);
    for (unsigned device : {0, 1}) {
        plug({.kind = Command::plug, .a = device});
    }
    boot();
    for (unsigned device : {0, 1}) {
        bind({.kind = Command::bind, .a = device});
        machine_.finish(tracking_cpu);
    }
}

void World::run(const std::vector<Command>& commands) {
    commands_ = &commands;
    for (next_ = 0; next_ < commands.size();) {
        execute(commands[next_++]);
    }
    if (migrating_) {
        stop({});
    }
}

/* The guest's next commands, in the middle of one of the host's. */
void World::interrupt() {
    if (interrupts_ == 0 || ++accesses_ % every_ != 0 || next_ >= commands_->size() ||
        !(*commands_)[next_].is_guests()) {
        return;
    }
    interrupts_--;
    execute((*commands_)[next_++]);
}

void World::execute(const Command& command) {
    const unsigned cpu = command.a % Machine::cpus;
    const unsigned port = command.a % max_ports;
    const unsigned device = command.a % max_devices;
    switch (command.kind) {
    case Command::map:
        return map(command);
    case Command::unmap:
        return unmap(command);
    case Command::sync:
        return sync(command);
    case Command::write:
        return device_writes(command);
    case Command::stick:
        return stick(command);
    case Command::step:
        return machine_.step(cpu, command.b % 6 + 1, command.c % 2 != 0);
    case Command::finish:
        return machine_.finish(cpu);
    case Command::unbind:
        return unbind(command);
    case Command::bind:
        return bind(command);
    case Command::retire:
        return retire(command);
    case Command::stray:
        return stray_write(command);
    case Command::start:
        return start(command);
    case Command::harvest:
        every_ = command.b % 12 + 1;
        interrupts_ = command.a % 6;
        take(false);
        interrupts_ = 0;
        if (command.c % 4 != 0) {
            memory_.send_all();
        }
        return;
    case Command::copy:
        memory_.send(command.b * 2);
        if (command.c % 2 != 0) {
            log_copy_.host_wrote(fault_ != Fault::host_keeps_its_writes);
            log_copy_.send();
        }
        return;
    case Command::stop:
        return stop(command);
    case Command::cancel:
        return end_migration();
    case Command::enter:
        disturbed_ = true;
        enter(port);
        return;
    case Command::leave:
        disturbed_ = true;
        if (ports_[port] != nullptr) {
            ports_[port]->write(status_offset, 0, 1);
        }
        return;
    case Command::reset_port:
        disturbed_ = true;
        if (ports_[port] != nullptr) {
            ports_[port]->reset();
        }
        return;
    case Command::reset:
        for (Port* each : ports_) {
            if (each != nullptr) {
                each->reset();
            }
        }
        for (GuestDevice& each : devices_) {
            each.stray = false;
        }
        mappings_.clear();
        return boot();
    case Command::crash:
        return boot();
    case Command::plug:
        return plug(command);
    case Command::unplug:
        return unplug(device);
    case Command::plug_port:
        if (ports_[port] == nullptr) {
            ports_[port] = &domain_->add_port("rp" + std::to_string(port), PVDIRTY_FEATURES_ALL);
        }
        return;
    case Command::unplug_port:
        return unplug_port(port);
    case Command::log_gone:
        disturbed_ = true;
        return domain_->ram_removed(logs_[kernel_]->addr(), 1);
    }
}

} // namespace pvdirty::test
