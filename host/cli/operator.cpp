// SPDX-License-Identifier: MIT
/* The commands for running VMs: their command lines, and the monitors they speak to. */
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "cli/cli.hpp"
#include "cli/commands.hpp"
#include "cli/qmp.hpp"
#include "cli/real_pacer.hpp"
#include "cli/status.hpp"

namespace pvdirty::cli {

namespace {

/* One line about why a command ends, and its exit code. */
int complain(const char* command, const std::string& path, const MonitorError& error,
             const Signals& signals, std::FILE* err) {
    if (signals.interrupted()) {
        fmt::print(err, "pvdirty {}: interrupted\n", command);
        return exit_interrupted;
    }
    fmt::print(err, "pvdirty {}: {}: {}\n", command, path, error.message);
    return error.kind == MonitorError::Kind::silent ? exit_timeout : exit_failed;
}

/* Connects to a QEMU with the plug-in, and has something done with it. */
template <typename Work>
int with_vm(const char* command, const std::string& path, std::FILE* err, Work work) {
    const Signals signals;
    auto monitor = Qmp::connect(path, Patience(), signals.descriptor());
    if (!monitor) {
        return complain(command, path, monitor.error(), signals, err);
    }
    const Vm vm(**monitor);
    RealPacer pacer(signals, **monitor);
    auto done = vm.has_plugin().and_then([&](bool there) -> MonitorResult<void> {
        if (!there) {
            return tl::unexpected(MonitorError{MonitorError::Kind::refused, no_plugin});
        }
        return work(vm, pacer);
    });
    return done ? exit_done : complain(command, path, done.error(), signals, err);
}

} // namespace

Command add_status(CLI::App& app) {
    struct Options {
        std::string qmp;
        bool json = false;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand(
        "status", "Print once what a running VM covers, and where its migration stands.\n"
                  "Exit code: 0 done, 1 failed, 2 usage, 4 no answer in time, 130 interrupted");
    command->add_option("--qmp", options->qmp, "the VM's monitor, a unix socket that speaks QMP")
        ->required();
    command->add_flag(
        "--json", options->json,
        "one JSON object: qemu, run-state, ports (id, registered), devices (id, port, "
        "type, tracked, why, migratable, state, hold, device-add), complete, "
        "why-incomplete, logging, migration, counters");
    return {command, [options](std::FILE* out, std::FILE* err) {
                return with_vm("status", options->qmp, err,
                               [&](const Vm& vm, Pacer&) -> MonitorResult<void> {
                                   const auto status = read_status(vm);
                                   if (!status) {
                                       return tl::unexpected(status.error());
                                   }
                                   if (options->json) {
                                       fmt::print(out, "{}\n", to_json(*status).dump(2));
                                   } else {
                                       print(*status, out);
                                   }
                                   return {};
                               });
            }};
}

Command add_watch(CLI::App& app) {
    struct Options {
        std::string qmp;
        unsigned interval_ms = 1000;
        WatchOptions watch;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand(
        "watch", "Print a running VM's counters, a line for each interval, until Ctrl-C.\n"
                 "Exit code: 0 ended by Ctrl-C or --count, 1 failed, 2 usage, 4 no answer in time, "
                 "130 interrupted before the first line or while an answer is due");
    command->add_option("--qmp", options->qmp, "the VM's monitor, a unix socket that speaks QMP")
        ->required();
    command->add_option("--interval", options->interval_ms, "milliseconds between two lines")
        ->check(CLI::Range(10U, 3'600'000U))
        ->capture_default_str();
    command->add_option("--count", options->watch.count, "end after this many lines")
        ->check(CLI::PositiveNumber);
    command->add_flag("--json", options->watch.json,
                      "each line a JSON object: seconds, dma-pages-per-second, migration, counters "
                      "(as status has them)");
    return {command, [options](std::FILE* out, std::FILE* err) {
                options->watch.interval = Milliseconds(options->interval_ms);
                return with_vm("watch", options->qmp, err, [&](const Vm& vm, Pacer& pacer) {
                    return watch(vm, options->watch, pacer, out);
                });
            }};
}

} // namespace pvdirty::cli
