// SPDX-License-Identifier: MIT
/** A VM as the library sees it: ports, covered devices, their common log, and the session. */
#ifndef PVDIRTY_DOMAIN_HPP
#define PVDIRTY_DOMAIN_HPP

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <tl/expected.hpp>

#include "pvdirty/capability.hpp"
#include "pvdirty/log.hpp"
#include "pvdirty/memory.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty {

class Domain;
class Port;

/** Routing id (bus << 8 | devfn) that the guest uses for a device now, or -1: not enumerated. */
using RidFunction = std::function<int()>;

/** A covered PCI function. */
class Device {
public:
    Device(Port& port, const std::string& name, RidFunction rid);

    /** Not once it is unplugged. */
    [[nodiscard]] Port& port() const noexcept { return *port_; }
    /** The device and its port, for messages. */
    [[nodiscard]] const std::string& label() const noexcept { return label_; }
    /** Can the VMM save its state? */
    [[nodiscard]] bool migratable() const noexcept { return migratable_; }
    /** Does the migration's end wait until it has gone? */
    [[nodiscard]] bool held_for() const noexcept { return held_for_; }

private:
    friend class Domain;

    Port* port_;
    std::string label_;
    RidFunction rid_;
    int tracked_rid_ = -1; // at which the last look of this session found it tracked, or -1
    bool migratable_ = true;
    bool held_for_ = false;
};

/** One emulated bridge with the capability. */
class Port final : private Registrar {
public:
    Port(Domain& domain, std::string name, std::uint32_t host_features);

    [[nodiscard]] Domain& domain() const noexcept { return domain_; }
    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] const Capability& capability() const noexcept { return capability_; }

    /** The guest writes to the capability; see Capability::write(). */
    void write(std::uint32_t offset, std::uint32_t value, std::uint32_t len);
    /** System or bus reset. */
    void reset();
    /** The guest enumerates the port anew: drops the registration of the whole domain. */
    void enumerated();

    void save(std::span<std::uint8_t, port_state_len> out) const noexcept;
    /**
     * Loads what save() wrote; guest RAM must have been loaded. A log that is refused now leaves
     * the port unregistered and is no error.
     */
    tl::expected<void, std::string> load(std::span<const std::uint8_t> in);

private:
    friend class Domain;

    pvdirty_error enter(const Registration& registration) override;
    void leave() override;

    Domain& domain_;
    std::string name_;
    Capability capability_;
    bool uses_log_ = false; // is one of those that keep the domain's log registered
};

/** Who wants marks. */
enum class Logger : std::uint8_t {
    dirty_log, /**< the VMM's global dirty log */
    session,   /**< a migration, from setup to its end */
};

struct HarvestResult {
    std::uint64_t pages_marked = 0;    /**< taken by this harvest */
    std::uint64_t pages_in_flight = 0; /**< at this harvest */
    bool all_dirty = false;            /**< latched: the final pass must send all RAM */
};

struct Statistics {
    std::uint64_t harvests = 0;
    std::uint64_t pages_marked = 0;
    std::uint64_t pages_in_flight = 0;
    std::uint64_t answered_all_dirty = 0;
};

/**
 * The host never trusts silence. The log is complete while every covered device is tracked through
 * a port with BITMAP and INFLIGHT; the first look that finds it otherwise, and every event that
 * could have hidden a device's writes, is latched until logging starts anew: from then on every
 * harvest says "all dirty". A domain that has had no covered device since logging started latches
 * nothing.
 *
 * Threads: serialised by the caller, except pending().
 */
class Domain {
public:
    /** @param memory outlives the domain */
    Domain(GuestMemory& memory, std::uint32_t id) noexcept : memory_(memory), id_(id) {}
    Domain(const Domain&) = delete;
    Domain& operator=(const Domain&) = delete;
    ~Domain() = default;

    [[nodiscard]] std::uint32_t id() const noexcept { return id_; }

    /**
     * From now on, a log with more sections is refused. What one harvest costs grows with the
     * sections, so they should not outnumber the windows in which this VM can have RAM.
     */
    void limit_sections(std::uint32_t sections) noexcept { max_sections_ = sections; }

    Port& add_port(std::string name, std::uint32_t host_features);
    [[nodiscard]] const std::list<Port>& ports() const noexcept { return ports_; }
    /** Unplugs the port: it leaves the log, its devices are unplugged, and not removed. */
    void remove_port(Port& port);
    Device& add_device(Port& port, const std::string& name, RidFunction rid);
    /**
     * It has left its bus, and counts as covered no more. Whatever else the VMM has of it may still
     * be there, mappings of guest RAM among it, until remove_device().
     */
    void unplug_device(Device& device);
    /** Nothing is left of it; the reference is invalid from now on. */
    void remove_device(Device& device);
    /** Can the VMM save the device's state? It can, unless it is said here. */
    void set_migratable(Device& device, bool migratable) noexcept;
    /** A migration is not to end before the device is removed. */
    void hold_for(Device& device, bool hold) noexcept;
    /** Guest RAM goes away; drops the log if it uses it. */
    void ram_removed(std::uint64_t gpa, std::uint64_t len);

    /** Is there a covered device? */
    [[nodiscard]] bool covers() const noexcept { return !devices_.empty(); }
    /** Is a device that a migration's end waits for still there? From any thread. */
    [[nodiscard]] bool holding() const noexcept {
        return held_.load(std::memory_order_relaxed) != 0;
    }
    /**
     * A device whose state cannot be saved, and that no migration would wait for; or null. Also one
     * that is unplugged: what is left of it may write, and does not stop with the VM.
     */
    [[nodiscard]] const Device* unmigratable() const noexcept;
    /** A device that must be removed before a migration may end, or null. */
    [[nodiscard]] const Device* in_the_way() const noexcept;
    /** Why this device, which is plugged in, is not tracked completely now, or nothing. */
    [[nodiscard]] std::optional<std::string> why_untracked(const Device& device) const;
    /** Why the log is not complete now, in one line; nothing when it is. */
    [[nodiscard]] std::optional<std::string> why_incomplete() const;

    /** See pvd_logging(). */
    void set_logging(Logger who, bool on);
    [[nodiscard]] bool logging() const noexcept;
    /** Does Logger::session want marks? */
    [[nodiscard]] bool in_session() const noexcept {
        return loggers_[static_cast<std::size_t>(Logger::session)];
    }
    /** The VM starts to run here: brings the logging word in line with this host. */
    void running();

    /**
     * Reads the in-flight counters, then takes the marks of the pages in range, then looks for
     * incompleteness.
     * @param range for the marks alone; other marks stay
     */
    HarvestResult harvest(PageSink in_flight, PageSink marked, PageRange range = all_pages);
    /** Is the page in flight now, or unknown? */
    [[nodiscard]] bool page_in_flight(std::uint64_t pfn) const;
    /** Pages that only the final pass will add, UINT64_MAX once all is dirty. From any thread. */
    [[nodiscard]] std::uint64_t pending() const noexcept {
        return pending_.load(std::memory_order_relaxed);
    }

    /** The first thing that was latched, or "". */
    [[nodiscard]] const std::string& latched() const noexcept { return latched_; }
    [[nodiscard]] const Statistics& statistics() const noexcept { return statistics_; }
    /** The registered log, or nothing. */
    [[nodiscard]] const std::optional<Log>& log() const noexcept { return log_; }

private:
    friend class Port;

    /** What a look at the log's control page needs; each word is read once. */
    struct View;

    pvdirty_error join_log(Port& port, const Registration& registration, bool publish);
    void leave_log(Port& port);
    void drop_registration(pvdirty_error error);
    void drop_log();

    [[nodiscard]] View view() const;
    [[nodiscard]] std::optional<std::string> why_untracked(const Device& device, int rid,
                                                           const View& view) const;
    [[nodiscard]] std::optional<std::string> why_log_incomplete(const View& view) const;
    void begin();
    void look();
    void latch(const std::string& reason);

    GuestMemory& memory_;
    std::uint32_t id_;
    std::uint32_t max_sections_ = PVDIRTY_MAX_SECTIONS;
    std::list<Port> ports_;
    std::list<Device> devices_;   // on their buses: covered
    std::list<Device> unplugged_; // and not removed yet
    std::optional<Log> log_;
    std::uint32_t gaps_seen_ = 0;
    std::array<bool, 2> loggers_{};
    bool exposed_ = false; // a covered device has been there since logging started
    std::string latched_;
    Statistics statistics_;
    std::atomic<std::uint64_t> pending_{0};
    std::atomic<unsigned> held_{0}; // devices in both lists that are held for
};

} // namespace pvdirty

#endif // PVDIRTY_DOMAIN_HPP
