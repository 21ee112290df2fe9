// SPDX-License-Identifier: MIT
/* The command line of `pvdirty migrate`, and what it prints. */
#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "cli/cli.hpp"
#include "cli/commands.hpp"
#include "cli/incoming.hpp"
#include "cli/migrate.hpp"
#include "cli/progress.hpp"
#include "cli/real_pacer.hpp"
#include "cli/units.hpp"

namespace pvdirty::cli {

namespace {

using nlohmann::json;

struct CommandLine {
    std::string from;
    std::string to;
    std::string policy;
    std::vector<std::string> replacements;
    unsigned timeout_s = 30;
    bool json = false;
    MigrateOptions options;
};

bool is_uri(const std::string& to) {
    constexpr std::array<std::string_view, 6> schemes{
        "unix:", "tcp:", "exec:", "fd:", "rdma:", "vsock:"};
    return std::any_of(schemes.begin(), schemes.end(), [&](const std::string_view scheme) {
        return to.compare(0, scheme.size(), scheme) == 0;
    });
}

/* Arguments of device_add; "" if they are, else why not. */
std::string check_replacement(const std::string& text) {
    const json arguments = json::parse(text, nullptr, false);
    if (!arguments.is_object() || !arguments.contains("driver")) {
        return "not a JSON object with device_add's arguments, a driver at least: " + text;
    }
    return "";
}

/* What does not fit together. */
void check(const CommandLine& line) {
    const MigrateOptions& options = line.options;
    if (line.policy == "keep" && (options.unplug_first || !options.devices.empty())) {
        throw CLI::ValidationError("--policy keep",
                                   "no device leaves: --device and --unplug-first are for unplug");
    }
    if (!line.replacements.empty() && is_uri(line.to)) {
        throw CLI::ValidationError("--replacement", "needs the destination's monitor in --to");
    }
}

void print(const MigrateReport& report, std::FILE* out) {
    fmt::print(out,
               "{} in {} ms, downtime {} ms, {} passes, {} sent, {} pages marked by the guest\n",
               report.status, report.total_ms, report.downtime_ms, report.passes,
               size_text(report.ram_bytes_sent), report.pages_marked);
    if (report.unplugged_ms) {
        fmt::print(out, "without {} for {} ms\n", fmt::join(report.devices, ", "),
                   *report.unplugged_ms);
    }
    if (!report.plugged_back.empty()) {
        fmt::print(out, "plugged in again at the source: {}\n",
                   fmt::join(report.plugged_back, ", "));
    }
}

/* A failure before there was a migration. */
MigrateReport not_begun(const std::string& path, const MonitorError& error,
                        const Signals& signals) {
    MigrateReport report;
    report.status = "none";
    report.code = signals.interrupted()                      ? exit_interrupted
                  : error.kind == MonitorError::Kind::silent ? exit_timeout
                                                             : exit_failed;
    report.message =
        signals.interrupted() ? "interrupted" : fmt::format("{}: {}", path, error.message);
    return report;
}

MigrateReport run(const CommandLine& line, std::FILE* err) {
    const Signals signals;
    const auto fail = [&](const std::string& path, const MonitorError& error) {
        return not_begun(path, error, signals);
    };
    const auto source = Qmp::connect(line.from, Patience(), signals.descriptor());
    if (!source) {
        return fail(line.from, source.error());
    }
    const Vm from(**source);
    const auto there = from.has_plugin();
    if (!there || !*there) {
        return fail(line.from,
                    there ? MonitorError{MonitorError::Kind::refused, no_plugin} : there.error());
    }

    Destination destination{line.to};
    PrivateDirectory directory;
    std::unique_ptr<Qmp> monitor;
    std::optional<Vm> to;
    if (!is_uri(line.to)) {
        auto connected = Qmp::connect(line.to, Patience(), signals.descriptor());
        if (!connected) {
            return fail(line.to, connected.error());
        }
        monitor = std::move(*connected);
        to.emplace(*monitor);
        const auto uri = incoming_uri(*to, directory);
        if (!uri) {
            return fail(line.to, uri.error());
        }
        destination = {*uri, &*to};
    }
    RealPacer pacer(signals, **source);
    Progress progress(err, ::isatty(::fileno(err)) == 1);
    return migrate(from, destination, line.options, pacer,
                   [&](const Snapshot& now) { progress.show(now); });
}

int report(const CommandLine& line, std::FILE* out, std::FILE* err) {
    const MigrateReport ended = run(line, err);
    if (line.json) {
        json all = to_json(ended);
        all["exit_code"] = ended.code;
        fmt::print(out, "{}\n", all.dump(2));
    } else if (ended.status != "none" || !ended.plugged_back.empty()) {
        print(ended, out);
    }
    if (!ended.message.empty()) {
        fmt::print(err, "pvdirty migrate: {}\n", ended.message);
    }
    return ended.code;
}

} // namespace

Command add_migrate(CLI::App& app) {
    auto line = std::make_shared<CommandLine>();
    MigrateOptions& options = line->options;
    CLI::App* command = app.add_subcommand(
        "migrate",
        "Migrate a running VM, and see to the devices that it cannot take along.\n"
        "Exit code: 0 done, 1 failed, 2 usage, 3 refused by the plug-in's policy, 4 the guest does "
        "not let go or a QEMU does not answer in time, 130 interrupted. Unless it is 0, the source "
        "has its devices again and goes on; the message says what else is the case.");
    command->add_option("--from", line->from, "the source's monitor, a unix socket that speaks QMP")
        ->required();
    command
        ->add_option("--to", line->to,
                     "the destination's monitor, likewise, or a migration URI (tcp:…, unix:…)")
        ->required();
    command
        ->add_option("--policy", line->policy,
                     "unplug: the guest lets go of the covered devices as soon as the rest would "
                     "fit in the downtime; keep: they stay, and their state is migrated")
        ->required()
        ->check(CLI::IsMember({"unplug", "keep"}));
    command->add_option("--device", options.devices,
                        "unplug only this one (its id; again for more)");
    command
        ->add_option("--replacement", line->replacements,
                     "plug in this one at the destination afterwards (device_add's arguments as "
                     "JSON; again for more)")
        ->check(check_replacement);
    command->add_option("--max-downtime", options.max_downtime_ms, "milliseconds")
        ->check(CLI::Range(0U, 2'000'000U));
    command->add_option("--bandwidth", options.bandwidth, "bytes per second, or 100M, 1G, …")
        ->transform(CLI::AsSizeValue(false));
    command
        ->add_option("--timeout", line->timeout_s, "seconds for the guest to let go of its devices")
        ->check(CLI::Range(1U, 86'400U))
        ->capture_default_str();
    command->add_flag("--unplug-first", options.unplug_first,
                      "unplug before the first page is sent, as virtio-net's failover does");
    command->add_flag("--json", line->json,
                      "one JSON object on stdout: exit_code, message, status, total_ms, "
                      "downtime_ms, passes, ram_bytes_sent, pages_marked, unplugged_ms, devices, "
                      "plugged_back");
    return {command, [line](std::FILE* out, std::FILE* err) {
                check(*line);
                line->options.policy =
                    line->policy == "keep" ? DevicePolicy::keep : DevicePolicy::unplug;
                line->options.timeout = std::chrono::seconds(line->timeout_s);
                for (const std::string& text : line->replacements) {
                    line->options.replacements.push_back(json::parse(text));
                }
                return report(*line, out, err);
            }};
}

} // namespace pvdirty::cli
