// SPDX-License-Identifier: MIT
/* What the VMM does, and what must hold at each stop. */
#include "property/world.hpp"

#include <string>

#include <rapidcheck.h>

#include "property/layout.hpp"

namespace pvdirty::test {

void World::start(const Command& command) {
    if (migrating_) {
        return;
    }
    const bool log_first = command.c % 2 != 0;
    memory_.all_dirty();
    log_copy_.all_dirty();
    if (fault_ == Fault::host_reads_before_publish) {
        memory_.send_all();
        for (unsigned i = command.a % 6;
             i > 0 && next_ < commands_->size() && (*commands_)[next_].is_guests(); i--) {
            execute((*commands_)[next_++]);
        }
    }
    disturbed_ = false;
    every_ = command.b % 12 + 1;
    interrupts_ = command.a % 6;
    domain_->set_logging(log_first ? Logger::dirty_log : Logger::session, true);
    domain_->set_logging(log_first ? Logger::session : Logger::dirty_log, true);
    interrupts_ = 0;
    migrating_ = true;
    wrote_untracked_ = false;
    disturbed_ = disturbed_ || domain_->why_incomplete().has_value();
    gaps_at_start_ = logs_[kernel_]->control().gaps;
    if (command.b % 4 != 0) { // the first pass, or some of it later
        memory_.send_all();
    }
}

HarvestResult World::take(bool last) {
    memory_.keep_old();
    unsigned in_flight_saves = 0;
    unsigned mark_saves = 0;
    auto in_flight = [&](std::uint64_t first, std::uint64_t mask) {
        if (last && fault_ != Fault::host_forgets_in_flight) {
            in_flight_saves += memory_.report(first, mask) ? 1 : 0;
        }
    };
    auto marked = [&](std::uint64_t first, std::uint64_t mask) {
        if (fault_ == Fault::host_copies_first) {
            memory_.send_old(first, mask);
        } else {
            mark_saves += memory_.report(first, mask) ? 1 : 0;
        }
    };
    const HarvestResult result = domain_->harvest(PageSink(in_flight), PageSink(marked));
    tally_.saved_in_flight += in_flight_saves != 0 ? 1 : 0;
    tally_.saved_by_marks += mark_saves != 0 ? 1 : 0;
    return result;
}

void World::stop(const Command& command) {
    if (!migrating_) {
        return;
    }
    const HarvestResult result = take(true);
    if (result.all_dirty && fault_ != Fault::host_ignores_all_dirty) {
        memory_.all_dirty();
    }
    memory_.send_all();
    log_copy_.host_wrote(fault_ != Fault::host_keeps_its_writes);
    log_copy_.send();
    check_stop(result);
    if (command.a % 2 != 0) {
        arrive();
    } else {
        end_migration();
    }
}

void World::check_stop(const HarvestResult& result) {
    const pvdirty_log& control = logs_[kernel_]->control();
    disturbed_ = disturbed_ || control.incomplete != 0 || control.gaps != gaps_at_start_;
    tally_.stops++;
    tally_.all_dirty += result.all_dirty ? 1 : 0;
    tally_.stray += wrote_untracked_ ? 1 : 0;
    tally_.undisturbed += disturbed_ ? 0 : 1;
    tally_.parked += machine_.idle() ? 0 : 1;

    const PageSet pages_lost = memory_.lost();
    RC_ASSERT(pages_lost.empty());
    const bool log_is_the_same = log_copy_.same();
    RC_ASSERT(log_is_the_same);
    const bool untracked_and_quiet = wrote_untracked_ && !result.all_dirty;
    RC_ASSERT_FALSE(untracked_and_quiet);
    const bool all_dirty_without_cause = result.all_dirty && !disturbed_;
    RC_ASSERT_FALSE(all_dirty_without_cause);
    const bool reported_a_page_never_held = memory_.reported_unheld();
    RC_ASSERT_FALSE(reported_a_page_never_held);
}

void World::end_migration() {
    if (migrating_) {
        migrating_ = false;
        domain_->set_logging(Logger::session, false);
        domain_->set_logging(Logger::dirty_log, false);
    }
}

/* The VM goes on at the destination, whose RAM is the same: check_stop() saw to that. */
void World::arrive() {
    std::array<std::array<std::uint8_t, port_state_len>, max_ports> states{};
    std::array<bool, max_ports> registered{};
    for (unsigned i = 0; i < max_ports; i++) {
        if (ports_[i] != nullptr) {
            ports_[i]->save(states[i]);
            registered[i] = ports_[i]->capability().registered();
        }
    }
    migrating_ = false;
    domain_ = std::make_unique<Domain>(ram_, 1);
    ram_.take_written();
    for (unsigned i = 0; i < max_ports; i++) {
        ports_[i] = ports_[i] == nullptr
                        ? nullptr
                        : &domain_->add_port("rp" + std::to_string(i), PVDIRTY_FEATURES_ALL);
    }
    for (unsigned i = 0; i < max_devices; i++) {
        if (devices_[i].host != nullptr) {
            devices_[i].host =
                &domain_->add_device(*ports_[i % max_ports], "dev", [i] { return rid_of(i); });
        }
    }
    for (unsigned i = 0; i < max_ports; i++) {
        if (ports_[i] != nullptr) {
            RC_ASSERT(ports_[i]->load(states[i]).has_value());
            RC_ASSERT(ports_[i]->capability().registered() == registered[i]);
        }
    }
    const bool log_was_left_alone = ram_.take_written().empty() && log_copy_.same();
    RC_ASSERT(log_was_left_alone);
    domain_->running();
    tally_.arrived++;
}

/*
 * The controller of the slot gives it away again when the guest has seen that the old device is
 * gone. What the new one does before it has a driver, nobody knows.
 */
void World::plug(const Command& command) {
    const unsigned device = command.a % max_devices;
    Port* port = ports_[device % max_ports];
    if (port != nullptr && devices_[device].host == nullptr) {
        disturbed_ = true;
        if (logs_[kernel_]) {
            machine_.start(tracking_cpu, [this, device] { set_entry(device, PVDIRTY_DEV_FREE); });
            machine_.finish(tracking_cpu);
        }
        devices_[device].host =
            &domain_->add_device(*port, "dev", [device] { return rid_of(device); });
        devices_[device].stray = command.b % 2 != 0;
    }
}

/* The device stops; its driver unmaps later what it had mapped. */
void World::unplug(unsigned device) {
    if (devices_[device].host == nullptr) {
        return;
    }
    domain_->remove_device(*std::exchange(devices_[device], {}).host);
    for (Mapping& mapping : mappings_) {
        mapping.live = mapping.live && mapping.device != device;
    }
}

void World::unplug_port(unsigned port) {
    if (ports_[port] == nullptr) {
        return;
    }
    disturbed_ = true;
    domain_->remove_port(*std::exchange(ports_[port], nullptr));
    for (unsigned device = port; device < max_devices; device += max_ports) {
        devices_[device] = {};
        for (Mapping& mapping : mappings_) {
            mapping.live = mapping.live && mapping.device != device;
        }
    }
}

} // namespace pvdirty::test
