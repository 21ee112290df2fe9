// SPDX-License-Identifier: MIT
/*
 * Fuzz target: config-space accesses to the ports of one domain in any order and size, and all
 * else that happens to a domain, with guest RAM changing underneath. A plain account of what must
 * be "all dirty" runs along.
 */
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>

#include "fuzz/guest.hpp"
#include "fuzz/pages.hpp"
#include "fuzz/port.hpp"
#include "fuzz/require.hpp"
#include "pvdirty/domain.hpp"

namespace pvdirty::fuzz {

namespace {

constexpr std::uint32_t domain_id = 7;

struct PluggedDevice {
    int rid = -1;
    Device* device = nullptr;
    Port* port = nullptr;
};

struct PluggedPort {
    Port* port = nullptr;
    std::uint32_t features = 0;
};

class Vm {
public:
    explicit Vm(Machine& machine) : machine_(machine), domain_(machine.ram, domain_id) {
        plug_port(PVDIRTY_FEATURES_ALL);
        plug_port(static_cast<std::uint32_t>(choose(8)));
        if (machine.choices.chance(8)) {
            limit_ = static_cast<std::uint32_t>(choose(8));
            domain_.limit_sections(limit_);
        }
        machine.start_cpu();
    }

    void step();

private:
    std::uint64_t choose(std::uint64_t n) { return machine_.choices.below(n); }
    static pvdirty_cap cap(const Port& port) {
        return read_capability(port.capability().bytes().data());
    }
    PluggedPort& any_port();

    void plug_port(std::uint32_t features);
    void plug_or_unplug();
    void config(Port& port, std::uint32_t offset, std::uint32_t value, std::uint32_t len);
    void reset_or_enumerate();
    void unplug_ram();
    void set_logging();
    void harvest();
    void save_and_load();
    void look();

    void happened();
    void begin();
    [[nodiscard]] bool devices_seen_untracked() const;
    [[nodiscard]] std::uint32_t control(std::uint64_t offset) const;
    void require_state();

    Machine& machine_;
    Domain domain_;
    std::uint32_t limit_ = PVDIRTY_MAX_SECTIONS;
    std::list<PluggedPort> ports_;
    std::list<PluggedDevice> devices_;
    bool global_ = false, session_ = false; // who logs

    // The account: what the domain must have latched since logging started.
    bool exposed_ = false;
    bool must_be_dirty_ = false;
    bool was_dirty_ = false;
};

PluggedPort& Vm::any_port() {
    return *std::next(ports_.begin(), static_cast<std::ptrdiff_t>(choose(ports_.size())));
}

/* Something that could have hidden a device's writes. */
void Vm::happened() {
    must_be_dirty_ = must_be_dirty_ || exposed_;
}

void Vm::begin() {
    exposed_ = !devices_.empty();
    must_be_dirty_ = false;
    was_dirty_ = false;
}

void Vm::plug_port(std::uint32_t features) {
    ports_.push_back({&domain_.add_port("port", features), features});
}

void Vm::config(Port& port, std::uint32_t offset, std::uint32_t value, std::uint32_t len) {
    const pvdirty_cap before = cap(port);
    port.write(offset, value, len);
    const pvdirty_cap after = cap(port);
    const bool status = offset == offsetof(pvdirty_cap, device_status) && (len == 1 || len == 4);

    if (!status) {
        PVDIRTY_REQUIRE(before.device_status == after.device_status);
        return;
    }
    const unsigned wanted = value & 0xff;
    if (wanted == 0) {
        PVDIRTY_REQUIRE(after.device_status == 0 && after.error == PVDIRTY_OK);
    }
    if (wanted == 0 || (wanted & VIRTIO_CONFIG_S_FAILED) != 0 ||
        is_registered(before) != is_registered(after)) {
        happened();
    }
}

void Vm::reset_or_enumerate() {
    Port& port = *any_port().port;
    if (choose(2) == 0) {
        port.reset();
        PVDIRTY_REQUIRE(cap(port).device_status == 0);
        happened();
        return;
    }
    const bool registered = is_registered(cap(port));
    port.enumerated();
    if (registered) {
        happened();
        PVDIRTY_REQUIRE(!domain_.log());
        for (const PluggedPort& other : ports_) {
            PVDIRTY_REQUIRE(cap(*other.port).device_status == 0);
        }
    }
}

void Vm::plug_or_unplug() {
    switch (choose(4)) {
    case 0: {
        PluggedDevice& device = devices_.emplace_back();
        device.rid = static_cast<int>(choose(4));
        device.port = any_port().port;
        device.device =
            &domain_.add_device(*device.port, "device", [&device] { return device.rid; });
        exposed_ = true;
        happened();
        break;
    }
    case 1:
        if (!devices_.empty()) {
            const bool untracked = !can_be_complete(cap(*devices_.front().port));
            domain_.remove_device(*devices_.front().device);
            devices_.pop_front();
            if (untracked) {
                happened();
            }
        }
        break;
    case 2:
        if (!devices_.empty()) {
            devices_.front().rid = static_cast<int>(choose(5)) - 1;
        }
        break;
    default:
        if (ports_.size() > 1) {
            Port* port = ports_.front().port;
            if (is_registered(cap(*port))) {
                happened();
            }
            domain_.remove_port(*port);
            devices_.remove_if([port](const PluggedDevice& device) { return device.port == port; });
            ports_.pop_front();
        } else {
            plug_port(PVDIRTY_FEATURES_ALL);
        }
    }
}

void Vm::unplug_ram() {
    if (choose(4) == 0) {
        const Area area{machine_.guest.any_gpa(), choose(1U << 20)};
        const bool used = machine_.ram.holds_any_of(area);
        domain_.ram_removed(area.gpa, area.len);
        PVDIRTY_REQUIRE(!machine_.ram.holds_any_of(area));
        if (used) {
            happened();
        }
        return;
    }
    const std::size_t index = choose(machine_.ram.regions());
    const Area& region = machine_.ram.region(index);
    machine_.ram.unplug(index);
    if (machine_.ram.holds_any_of(region)) {
        happened();
    }
    domain_.ram_removed(region.gpa, region.len);
    PVDIRTY_REQUIRE(!machine_.ram.holds_any_of(region));
}

void Vm::set_logging() {
    const bool is_session = choose(2) == 0;
    bool& logger = is_session ? session_ : global_;
    const bool on = choose(4) != 0;
    const bool was_logging = global_ || session_;
    const bool comes = on && !logger;
    const bool starts = comes && (is_session || !was_logging);

    domain_.set_logging(is_session ? Logger::session : Logger::dirty_log, on);
    logger = on;
    if (starts) {
        begin();
    }
    PVDIRTY_REQUIRE(domain_.logging() == (global_ || session_));
    if (machine_.quiet() && domain_.log() && (comes || was_logging != domain_.logging())) {
        PVDIRTY_REQUIRE(control(offsetof(pvdirty_log, logging)) == (domain_.logging() ? 1 : 0));
    }
}

/* A 32-bit word of the log's control page, for a guest that is quiet. */
std::uint32_t Vm::control(std::uint64_t offset) const {
    return static_cast<std::uint32_t>(machine_.ram.peek(domain_.log()->addr() + offset, 4));
}

/* Is there a device that cannot be tracked, by what the host itself can see? */
bool Vm::devices_seen_untracked() const {
    return std::any_of(devices_.begin(), devices_.end(), [](const PluggedDevice& device) {
        return !can_be_complete(cap(*device.port));
    });
}

void Vm::harvest() {
    const auto covers = [this](std::uint64_t pfn) {
        return domain_.log() && domain_.log()->in_flight(pfn).has_value();
    };
    PageCollector in_flight(covers, [this] { machine_.disturb(); });
    PageCollector marked(covers, [this] { machine_.disturb(); });
    const bool unenumerated = std::any_of(devices_.begin(), devices_.end(),
                                          [](const PluggedDevice& d) { return d.rid < 0; });

    if (devices_seen_untracked() || unenumerated ||
        (machine_.quiet() && domain_.log() && control(offsetof(pvdirty_log, incomplete)) != 0)) {
        happened();
    }
    const HarvestResult result = domain_.harvest(PageSink(in_flight), PageSink(marked));
    in_flight.require_sound(result.pages_in_flight, all_pages);
    marked.require_sound(result.pages_marked, all_pages);
    PVDIRTY_REQUIRE(result.all_dirty || (!must_be_dirty_ && !was_dirty_));
    PVDIRTY_REQUIRE(result.all_dirty == !domain_.latched().empty());
    PVDIRTY_REQUIRE(domain_.pending() == (result.all_dirty ? UINT64_MAX : result.pages_in_flight));
    PVDIRTY_REQUIRE(!result.all_dirty || exposed_);
    was_dirty_ = result.all_dirty;
}

/* A port's state goes away and comes back, as in a migration to this host. */
void Vm::save_and_load() {
    Port& port = *any_port().port;
    std::array<std::uint8_t, port_state_len> state{};
    port.save(state);
    const bool loaded = port.load(state).has_value();
    PVDIRTY_REQUIRE(loaded);
    happened();
}

void Vm::look() {
    const auto why = domain_.why_incomplete();
    PVDIRTY_REQUIRE(!why || !why->empty());
    PVDIRTY_REQUIRE(why || !devices_seen_untracked());
    static_cast<void>(domain_.page_in_flight(machine_.guest.any_pfn()));
    domain_.running();
    if (machine_.quiet() && domain_.log()) {
        PVDIRTY_REQUIRE((control(offsetof(pvdirty_log, logging)) != 0) == domain_.logging());
    }
}

/* What holds between any two calls. */
void Vm::require_state() {
    bool used = false;
    for (const PluggedPort& plugged : ports_) {
        const pvdirty_cap here = cap(*plugged.port);
        require_legal(here, plugged.features, domain_id);
        if (uses_log(here)) {
            used = true;
            PVDIRTY_REQUIRE(domain_.log() && domain_.log()->addr() == log_addr(here) &&
                            domain_.log()->pages() == here.log_pages);
        }
    }
    PVDIRTY_REQUIRE(used == domain_.log().has_value());
    PVDIRTY_REQUIRE(!used || domain_.log()->sections() <= limit_);
    PVDIRTY_REQUIRE(!must_be_dirty_ || !domain_.latched().empty());
    require_holds(machine_.ram, domain_.log() ? domain_.log()->sections() : 0);
    // An attach holds each area of its table once.
    PVDIRTY_REQUIRE(machine_.ram.take_hold_calls() <= 1 + 2 * PVDIRTY_MAX_SECTIONS);
    machine_.ram.take_written();
}

void Vm::step() {
    Port& port = *any_port().port;
    const ConfigWrite write = [&](std::uint32_t offset, std::uint32_t value, std::uint32_t len) {
        config(port, offset, value, len);
    };
    switch (choose(12)) {
    case 0:
        register_log(machine_, write);
        break;
    case 1:
        write_anything(machine_, write);
        break;
    case 2:
        reset_or_enumerate();
        break;
    case 3:
        plug_or_unplug();
        break;
    case 4:
        if (choose(4) == 0) {
            unplug_ram();
        } else {
            look();
        }
        break;
    case 5:
        set_logging();
        break;
    case 6:
    case 7:
        harvest();
        break;
    case 8:
        save_and_load();
        break;
    case 9:
        if (choose(4) == 0) {
            machine_.guest.lay_out();
        }
        [[fallthrough]];
    default:
        machine_.guest.act();
    }
    require_state();
}

} // namespace

} // namespace pvdirty::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    pvdirty::fuzz::InputChoices choices(data, size);
    pvdirty::fuzz::Machine machine(choices);
    {
        pvdirty::fuzz::Vm vm(machine);
        while (!choices.empty()) {
            vm.step();
        }
    }
    PVDIRTY_REQUIRE(machine.ram.held().empty());
    return 0;
}
