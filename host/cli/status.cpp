// SPDX-License-Identifier: MIT
#include "cli/status.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "cli/units.hpp"

namespace pvdirty::cli {

namespace {

using nlohmann::json;

constexpr auto heading = "{:>8}  {:<12} {:>5} {:>10} {:>10} {:>12} {:>10} {:>10} {:>9}\n";

json to_json(const Device& device) {
    return {{"id", device.id},
            {"port", device.port},
            {"type", device.type},
            {"tracked", device.tracked},
            {"why", device.why},
            {"migratable", device.migratable},
            {"state", device.leaving ? "leaving" : "plugged"},
            {"hold", device.hold},
            {"device-add", device.add.empty() ? json() : json(device.add)}};
}

json to_json(const Counters& counters) {
    return {{"harvests", counters.harvests},
            {"pages-marked", counters.pages_marked},
            {"pages-in-flight", counters.pages_in_flight},
            {"answered-all-dirty", counters.answered_all_dirty},
            {"last-pass-pages", counters.last_pass_pages}};
}

json to_json(const Migration& migration, const Rest& rest) {
    return {{"status", migration.status.empty() ? "none" : migration.status},
            {"error", migration.error},
            {"pass", migration.passes},
            {"remaining-bytes", migration.remaining_bytes},
            {"transferred-bytes", migration.transferred_bytes},
            {"dirty-pages-per-second", migration.dirty_pages_per_second},
            {"holding", rest.holding},
            {"converged", rest.converged},
            {"rest-bytes", rest.bytes},
            {"threshold-bytes", rest.threshold}};
}

void print_devices(const std::vector<Device>& devices, std::FILE* out) {
    std::size_t width = 6;
    for (const Device& device : devices) {
        width = std::max(width, device.id.size());
    }
    fmt::print(out, "{:<{}}  {:<8} {:<16} {:<8} {:<10} tracked\n", "device", width, "port", "type",
               "state", "migratable");
    for (const Device& device : devices) {
        fmt::print(out, "{:<{}}  {:<8} {:<16} {:<8} {:<10} {}\n", device.id, width, device.port,
                   device.type, device.leaving ? "leaving" : "plugged",
                   device.migratable ? "yes" : "no",
                   device.tracked ? "yes" : fmt::format("no: {}", device.why));
    }
}

void print(const Migration& migration, const Rest& rest, std::FILE* out) {
    fmt::print(out, "migration: {}", migration.status.empty() ? "none" : migration.status);
    if (migration.running()) {
        fmt::print(out, ", pass {}, {} left{}", migration.passes,
                   size_text(migration.remaining_bytes),
                   rest.holding ? ", waits for devices to go" : "");
    }
    fmt::print(out, "{}{}\n", migration.error.empty() ? "" : ": ", migration.error);
}

/* One line of watch. */
struct Sample {
    Migration migration;
    Rest rest;
    Counters counters;
    Moment taken;
};

MonitorResult<Sample> take_sample(const Vm& vm, const Pacer& pacer) {
    Sample sample;
    auto migration = vm.migration();
    if (!migration) {
        return tl::unexpected(migration.error());
    }
    sample.migration = std::move(*migration);
    const auto rest = vm.rest();
    if (!rest) {
        return tl::unexpected(rest.error());
    }
    sample.rest = *rest;
    const auto counters = vm.counters();
    if (!counters) {
        return tl::unexpected(counters.error());
    }
    sample.counters = *counters;
    sample.taken = pacer.now();
    return sample;
}

/* Marks since the sample before; a new session starts from 0. */
std::uint64_t marks_per_second(const Sample& before, const Sample& after) {
    const auto seconds = std::chrono::duration<double>(after.taken - before.taken).count();
    const std::uint64_t base = after.counters.harvests < before.counters.harvests ||
                                       after.counters.pages_marked < before.counters.pages_marked
                                   ? 0
                                   : before.counters.pages_marked;
    return seconds <= 0 ? 0
                        : static_cast<std::uint64_t>(
                              static_cast<double>(after.counters.pages_marked - base) / seconds);
}

void print(const Sample& sample, std::uint64_t dma, Moment start, std::FILE* out) {
    const Counters& counters = sample.counters;
    fmt::print(out, heading,
               fmt::format("{:.1f}", std::chrono::duration<double>(sample.taken - start).count()),
               sample.migration.status.empty() ? "none" : sample.migration.status,
               sample.migration.passes, size_text(sample.migration.remaining_bytes),
               counters.harvests, counters.pages_marked, dma, counters.pages_in_flight,
               counters.answered_all_dirty);
}

json to_json(const Sample& sample, std::uint64_t dma, Moment start) {
    return {{"seconds", std::chrono::duration<double>(sample.taken - start).count()},
            {"dma-pages-per-second", dma},
            {"migration", to_json(sample.migration, sample.rest)},
            {"counters", to_json(sample.counters)}};
}

} // namespace

MonitorResult<Status> read_status(const Vm& vm) {
    Status status;
    // Copies an answer into its place; false when there is none, with the error kept.
    MonitorError error;
    const auto keep = [&](auto answer, auto& place) {
        if (!answer) {
            error = std::move(answer.error());
            return false;
        }
        place = std::move(*answer);
        return true;
    };
    const bool all = keep(vm.version(), status.version) && keep(vm.run_state(), status.run_state) &&
                     keep(vm.ports(), status.ports) && keep(vm.devices(), status.devices) &&
                     keep(vm.why_incomplete(), status.why_incomplete) &&
                     keep(vm.logging(), status.logging) && keep(vm.counters(), status.counters) &&
                     keep(vm.rest(), status.rest) && keep(vm.migration(), status.migration);
    if (!all) {
        return tl::unexpected(std::move(error));
    }
    return status;
}

json to_json(const Status& status) {
    json ports = json::array();
    json devices = json::array();
    for (const Port& port : status.ports) {
        ports.push_back({{"id", port.id}, {"registered", port.registered}});
    }
    for (const Device& device : status.devices) {
        devices.push_back(to_json(device));
    }
    return {{"qemu", status.version},
            {"run-state", status.run_state},
            {"ports", std::move(ports)},
            {"devices", std::move(devices)},
            {"complete", status.why_incomplete.empty()},
            {"why-incomplete", status.why_incomplete},
            {"logging", status.logging},
            {"migration", to_json(status.migration, status.rest)},
            {"counters", to_json(status.counters)}};
}

void print(const Status& status, std::FILE* out) {
    fmt::print(out, "QEMU {}, {}\n", status.version, status.run_state);
    for (const Port& port : status.ports) {
        fmt::print(out, "port {}: {}\n", port.id,
                   port.registered ? "registered by the guest" : "not registered by the guest");
    }
    if (status.ports.empty()) {
        fmt::print(out, "no port: no device can be covered\n");
    }
    if (!status.devices.empty()) {
        print_devices(status.devices, out);
    }
    fmt::print(out, "complete: {}\n",
               status.why_incomplete.empty() ? "yes"
                                             : fmt::format("no: {}", status.why_incomplete));
    print(status.migration, status.rest, out);
    fmt::print(out,
               "{} harvests, {} pages marked, {} in flight, {} answered all-dirty, {} in the last "
               "pass{}\n",
               status.counters.harvests, status.counters.pages_marked,
               status.counters.pages_in_flight, status.counters.answered_all_dirty,
               status.counters.last_pass_pages, status.logging ? "; the guest marks" : "");
}

MonitorResult<void> watch(const Vm& vm, const WatchOptions& options, Pacer& pacer, std::FILE* out) {
    const Moment start = pacer.now();
    auto before = take_sample(vm, pacer);
    if (!before) {
        return tl::unexpected(before.error());
    }
    if (!options.json) {
        fmt::print(out, heading, "seconds", "migration", "pass", "remaining", "harvests", "marked",
                   "marked/s", "in flight", "all dirty");
    }
    Sample last = *before;
    for (std::uint64_t line = 1;; ++line) {
        const std::uint64_t dma = marks_per_second(last, *before);
        if (options.json) {
            fmt::print(out, "{}\n", to_json(*before, dma, start).dump());
        } else {
            print(*before, dma, start, out);
        }
        // A reader that has gone, `head` for one, has seen enough.
        if (std::fflush(out) != 0 || line == options.count) {
            return {};
        }
        const Moment next = before->taken + options.interval;
        while (!pacer.interrupted() && pacer.now() < next) {
            pacer.pause(std::chrono::ceil<Milliseconds>(next - pacer.now()));
            vm.monitor().take_events();
        }
        if (pacer.interrupted()) {
            return {};
        }
        last = *before;
        before = take_sample(vm, pacer);
        if (!before) {
            return tl::unexpected(before.error());
        }
    }
}

} // namespace pvdirty::cli
