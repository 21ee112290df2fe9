// SPDX-License-Identifier: MIT
#include "property/world.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include <rapidcheck.h>

namespace pvdirty::test {

namespace {

constexpr std::uint64_t ram_gpa = std::uint64_t{1} << 40;
constexpr std::uint64_t second = 2 * std::uint64_t{PVDIRTY_WINDOW_PAGES};

/* Neither section ends with a group, nor with a word. */
const std::vector<SectionSpec> sections = {{0, 1300}, {2, 600}};

/* Pages that share a word, a group or a section, or nothing; the last ones too. */
constexpr std::array<std::uint64_t, 15> places = {
    0,    1,    5,      63,         64,           511,          512,         1023,
    1279, 1298, second, second + 5, second + 511, second + 512, second + 598};

std::uint64_t log_bytes() {
    return (GuestLog::bytes(sections) + PVDIRTY_PAGE_SIZE - 1) & ~std::uint64_t{0xfff};
}

/* Some pages of one section; rarely some that none covers. */
PageRange pages_for(unsigned place, unsigned length) {
    constexpr std::array<std::uint64_t, 8> lengths = {1, 1, 1, 1, 2, 3, 70, 600};
    const std::uint64_t first = places[place % places.size()];
    const std::uint64_t window = first & ~std::uint64_t{PVDIRTY_WINDOW_PAGES - 1};
    const std::uint64_t end = window + (first < second ? 1300 : 600);
    if (length % 41 == 40) {
        return {end, end + 1};
    }
    return {first, std::min(first + lengths[length % lengths.size()], end) - 1};
}

int rid_of(unsigned device) {
    return 0x100 + static_cast<int>(device);
}

constexpr unsigned tracking_cpu = 0;

constexpr std::uint32_t status_offset = offsetof(pvdirty_cap, device_status);

} // namespace

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

/* ---- The guest ------------------------------------------------------------------------------ */

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

/* ---- The host ------------------------------------------------------------------------------- */

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
