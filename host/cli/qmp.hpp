// SPDX-License-Identifier: MIT
/** QMP over a unix socket. */
#ifndef PVDIRTY_CLI_QMP_HPP
#define PVDIRTY_CLI_QMP_HPP

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/descriptor.hpp"
#include "cli/monitor.hpp"

namespace pvdirty::cli {

/** How long to wait for a QEMU. */
struct Patience {
    std::chrono::milliseconds greeting{10'000}; /**< a busy QEMU greets late, a taken one never */
    std::chrono::milliseconds answer{60'000}; /**< QEMU may be busy with a migration's last pass */
};

/** A client of one monitor. Not for several threads. */
class Qmp final : public Monitor {
public:
    /**
     * Connects and negotiates. A monitor takes one client at a time: when there is another, the
     * error says so, after the patience for a greeting.
     * @param interrupt descriptor that ends the wait when it becomes readable, or -1
     */
    static MonitorResult<std::unique_ptr<Qmp>> connect(const std::filesystem::path& path,
                                                       Patience patience, int interrupt);

    using Monitor::call;
    MonitorResult<nlohmann::json> call(const std::string& command,
                                       nlohmann::json arguments) override;
    std::vector<Event> take_events() override;
    MonitorResult<void> reconnect() override;

    /** Readable when QEMU has sent something. */
    [[nodiscard]] int descriptor() const noexcept { return socket_.get(); }

private:
    using Deadline = std::chrono::steady_clock::time_point;

    Qmp(std::filesystem::path path, Patience patience, int interrupt);

    MonitorResult<void> open(Deadline deadline);
    MonitorResult<void> greet(Deadline deadline);
    MonitorResult<void> send(const std::string& line, Deadline deadline);
    MonitorResult<nlohmann::json> execute(const std::string& command, nlohmann::json arguments,
                                          Deadline deadline);
    MonitorResult<void> wait(short events, Deadline deadline);
    MonitorResult<bool> receive();
    MonitorResult<nlohmann::json> read_message(Deadline deadline);
    MonitorResult<nlohmann::json> next_message();
    void keep_event(const nlohmann::json& message);

    std::filesystem::path path_;
    Patience patience_;
    int interrupt_;
    Descriptor socket_;
    std::string received_; // not yet a whole line
    std::deque<Event> events_;
    std::uint64_t last_id_ = 0;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_QMP_HPP
