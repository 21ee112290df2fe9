// SPDX-License-Identifier: MIT
/** The commands `pvdirty status` and `pvdirty watch`: what a running VM says of itself. */
#ifndef PVDIRTY_CLI_STATUS_HPP
#define PVDIRTY_CLI_STATUS_HPP

#include <cstdint>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "cli/pacer.hpp"
#include "cli/vm.hpp"

namespace pvdirty::cli {

/** All of it, at about one time. */
struct Status {
    std::string version;
    std::string run_state;
    std::vector<Port> ports;
    std::vector<Device> devices;
    std::string why_incomplete; /**< "" when complete */
    bool logging = false;
    Counters counters;
    Rest rest;
    Migration migration;
};

MonitorResult<Status> read_status(const Vm& vm);
nlohmann::json to_json(const Status& status);
void print(const Status& status, std::FILE* out);

struct WatchOptions {
    Milliseconds interval{1000};
    std::uint64_t count = 0; /**< lines; 0: until interrupted */
    bool json = false;
};

/**
 * Prints the counters again and again; an interruption is a normal end.
 * @returns an error when QEMU does not answer any more
 */
MonitorResult<void> watch(const Vm& vm, const WatchOptions& options, Pacer& pacer, std::FILE* out);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_STATUS_HPP
