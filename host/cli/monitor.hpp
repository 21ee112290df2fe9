// SPDX-License-Identifier: MIT
/** A QEMU's machine protocol (QMP), as our commands use it; tests put a model in its place. */
#ifndef PVDIRTY_CLI_MONITOR_HPP
#define PVDIRTY_CLI_MONITOR_HPP

#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <tl/expected.hpp>

namespace pvdirty::cli {

/** Why there is no answer, in one line without the monitor's name. */
struct MonitorError {
    enum class Kind {
        refused,   /**< QEMU carried out nothing and says why */
        closed,    /**< the connection is gone, and with it probably QEMU */
        silent,    /**< no answer within the time; the command may still be carried out */
        malformed, /**< an answer that is not QMP's */
    };
    Kind kind = Kind::refused;
    std::string message;
};

template <typename T>
using MonitorResult = tl::expected<T, MonitorError>;

/** An event that QEMU sent by itself. */
struct Event {
    std::string name;
    nlohmann::json data;
};

/** A connection to one QEMU. Not for several threads. */
class Monitor {
public:
    Monitor() = default;
    Monitor(const Monitor&) = delete;
    Monitor& operator=(const Monitor&) = delete;
    virtual ~Monitor() = default;

    /** Runs a command; waits for its answer for a bounded time. @returns what QEMU returns */
    virtual MonitorResult<nlohmann::json> call(const std::string& command,
                                               nlohmann::json arguments) = 0;
    MonitorResult<nlohmann::json> call(const std::string& command) {
        return call(command, nlohmann::json::object());
    }
    /** The events that have arrived since the last time, oldest first; does not wait. */
    virtual std::vector<Event> take_events() = 0;
    /** Connects anew after Kind::closed, for a bounded time; events are lost. */
    virtual MonitorResult<void> reconnect() = 0;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_MONITOR_HPP
