// SPDX-License-Identifier: MIT
/** The command `pvdirty migrate`: a migration from its begin to its end, whichever it has. */
#ifndef PVDIRTY_CLI_MIGRATE_HPP
#define PVDIRTY_CLI_MIGRATE_HPP

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/cli.hpp"
#include "cli/pacer.hpp"
#include "cli/vm.hpp"

namespace pvdirty::cli {

/** What becomes of the covered devices. */
enum class DevicePolicy {
    unplug, /**< the guest lets go of them before the end */
    keep,   /**< they stay to the stop, and their state is migrated */
};

struct MigrateOptions {
    DevicePolicy policy = DevicePolicy::unplug;
    bool unplug_first = false;                /**< before the migration, not at its end */
    std::vector<std::string> devices;         /**< ids; none: all covered ones */
    std::vector<nlohmann::json> replacements; /**< device_add's arguments at the destination */
    std::optional<std::uint64_t> max_downtime_ms;
    std::optional<std::uint64_t> bandwidth; /**< bytes per second */
    Milliseconds timeout{30'000};           /**< for the guest to let go */
};

/** Where to: by the monitor of the destination, by a URI, or by both. */
struct Destination {
    std::string uri;
    const Vm* vm = nullptr;
};

/** One look at a running migration. */
struct Snapshot {
    Moment taken;
    Migration migration;
    Rest rest;
    Counters counters;
    std::string awaited; /**< devices that the guest was asked for; "" for none */
};

/** How it ended. */
struct MigrateReport {
    int code = exit_failed; /**< one of Exit */
    std::string message;    /**< why it is not done; "" if it is */
    std::string status; /**< QEMU's last word: "completed", "failed", …; "none" if not begun */
    std::uint64_t total_ms = 0;
    std::uint64_t downtime_ms = 0;
    std::uint64_t passes = 0;
    std::uint64_t ram_bytes_sent = 0;
    std::uint64_t pages_marked = 0;
    /** From the first device's removal to the last replacement, or to the end. */
    std::optional<std::uint64_t> unplugged_ms;
    std::vector<std::string> devices;      /**< that had to leave */
    std::vector<std::string> plugged_back; /**< at the source */
};

/**
 * Migrates. Whatever goes wrong, the source gets its devices and its parameters back; what cannot
 * be put right is in the message.
 * @param show is given each look
 */
MigrateReport migrate(const Vm& source, const Destination& destination,
                      const MigrateOptions& options, Pacer& pacer,
                      const std::function<void(const Snapshot&)>& show);

nlohmann::json to_json(const MigrateReport& report);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_MIGRATE_HPP
