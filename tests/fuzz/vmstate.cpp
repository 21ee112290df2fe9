// SPDX-License-Identifier: MIT
/*
 * Fuzz target: what an incoming migration brings, through the C API: the record at the head of the
 * stream and the ports' states, good ones that were spoiled and arbitrary bytes; then the loaded
 * domain at work.
 */
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "fuzz/guest.hpp"
#include "fuzz/pages.hpp"
#include "fuzz/port.hpp"
#include "fuzz/require.hpp"
#include "pvdirty/pvdirty.h"

namespace pvdirty::fuzz {

namespace {

constexpr std::uint32_t domain_id = 7;
constexpr std::size_t nports = 2;
using PortState = std::array<std::uint8_t, PVD_PORT_STATE_LEN>;
using Bytes = std::vector<std::uint8_t>;

int routing_id(void*, void* device) {
    return *static_cast<int*>(device);
}

constexpr pvd_vmm_ops ops = {
    .ram_hold = [](void* ram, std::uint64_t gpa, std::uint64_t len) -> pvd_ram {
        const HeldRam held = static_cast<Ram*>(ram)->hold(gpa, len);
        return {held.host, held.region};
    },
    .ram_release =
        [](void* ram, pvd_ram held) {
            static_cast<Ram*>(ram)->release({static_cast<std::byte*>(held.host), held.region});
        },
    .ram_written = [](void* ram, std::uint64_t gpa,
                      std::uint64_t len) { static_cast<Ram*>(ram)->written(gpa, len); },
    .device_rid = routing_id,
};

/* One host: a domain with two ports, a device below the first. */
class Host {
public:
    Host(Machine& machine, std::array<std::uint32_t, nports> features)
        : machine_(machine), features_(features),
          domain_(pvd_domain_new(&ops, &machine.ram, domain_id)) {
        for (std::size_t i = 0; i < nports; i++) {
            ports_[i] = pvd_port_new(domain_, "port", features_[i]);
        }
        device_ = pvd_device_add(ports_[0], "device", &rid_);
    }
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;
    ~Host() {
        pvd_device_remove(device_);
        for (pvd_port* port : ports_) {
            pvd_port_free(port);
        }
        pvd_domain_free(domain_);
        PVDIRTY_REQUIRE(machine_.ram.held().empty());
    }

    [[nodiscard]] pvd_domain* domain() const { return domain_; }
    [[nodiscard]] pvd_port* port(std::size_t index) const { return ports_[index]; }
    [[nodiscard]] pvdirty_cap cap(std::size_t index) const {
        return read_capability(pvd_port_config(ports_[index]));
    }
    [[nodiscard]] PortState save(std::size_t index) const {
        PortState state{};
        pvd_port_save(ports_[index], state.data());
        return state;
    }

    void config(std::size_t index) {
        const ConfigWrite write = [&](std::uint32_t offset, std::uint32_t value,
                                      std::uint32_t len) {
            pvd_port_config_write(ports_[index], offset, value, len);
        };
        if (machine_.choices.below(2) == 0) {
            register_log(machine_, write);
        } else {
            write_anything(machine_, write);
        }
    }
    void harvest();
    void require_state() const;

private:
    Machine& machine_;
    std::array<std::uint32_t, nports> features_;
    pvd_domain* domain_;
    std::array<pvd_port*, nports> ports_{};
    pvd_device* device_ = nullptr;
    int rid_ = 1;
};

void Host::require_state() const {
    pvd_stats stats{};
    pvd_domain_stats(domain_, &stats);
    bool used = false;
    for (std::size_t i = 0; i < nports; i++) {
        const pvdirty_cap here = cap(i);
        require_legal(here, features_[i], domain_id);
        if (uses_log(here)) {
            used = true;
            PVDIRTY_REQUIRE(stats.log_addr == log_addr(here) && stats.log_pages == here.log_pages);
        }
    }
    PVDIRTY_REQUIRE(stats.registered == used);
    require_holds(machine_.ram, stats.sections);
}

/* Two collectors behind the C API's sink. */
struct Collectors {
    PageCollector in_flight, marked;
};

void collect(PageCollector& collector, std::uint64_t first, const std::uint64_t* masks) {
    GroupMasks group{};
    std::copy_n(masks, group.size(), group.begin());
    PageSink{collector}(first, group);
}

void Host::harvest() {
    const auto covers = [this](std::uint64_t) {
        pvd_stats stats{};
        pvd_domain_stats(domain_, &stats);
        return stats.registered;
    };
    const auto disturb = [this] { machine_.disturb(); };
    Collectors collectors{{covers, disturb}, {covers, disturb}};
    const pvd_sink sink = {[](void* both, std::uint64_t first, const std::uint64_t* masks) {
                               collect(static_cast<Collectors*>(both)->in_flight, first, masks);
                           },
                           [](void* both, std::uint64_t first, const std::uint64_t* masks) {
                               collect(static_cast<Collectors*>(both)->marked, first, masks);
                           },
                           &collectors};
    const bool tracked = can_be_complete(cap(0));

    const pvd_harvest_result result = pvd_harvest(domain_, &sink);
    collectors.in_flight.require_sound(result.pages_in_flight, all_pages);
    collectors.marked.require_sound(result.pages_marked, all_pages);
    // The device is there all the time: a log that was refused, or lost, is "all dirty".
    PVDIRTY_REQUIRE(result.all_dirty || tracked);
    PVDIRTY_REQUIRE(result.all_dirty == (*pvd_domain_latched(domain_) != '\0'));
    PVDIRTY_REQUIRE(pvd_domain_pending(domain_) ==
                    (result.all_dirty ? UINT64_MAX : result.pages_in_flight));
}

/* Bytes as they came, spoiled here and there, cut, or others. */
Bytes spoil(Machine& machine, Bytes bytes) {
    InputChoices& choices = machine.choices;
    switch (choices.below(4)) {
    case 0:
        return bytes;
    case 1:
        for (std::uint64_t i = choices.below(4) + 1; i > 0; i--) {
            bytes[choices.below(bytes.size())] = static_cast<std::uint8_t>(choices.below(256));
        }
        return bytes;
    case 2:
        bytes.resize(choices.below(2 * bytes.size()));
        return bytes;
    default:
        return choices.bytes(choices.below(100));
    }
}

/* One line, that ends within the buffer. */
void require_reason(bool ok, const std::array<char, 64>& why) {
    const std::string_view text(why.data(), strnlen(why.data(), why.size()));
    PVDIRTY_REQUIRE(text.size() < why.size() && text.empty() == ok);
    PVDIRTY_REQUIRE(text.find('\n') == std::string_view::npos);
}

/* What the source sends, besides RAM. */
struct Stream {
    Bytes record;
    std::array<Bytes, nports> ports;
};

/* The guest registers at the source, or does something else there. */
Stream save(Machine& machine) {
    Host source(machine, {7, 7});
    for (std::uint64_t i = machine.choices.below(4); i > 0; i--) {
        source.config(machine.choices.below(nports));
    }
    Stream stream;
    stream.record.resize(PVD_STREAM_STATE_LEN);
    pvd_stream_save(source.domain(), stream.record.data());
    for (std::size_t i = 0; i < nports; i++) {
        const PortState state = source.save(i);
        stream.ports[i].assign(state.begin(), state.end());
    }
    return stream;
}

void load_record(Machine& machine, const Host& host, const Bytes& saved) {
    const Bytes in = spoil(machine, saved);
    std::array<char, 64> why{};
    const bool ok = pvd_stream_load(host.domain(), in.data(), in.size(), why.data(), why.size());
    require_reason(ok, why);
    if (!ok) {
        return;
    }
    // Only a record that could have been saved, and whose features are offered, is accepted.
    constexpr std::ptrdiff_t features_at = 8, features_end = 12;
    PVDIRTY_REQUIRE(in.size() == saved.size() &&
                    std::equal(in.begin(), in.begin() + features_at, saved.begin()) &&
                    std::equal(in.begin() + features_end, in.end(), saved.begin() + features_end));
    std::uint32_t used = 0;
    std::memcpy(&used, in.data() + features_at, sizeof(used));
    PVDIRTY_REQUIRE((used & ~(host.cap(0).host_features | host.cap(1).host_features)) == 0);
}

void load_port(Machine& machine, const Host& host, std::size_t index, const Bytes& saved) {
    const Bytes in = spoil(machine, saved);
    std::array<char, 64> why{};
    const bool ok = pvd_port_load(host.port(index), in.data(), in.size(), why.data(), why.size());
    const PortState state = host.save(index);
    const pvdirty_cap cap = host.cap(index);

    require_reason(ok, why);
    host.require_state();
    if (!ok) {
        PVDIRTY_REQUIRE(cap.device_status == 0 && cap.guest_features == 0 && log_addr(cap) == 0);
        PVDIRTY_REQUIRE(*pvd_domain_latched(host.domain()) != '\0');
        return;
    }
    // Nothing of it is forgotten, unless the log that it names is refused here.
    if (!std::equal(in.begin(), in.end(), state.begin(), state.end())) {
        PVDIRTY_REQUIRE((cap.device_status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 &&
                        cap.error != PVDIRTY_OK);
        PVDIRTY_REQUIRE(*pvd_domain_latched(host.domain()) != '\0');
    }
    // What was saved here is accepted here, and comes out as it went in.
    const bool again = pvd_port_load(host.port(index), state.data(), state.size(), nullptr, 0);
    PVDIRTY_REQUIRE(again && (!machine.quiet() || host.save(index) == state));
    host.require_state();
}

void operate(Machine& machine, Host& host) {
    switch (machine.choices.below(8)) {
    case 0:
    case 1:
        host.harvest();
        break;
    case 2:
        host.config(machine.choices.below(nports));
        break;
    case 3:
        pvd_logging(host.domain(), PVD_LOGGER_SESSION, machine.choices.below(4) != 0);
        break;
    case 4:
        pvd_domain_running(host.domain());
        break;
    case 5: {
        std::array<char, 64> why{};
        require_reason(pvd_domain_complete(host.domain(), why.data(), why.size()), why);
        break;
    }
    default:
        machine.guest.act();
    }
    host.require_state();
}

/* To a host with the same RAM, that may offer other features. */
void migrate(Machine& machine) {
    InputChoices& choices = machine.choices;
    const Stream stream = save(machine);
    Host host(machine, {static_cast<std::uint32_t>(7 - choices.below(8)),
                        static_cast<std::uint32_t>(7 - choices.below(8))});

    for (std::uint64_t i = choices.below(4); i > 0; i--) {
        machine.guest.act();
    }
    if (choices.below(4) == 0) {
        pvd_logging(host.domain(), PVD_LOGGER_SESSION, true);
    }
    load_record(machine, host, stream.record);
    machine.start_cpu();
    for (std::size_t i = 0; i < nports; i++) {
        load_port(machine, host, i, stream.ports[i]);
    }
    while (!choices.empty()) {
        operate(machine, host);
    }
}

} // namespace

} // namespace pvdirty::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    pvdirty::fuzz::InputChoices choices(data, size);
    pvdirty::fuzz::Machine machine(choices);
    pvdirty::fuzz::migrate(machine);
    PVDIRTY_REQUIRE(machine.ram.held().empty());
    return 0;
}
