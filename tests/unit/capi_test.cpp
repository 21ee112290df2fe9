// SPDX-License-Identifier: MIT
/* The C API: that each call arrives, and what crosses the boundary. */
#include <catch2/catch.hpp>

#include <array>
#include <cstring>

#include "guest/guest_log.hpp"
#include "guest/page_set.hpp"
#include "pvdirty/pvdirty.h"
#include "unit/vm.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

/** The VMM's callbacks over test RAM. */
struct Vmm {
    Guest guest{{{0, PVDIRTY_WINDOW_PAGES}}};
    pvd_vmm_ops ops{
        .ram_hold =
            [](void* opaque, uint64_t gpa, uint64_t len) {
                const pvdirty::HeldRam ram = self(opaque).guest.ram.hold(gpa, len);
                return pvd_ram{ram.host, ram.region};
            },
        .ram_release =
            [](void* opaque, pvd_ram ram) {
                self(opaque).guest.ram.release({static_cast<std::byte*>(ram.host), ram.region});
            },
        .ram_written = [](void* opaque, uint64_t gpa,
                          uint64_t len) { self(opaque).guest.ram.written(gpa, len); },
        .device_rid = [](void*, void* device) { return *static_cast<int*>(device); },
    };

    static Vmm& self(void* opaque) { return *static_cast<Vmm*>(opaque); }
};

void register_through(pvd_port* port, const GuestLog& log) {
    pvd_port_config_write(port, offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
    pvd_port_config_write(port, offsetof(pvdirty_cap, log_addr_hi),
                          static_cast<uint32_t>(log.addr() >> 32), 4);
    pvd_port_config_write(port, offsetof(pvdirty_cap, log_pages), log.pages(), 4);
    pvd_port_config_write(port, offsetof(pvdirty_cap, device_status), status_driver_ok, 1);
}

void collect(void* opaque, uint64_t first, const uint64_t* masks) {
    for (uint64_t i = 0; i < PVD_GROUP_WORDS; i++) {
        if (masks[i] != 0) {
            (*static_cast<Collector*>(opaque))(first + 64 * i, masks[i]);
        }
    }
}

} // namespace

TEST_CASE("C API: a migration from one domain to another", "[capi]") {
    Vmm vmm;
    int rid = -1;
    pvd_domain* domain = pvd_domain_new(&vmm.ops, &vmm, 42);
    pvd_port* port = pvd_port_new(domain, "rp0", PVDIRTY_FEATURES_ALL);
    pvd_device* device = pvd_device_add(port, "net0", &rid);

    CHECK(pvd_port_config(port)[offsetof(pvdirty_cap, domain)] == 42);
    pvd_domain_limit_sections(domain, 0);
    register_through(port, vmm.guest.log);
    CHECK(pvd_port_config(port)[offsetof(pvdirty_cap, device_status)] == status_features_ok);
    pvd_port_reset(port);
    pvd_domain_limit_sections(domain, 1);
    register_through(port, vmm.guest.log);
    CHECK(pvd_port_config(port)[offsetof(pvdirty_cap, device_status)] == status_driver_ok);

    std::array<char, 64> why{};
    CHECK_FALSE(pvd_domain_complete(domain, why.data(), why.size()));
    CHECK(std::string(why.data()) == "net0 (below rp0): the guest has not enumerated it");
    std::array<char, 5> brief{};
    CHECK_FALSE(pvd_domain_complete(domain, brief.data(), brief.size()));
    CHECK(std::string(brief.data()) == "net0");
    CHECK_FALSE(pvd_domain_complete(domain, nullptr, 0));
    CHECK_FALSE(pvd_domain_complete(domain, why.data(), 0));
    rid = 0x300;
    vmm.guest.log.control().devices[0] = PVDIRTY_DEV(0x300, PVDIRTY_DEV_TRACKED, 0);
    CHECK(pvd_domain_complete(domain, why.data(), why.size()));
    CHECK(std::string(why.data()).empty());

    pvd_logging(domain, PVD_LOGGER_SESSION, true);
    pvd_logging(domain, PVD_LOGGER_DIRTY_LOG, true);
    CHECK(vmm.guest.log.control().logging == 1);
    pvd_hold(vmm.guest.log.core(), 3, 4);
    pvd_release(vmm.guest.log.core(), 3, 3);

    CHECK(pvd_page_in_flight(domain, 4));
    CHECK_FALSE(pvd_page_in_flight(domain, 3));
    Collector collector;
    const pvd_sink marked{.in_flight = nullptr, .marked = collect, .opaque = &collector};
    pvd_harvest_result result = pvd_harvest(domain, &marked);
    CHECK(result.pages_marked == 1);
    CHECK(result.pages_in_flight == 1);
    CHECK_FALSE(result.all_dirty);
    CHECK(collector.pages() == PageSet({{3, 3}}));
    CHECK(pvd_domain_pending(domain) == 1);
    CHECK(std::string(pvd_domain_latched(domain)).empty());

    Collector last;
    const pvd_sink in_flight{.in_flight = collect, .marked = nullptr, .opaque = &last};
    pvd_release(vmm.guest.log.core(), 4, 4);
    pvd_hold(vmm.guest.log.core(), 9, 9);
    result = pvd_harvest(domain, &in_flight);
    CHECK(result.pages_marked == 1);
    CHECK(last.pages() == PageSet({{9, 9}}));

    pvd_stats stats{};
    pvd_domain_stats(domain, &stats);
    CHECK(stats.registered);
    CHECK(stats.logging);
    CHECK(stats.log_addr == vmm.guest.log.addr());
    CHECK(stats.log_pages == vmm.guest.log.pages());
    CHECK(stats.sections == 1);
    CHECK(stats.harvests == 2);
    CHECK(stats.pages_marked == 2);
    CHECK(stats.pages_in_flight == 1);
    CHECK(stats.answered_all_dirty == 0);

    // The destination has the same RAM.
    std::array<uint8_t, PVD_PORT_STATE_LEN> state{};
    pvd_port_save(port, state.data());
    Vmm other;
    pvd_domain* destination = pvd_domain_new(&other.ops, &other, 43);
    pvd_port* there = pvd_port_new(destination, "rp0", PVDIRTY_FEATURES_ALL);
    other.guest.log.control().logging = 1;
    CHECK(pvd_port_load(there, state.data(), state.size(), why.data(), why.size()));
    CHECK(other.guest.log.control().logging == 1);
    pvd_domain_running(destination);
    CHECK(other.guest.log.control().logging == 0);
    std::array<uint8_t, PVD_STREAM_STATE_LEN> record{};
    pvd_stream_save(domain, record.data());
    CHECK(pvd_stream_load(destination, record.data(), record.size(), why.data(), why.size()));
    CHECK(std::string(why.data()).empty());
    CHECK_FALSE(pvd_stream_load(destination, record.data(), 3, why.data(), why.size()));
    CHECK(std::string(why.data()) == "the stream's pvdirty record has 3 bytes, not 32");
    CHECK_FALSE(pvd_port_load(there, state.data(), 3, why.data(), why.size()));
    CHECK(std::string(why.data()).starts_with("saved port state has 3 bytes"));
    pvd_port_free(there);
    pvd_domain_free(destination);
    CHECK(other.guest.ram.holds() == 0);

    pvd_device_remove(device);
    pvd_logging(domain, PVD_LOGGER_SESSION, false);
    pvd_logging(domain, PVD_LOGGER_DIRTY_LOG, false);
    CHECK(vmm.guest.log.control().logging == 0);
    pvd_port_free(port);
    CHECK(vmm.guest.ram.holds() == 0);
    pvd_domain_free(domain);
}

TEST_CASE("C API: reset, enumeration and RAM that goes", "[capi]") {
    Vmm vmm;
    pvd_domain* domain = pvd_domain_new(&vmm.ops, &vmm, 0);
    pvd_port* port = pvd_port_new(domain, "rp0", PVDIRTY_FEATURES_ALL);
    register_through(port, vmm.guest.log);
    const auto registered = [&] {
        pvd_stats stats{};
        pvd_domain_stats(domain, &stats);
        return stats.registered;
    };
    REQUIRE(registered());
    SECTION("reset") {
        pvd_port_reset(port);
    }
    SECTION("enumeration") {
        pvd_port_enumerated(port);
    }
    SECTION("RAM") {
        pvd_ram_removed(domain, vmm.guest.log.addr(), 1);
    }
    CHECK_FALSE(registered());
    CHECK(vmm.guest.ram.holds() == 0);
    pvd_port_free(port);
    pvd_domain_free(domain);
}
