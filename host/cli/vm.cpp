// SPDX-License-Identifier: MIT
#include "cli/vm.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace pvdirty::cli {

namespace {

using nlohmann::json;
using namespace std::string_view_literals;

constexpr auto object_path = "/pvdirty";

/* Reads an answer with a function that throws json's errors when the answer is another one. */
template <typename Read>
auto read(const MonitorResult<json>& answer, Read read_answer) {
    using Value = decltype(read_answer(*answer));
    if (!answer) {
        return MonitorResult<Value>(tl::unexpected(answer.error()));
    }
    try {
        return MonitorResult<Value>(read_answer(*answer));
    } catch (const json::exception& error) {
        return MonitorResult<Value>(tl::unexpected(
            MonitorError{MonitorError::Kind::malformed,
                         fmt::format("an answer that is not expected: {}", error.what())}));
    }
}

MonitorResult<void> done(const MonitorResult<json>& answer) {
    return answer.map([](const json&) {});
}

Device read_device(const json& entry) {
    Device device;
    device.id = entry.at("id");
    device.port = entry.at("port");
    device.type = entry.at("type");
    device.migratable = entry.at("migratable");
    device.tracked = entry.at("tracked");
    device.why = entry.at("why");
    device.leaving = entry.at("state").get<std::string>() == "leaving";
    device.hold = entry.at("hold");
    if (const json& add = entry.at("device-add"); !add.is_null()) {
        device.add = add.get<std::vector<json>>();
    }
    return device;
}

/* "" for one that has none. One that waits at any address is reached here, where its monitor is. */
std::string uri_of(const json& address) {
    const auto text = [&](const char* name) {
        const json value = address.value(name, json());
        return value.is_string() ? value.get<std::string>() : std::string();
    };
    if (text("type") == "unix") {
        return "unix:" + text("path");
    }
    if (text("type") == "inet") {
        const std::string host = text("host");
        const std::string reached = host == "0.0.0.0" ? "127.0.0.1" : host == "::" ? "::1" : host;
        return reached.find(':') == std::string::npos
                   ? fmt::format("tcp:{}:{}", reached, text("port"))
                   : fmt::format("tcp:[{}]:{}", reached, text("port"));
    }
    return "";
}

Migration read_migration(const json& info) {
    Migration migration;
    migration.status = info.value("status", "");
    if (migration.status == "none") {
        migration.status.clear();
    }
    migration.error = info.value("error-desc", "");
    migration.total_ms = info.value("total-time", std::uint64_t{0});
    migration.downtime_ms = info.value("downtime", std::uint64_t{0});
    for (const json& address : info.value("socket-address", json::array())) {
        if (std::string uri = uri_of(address); !uri.empty()) {
            migration.addresses.push_back(std::move(uri));
        }
    }
    const json ram = info.value("ram", json::object());
    const auto number = [&](const char* name, std::uint64_t otherwise = 0) {
        return ram.value(name, otherwise);
    };
    migration.page_size = std::max(number("page-size", migration.page_size), std::uint64_t{1});
    migration.total_bytes = number("total");
    migration.remaining_bytes = number("remaining");
    migration.transferred_bytes = number("transferred");
    migration.passes = number("dirty-sync-count");
    migration.dirty_pages_per_second = number("dirty-pages-rate");
    migration.pages_sent = number("normal") + number("duplicate");
    for (const char* encoder : {"xbzrle-cache", "compression"}) {
        migration.pages_sent +=
            info.value(encoder, json::object()).value("pages", std::uint64_t{0});
    }
    return migration;
}

} // namespace

const char* const no_plugin =
    "no pvdirty plug-in is loaded: start QEMU with -plugin file=.../libpvdirty-qemu.so";

bool Migration::running() const noexcept {
    constexpr std::array over{""sv, "completed"sv, "failed"sv, "cancelled"sv};
    return std::find(over.begin(), over.end(), status) == over.end();
}

MonitorResult<std::string> Vm::version() const {
    return read(monitor_->call("query-version"), [](const json& answer) {
        const json& qemu = answer.at("qemu");
        const std::string package = answer.value("package", "");
        return fmt::format("{}.{}.{}{}", qemu.at("major").get<int>(), qemu.at("minor").get<int>(),
                           qemu.at("micro").get<int>(),
                           package.empty() ? "" : fmt::format(" ({})", package));
    });
}

MonitorResult<std::string> Vm::run_state() const {
    return read(monitor_->call("query-status"),
                [](const json& answer) { return answer.at("status").get<std::string>(); });
}

MonitorResult<Migration> Vm::migration() const {
    return read(monitor_->call("query-migrate"), read_migration);
}

MonitorResult<Parameters> Vm::parameters() const {
    return read(monitor_->call("query-migrate-parameters"), [](const json& answer) {
        Parameters parameters;
        for (const auto& [name, value] : answer.items()) {
            if (value.is_number_unsigned()) {
                parameters[name] = value;
            }
        }
        return parameters;
    });
}

MonitorResult<Capabilities> Vm::capabilities() const {
    return read(monitor_->call("query-migrate-capabilities"), [](const json& answer) {
        Capabilities capabilities;
        for (const json& entry : answer) {
            capabilities[entry.at("capability")] = entry.at("state");
        }
        return capabilities;
    });
}

MonitorResult<json> Vm::property(const char* name) const {
    return monitor_->call("qom-get", {{"path", object_path}, {"property", name}});
}

MonitorResult<bool> Vm::has_plugin() const {
    const auto answer = property("ports");
    if (!answer && answer.error().kind != MonitorError::Kind::refused) {
        return tl::unexpected(answer.error());
    }
    return answer.has_value();
}

MonitorResult<std::vector<Device>> Vm::devices() const {
    return read(property("devices"), [](const json& answer) {
        std::vector<Device> devices;
        for (const json& entry : answer) {
            devices.push_back(read_device(entry));
        }
        return devices;
    });
}

MonitorResult<std::vector<Port>> Vm::ports() const {
    return read(property("ports"), [](const json& answer) {
        std::vector<Port> ports;
        for (const json& entry : answer) {
            ports.push_back({entry.at("id"), entry.at("registered")});
        }
        return ports;
    });
}

MonitorResult<Counters> Vm::counters() const {
    Counters counters;
    for (const auto& [name, counter] : {std::pair{"harvests", &Counters::harvests},
                                        {"pages-marked", &Counters::pages_marked},
                                        {"pages-in-flight", &Counters::pages_in_flight},
                                        {"answered-all-dirty", &Counters::answered_all_dirty},
                                        {"last-pass-pages", &Counters::last_pass_pages}}) {
        const auto value =
            read(property(name), [](const json& answer) { return answer.get<std::uint64_t>(); });
        if (!value) {
            return tl::unexpected(value.error());
        }
        counters.*counter = *value;
    }
    return counters;
}

MonitorResult<Rest> Vm::rest() const {
    const auto boolean = [](const json& answer) { return answer.get<bool>(); };
    const auto number = [](const json& answer) { return answer.get<std::uint64_t>(); };
    const auto holding = read(property("holding"), boolean);
    if (!holding) {
        return tl::unexpected(holding.error());
    }
    const auto converged = read(property("converged"), boolean);
    if (!converged) {
        return tl::unexpected(converged.error());
    }
    const auto bytes = read(property("rest-bytes"), number);
    if (!bytes) {
        return tl::unexpected(bytes.error());
    }
    const auto threshold = read(property("threshold-bytes"), number);
    if (!threshold) {
        return tl::unexpected(threshold.error());
    }
    return Rest{*holding, *converged, *bytes, *threshold};
}

MonitorResult<std::string> Vm::why_incomplete() const {
    return read(property("why-incomplete"),
                [](const json& answer) { return answer.get<std::string>(); });
}

MonitorResult<bool> Vm::logging() const {
    return read(property("logging"), [](const json& answer) { return answer.get<bool>(); });
}

MonitorResult<void> Vm::set_parameter(const std::string& name, std::uint64_t value) const {
    return done(monitor_->call("migrate-set-parameters", {{name, value}}));
}

MonitorResult<void> Vm::set_capability(const std::string& name, bool on) const {
    return done(
        monitor_->call("migrate-set-capabilities",
                       {{"capabilities", json::array({{{"capability", name}, {"state", on}}})}}));
}

MonitorResult<void> Vm::hold_for(const std::vector<std::string>& ids) const {
    return done(monitor_->call("qom-set", {{"path", object_path},
                                           {"property", "hold-for"},
                                           {"value", fmt::format("{}", fmt::join(ids, ","))}}));
}

MonitorResult<void> Vm::migrate(const std::string& uri) const {
    return done(monitor_->call("migrate", {{"uri", uri}}));
}

MonitorResult<void> Vm::migrate_incoming(const std::string& uri) const {
    return done(monitor_->call("migrate-incoming", {{"uri", uri}}));
}

MonitorResult<void> Vm::cancel() const {
    return done(monitor_->call("migrate_cancel"));
}

MonitorResult<void> Vm::device_del(const std::string& id) const {
    return done(monitor_->call("device_del", {{"id", id}}));
}

MonitorResult<void> Vm::device_add(const json& arguments) const {
    return done(monitor_->call("device_add", arguments));
}

} // namespace pvdirty::cli
