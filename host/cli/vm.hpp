// SPDX-License-Identifier: MIT
/** What a QEMU says of itself, of its migration and, with the plug-in, of covered devices. */
#ifndef PVDIRTY_CLI_VM_HPP
#define PVDIRTY_CLI_VM_HPP

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/monitor.hpp"

namespace pvdirty::cli {

/** A device below one of our ports, until nothing is left of it. */
struct Device {
    std::string id;          /**< or its QOM path */
    std::string port;        /**< the port's id */
    std::string type;        /**< of QOM, as device_add names it */
    bool migratable = false; /**< QEMU can save its state */
    bool tracked = false;
    std::string why;      /**< not tracked; "" if it is */
    bool leaving = false; /**< the guest has let go; the object still ends */
    bool hold = false;    /**< the migration waits for its end */
    /**
     * Arguments of device_add for another one and what is on its buses, in this order; empty if
     * QEMU could not make it again so.
     */
    std::vector<nlohmann::json> add;
};

struct Port {
    std::string id;
    bool registered = false;
};

/** Counters of the plug-in, of the current or last session. */
struct Counters {
    std::uint64_t harvests = 0;
    std::uint64_t pages_marked = 0;       /**< over its harvests */
    std::uint64_t pages_in_flight = 0;    /**< at the last harvest */
    std::uint64_t answered_all_dirty = 0; /**< harvests */
    std::uint64_t last_pass_pages = 0;
};

/** Where the migration stands, by the plug-in. */
struct Rest {
    bool holding = false;   /**< it waits for devices */
    bool converged = false; /**< it would end by now */
    std::uint64_t bytes = 0;
    std::uint64_t threshold = 0; /**< what fits in the downtime, in bytes */
};

/** query-migrate; what QEMU leaves out is 0 or "". */
struct Migration {
    std::string status; /**< "" if there was none */
    std::string error;
    std::uint64_t total_ms = 0;
    std::uint64_t downtime_ms = 0;
    std::uint64_t page_size = 4096;
    std::uint64_t total_bytes = 0; /**< of RAM */
    std::uint64_t remaining_bytes = 0;
    std::uint64_t transferred_bytes = 0;
    std::uint64_t passes = 0; /**< syncs of the dirty bitmap */
    std::uint64_t pages_sent = 0;
    std::uint64_t dirty_pages_per_second = 0; /**< CPU and DMA, by QEMU */
    std::vector<std::string> addresses;       /**< URIs where a destination waits, if known */

    /** It has not ended. */
    [[nodiscard]] bool running() const noexcept;
};

using Parameters = std::map<std::string, std::uint64_t>; /**< those that are numbers */
using Capabilities = std::map<std::string, bool>;

/** Typed questions to a monitor. Not for several threads. */
class Vm {
public:
    /** @param monitor outlives this */
    explicit Vm(Monitor& monitor) noexcept : monitor_(&monitor) {}

    [[nodiscard]] Monitor& monitor() const noexcept { return *monitor_; }

    /** "7.2.22 (package)". */
    [[nodiscard]] MonitorResult<std::string> version() const;
    /** "running", "paused", "inmigrate", … */
    [[nodiscard]] MonitorResult<std::string> run_state() const;
    [[nodiscard]] MonitorResult<Migration> migration() const;
    [[nodiscard]] MonitorResult<Parameters> parameters() const;
    [[nodiscard]] MonitorResult<Capabilities> capabilities() const;

    /** Is the plug-in there? An error only if QEMU does not answer. */
    [[nodiscard]] MonitorResult<bool> has_plugin() const;
    [[nodiscard]] MonitorResult<std::vector<Device>> devices() const;
    [[nodiscard]] MonitorResult<std::vector<Port>> ports() const;
    [[nodiscard]] MonitorResult<Counters> counters() const;
    [[nodiscard]] MonitorResult<Rest> rest() const;
    /** Why not all DMA is tracked; "" if it is. */
    [[nodiscard]] MonitorResult<std::string> why_incomplete() const;
    [[nodiscard]] MonitorResult<bool> logging() const;

    [[nodiscard]] MonitorResult<void> set_parameter(const std::string& name,
                                                    std::uint64_t value) const;
    [[nodiscard]] MonitorResult<void> set_capability(const std::string& name, bool on) const;
    /** Devices that must be gone before the next migration ends. */
    [[nodiscard]] MonitorResult<void> hold_for(const std::vector<std::string>& ids) const;
    /** Begins a migration to a URI, and returns. */
    [[nodiscard]] MonitorResult<void> migrate(const std::string& uri) const;
    /** Waits for a migration at a URI: of a VM that was started with "-incoming defer". */
    [[nodiscard]] MonitorResult<void> migrate_incoming(const std::string& uri) const;
    /** Asks for a migration's end, and returns. */
    [[nodiscard]] MonitorResult<void> cancel() const;
    /** Asks the guest to let go of a device, and returns. */
    [[nodiscard]] MonitorResult<void> device_del(const std::string& id) const;
    /** @param arguments as QMP takes them */
    [[nodiscard]] MonitorResult<void> device_add(const nlohmann::json& arguments) const;

private:
    [[nodiscard]] MonitorResult<nlohmann::json> property(const char* name) const;

    Monitor* monitor_;
};

/** What to say when a QEMU has no plug-in. */
extern const char* const no_plugin;

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_VM_HPP
