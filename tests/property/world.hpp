// SPDX-License-Identifier: MIT
/** A VM that is migrated by commands: the real library, the real core, and a model of memory. */
#ifndef PVDIRTY_TESTS_PROPERTY_WORLD_HPP
#define PVDIRTY_TESTS_PROPERTY_WORLD_HPP

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "guest/guest_log.hpp"
#include "guest/machine.hpp"
#include "property/command.hpp"
#include "property/memory_model.hpp"
#include "pvdirty/domain.hpp"

namespace pvdirty::test {

/** Controls: rules of the protocol that a guest or a VMM may break. */
enum class Fault : std::uint8_t {
    none,
    guest_lowers_first,        // lowers the counter, then marks
    guest_never_marks,         // lowers the counter only
    guest_counts_late,         // raises the counter after the driver has the address
    guest_hides_gap,           // stops tracking a device without a word
    guest_gap_before_entry,    // raises gaps, then takes TRACKED out of the table
    host_reads_before_publish, // the first pass comes before the publication
    host_copies_first,         // reads a page, then takes its mark
    host_forgets_in_flight,    // the last pass has marks only
    host_ignores_all_dirty,    // sends what was reported, whatever the harvest answers
    host_keeps_its_writes,     // does not send what the library wrote to the log
};

/** What happened, to see that the properties were not true of nothing. */
struct Tally {
    unsigned stops = 0;
    unsigned all_dirty = 0;       // last passes that said so
    unsigned stray = 0;           // last passes after a write of a device that was not tracked
    unsigned saved_by_marks = 0;  // ... that were right because of marks
    unsigned saved_in_flight = 0; // ... because of pages in flight
    unsigned undisturbed = 0;     // ... of migrations that nothing disturbed
    unsigned parked = 0;          // ... with a CPU in the middle of something
    unsigned arrived = 0;         // runs at a destination
};

/**
 * Runs commands. What must hold is asserted at each stop:
 * - every page at the destination is what it is at the source, the log's own pages too;
 * - a covered device that wrote while it was not tracked makes the last pass all dirty;
 * - a migration that nothing disturbed is not all dirty and reports no page that was never held.
 */
class World {
public:
    explicit World(Fault fault = Fault::none);
    World(const World&) = delete;
    World& operator=(const World&) = delete;
    ~World() = default;

    void run(const std::vector<Command>& commands);
    [[nodiscard]] const Tally& tally() const noexcept { return tally_; }

private:
    static constexpr unsigned max_ports = 3;
    static constexpr unsigned max_devices = 4;

    struct Mapping {
        unsigned device = 0;
        PageRange pages;
        bool live = false; // the device may write to it
    };
    /** Device i sits below port i % max_ports. */
    struct GuestDevice {
        Device* host = nullptr; // nullptr: not plugged in
        bool tracked = false;   // every DMA of it goes through the core
        bool stray = false;     // it may write anywhere
    };

    void execute(const Command& command);
    void interrupt();

    // The guest.
    void map(const Command& command);
    void unmap(const Command& command);
    void sync(const Command& command);
    void device_writes(const Command& command);
    void stick(const Command& command);
    void unbind(const Command& command);
    void bind(const Command& command);
    void retire(const Command& command);
    void stray_write(const Command& command);
    void boot();
    bool enter(unsigned port);
    void release(PageRange pages);
    void set_entry(unsigned device, pvdirty_dev_state state);
    [[nodiscard]] static std::uint32_t entry(unsigned device, pvdirty_dev_state state);
    [[nodiscard]] bool seen_by_host(unsigned device) const;
    [[nodiscard]] std::optional<unsigned> any_device(unsigned number, bool tracked) const;
    [[nodiscard]] Mapping* any_mapping(unsigned number, bool live);

    // The host.
    void start(const Command& command);
    void harvest();
    void stop(const Command& command);
    void end_migration();
    void arrive();
    void plug(const Command& command);
    void unplug(unsigned device);
    void unplug_port(unsigned port);
    HarvestResult take(bool last);
    void check_stop(const HarvestResult& result);

    Fault fault_;
    Ram ram_;
    Machine machine_;
    std::array<std::optional<GuestLog>, 2> logs_; // of this kernel and of the one before
    unsigned kernel_ = 0;
    std::unique_ptr<Domain> domain_;
    std::array<Port*, max_ports> ports_{};
    std::array<GuestDevice, max_devices> devices_{};
    std::vector<Mapping> mappings_;
    MemoryModel memory_;
    LogCopy log_copy_;
    pvdirty_log silent_{}; // a control page on which nobody wants marks; for broken guests
    Tally tally_;

    const std::vector<Command>* commands_ = nullptr;
    std::size_t next_ = 0;
    unsigned interrupts_ = 0; // commands of the guest that may still fall into the host's
    unsigned every_ = 1;      // accesses of the host between two of them
    unsigned accesses_ = 0;

    bool migrating_ = false;
    bool wrote_untracked_ = false; // since the start
    bool disturbed_ = false;       // since the start
    std::uint32_t gaps_at_start_ = 0;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_WORLD_HPP
