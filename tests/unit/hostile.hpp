// SPDX-License-Identifier: MIT
/** A VM whose guest is malicious: RAM in pieces, a hole, ROM, and a device that is tracked. */
#ifndef PVDIRTY_TESTS_UNIT_HOSTILE_HPP
#define PVDIRTY_TESTS_UNIT_HOSTILE_HPP

#include <cstdint>
#include <list>

#include "unit/vm.hpp"

namespace pvdirty::test {

/** Guest-physical memory of several regions; between them nothing answers. */
class Patchwork final : public GuestMemory {
public:
    Ram& add_ram(std::uint64_t gpa, std::uint64_t size) {
        return regions_.emplace_back(gpa, size, true).ram;
    }
    Ram& add_rom(std::uint64_t gpa, std::uint64_t size) {
        return regions_.emplace_back(gpa, size, false).ram;
    }
    /** Unmaps a region: whoever touches it from now on, dies. */
    void remove(Ram& ram) {
        regions_.remove_if([&ram](const Region& region) { return &region.ram == &ram; });
    }

    HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept override {
        for (Region& region : regions_) {
            if (region.writable && gpa >= region.ram.gpa() &&
                gpa - region.ram.gpa() < region.ram.size()) {
                return region.ram.hold(gpa, len);
            }
        }
        return {};
    }
    void release(HeldRam ram) noexcept override {
        auto* region = static_cast<Ram*>(ram.region);
        region->release(ram);
    }
    void written(std::uint64_t gpa, std::uint64_t len) noexcept override {
        for (Region& region : regions_) {
            if (gpa >= region.ram.gpa() && gpa - region.ram.gpa() < region.ram.size()) {
                region.ram.written(gpa, len);
                stray_ = stray_ || region.ram.written_outside() || !region.writable;
                return;
            }
        }
        stray_ = true;
    }

    /** Holds that have not been released. */
    [[nodiscard]] int holds() const noexcept {
        int sum = 0;
        for (const Region& region : regions_) {
            sum += region.ram.holds();
        }
        return sum;
    }
    /** Did the library say that it wrote where there is no RAM? */
    [[nodiscard]] bool stray() const noexcept { return stray_; }

private:
    struct Region {
        Region(std::uint64_t gpa, std::uint64_t size, bool is_ram)
            : ram(gpa, size), writable(is_ram) {}

        Ram ram;
        bool writable;
    };

    std::list<Region> regions_;
    bool stray_ = false;
};

/**
 * Two pieces of RAM that adjoin, a hole, ROM, a third piece; ports rp0 and rp1, and below rp0 the
 * device net0. The log lies at the start of the first piece, which has room for another one.
 */
struct HostileVm {
    static constexpr std::uint64_t ram_gpa = 1ULL << 32;
    static constexpr std::uint64_t piece = 4ULL << 20;
    static constexpr std::uint64_t hole_gpa = ram_gpa + 2 * piece;
    static constexpr std::uint64_t rom_gpa = ram_gpa + 3 * piece;
    static constexpr std::uint64_t last_gpa = ram_gpa + 4 * piece;
    static constexpr std::uint64_t end_gpa = last_gpa + piece;
    static constexpr std::uint64_t other_log_gpa = ram_gpa + piece / 2;

    Patchwork memory;
    Ram& ram = memory.add_ram(ram_gpa, piece);
    Ram& next = memory.add_ram(ram_gpa + piece, piece);
    Ram& rom = memory.add_rom(rom_gpa, piece);
    Ram& last = memory.add_ram(last_gpa, piece);
    GuestLog log{ram, ram_gpa, {{4, PVDIRTY_WINDOW_PAGES}, {5, 4096}}};
    Domain domain{memory, 1};
    Port& rp0 = domain.add_port("rp0", PVDIRTY_FEATURES_ALL);
    Port& rp1 = domain.add_port("rp1", PVDIRTY_FEATURES_ALL);
    Device& net0 = domain.add_device(rp0, "net0", [] { return 0x100; });

    HostileVm() { log.control().devices[0] = PVDIRTY_DEV(0x100, PVDIRTY_DEV_TRACKED, 0); }

    void register_log() { register_port(rp0, log.addr(), log.pages()); }
    /** The error register, after asking for DRIVER_OK. */
    pvdirty_error answer(std::uint64_t addr, std::uint32_t pages) {
        register_port(rp0, addr, pages);
        return static_cast<pvdirty_error>(read_cap(rp0).error);
    }
    [[nodiscard]] unsigned status() const { return read_cap(rp0).device_status; }
    HarvestResult harvest() { return domain.harvest({}, {}); }
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_HOSTILE_HPP
