// SPDX-License-Identifier: MIT
/** A QEMU with the plug-in, as its monitor shows it, and the clock that it lives by. */
#ifndef PVDIRTY_TESTS_UNIT_MODEL_VM_HPP
#define PVDIRTY_TESTS_UNIT_MODEL_VM_HPP

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/monitor.hpp"
#include "cli/pacer.hpp"

namespace pvdirty::unit {

/** A VM whose migrations have a pass every 100 ms, and whose guest lets go of what it is asked. */
class ModelVm final : public cli::Monitor {
public:
    using json = nlohmann::json;
    using Milliseconds = cli::Milliseconds;
    using Kind = cli::MonitorError::Kind;

    bool plugin = true;
    std::string run_state = "running";
    std::vector<json> devices; /**< as /pvdirty has them */
    json addresses;            /**< where it waits for a migration; null for nowhere */
    std::string status = "none";
    std::string error;
    int passes = 0;
    int converges_at = 5;                       /**< passes */
    std::optional<Milliseconds> lets_go_within; /**< of the guest; none: never */
    Milliseconds gone = Milliseconds::max();    /**< QEMU ends then */
    std::map<std::string, std::string> refuses; /**< command: why */
    std::map<std::string, json> parameters{{"max-bandwidth", 1U}, {"downtime-limit", 300U}};
    bool return_path = false;
    bool never_ends = false;         /**< what the guest has let go of stays an object */
    bool fails_unexplained = false;  /**< the migration, without an error to read */
    bool stays_stopped = false;      /**< after a migration that failed */
    std::vector<std::string> called; /**< commands that change something, in order */
    std::vector<json> added;         /**< arguments of device_add */
    std::string uri;                 /**< of the last migration, either side */

    /** A covered device. */
    static json device(const std::string& id, bool migratable = true) {
        return {{"id", id},
                {"port", "rp0"},
                {"type", "e1000e"},
                {"tracked", true},
                {"why", ""},
                {"migratable", migratable},
                {"state", "plugged"},
                {"hold", false},
                {"device-add", {{{"driver", "e1000e"}, {"id", id}, {"bus", "rp0"}}}}};
    }

    using Monitor::call;
    cli::MonitorResult<json> call(const std::string& command, json arguments) override {
        if (now_ >= gone) {
            return fail(Kind::closed, "QEMU closed its monitor");
        }
        if (const auto why = refuses.find(command); why != refuses.end()) {
            return fail(Kind::refused, why->second);
        }
        if (command.rfind("query-", 0) == 0 || command == "qom-get") {
            return question(command, arguments);
        }
        called.push_back(command);
        return order(command, arguments);
    }
    std::vector<cli::Event> take_events() override { return std::exchange(events_, {}); }
    cli::MonitorResult<void> reconnect() override {
        return call("query-status").map([](const json&) {});
    }

    [[nodiscard]] bool has(const std::string& id) const {
        return std::any_of(devices.begin(), devices.end(), [&](const json& device) {
            return device["id"] == id && device["state"] == "plugged";
        });
    }
    [[nodiscard]] int count(const std::string& command) const {
        return static_cast<int>(std::count(called.begin(), called.end(), command));
    }

    /** Time goes on. */
    void live(Milliseconds time) {
        now_ += time;
        let_go(time);
        if (status == "cancelling") {
            end("cancelled");
        } else if (status == "active") {
            since_pass_ += time;
            for (; since_pass_ >= Milliseconds(100); since_pass_ -= Milliseconds(100)) {
                ++passes;
            }
            if (converged() && !holding()) {
                end(error.empty() && !fails_unexplained ? "completed" : "failed");
            }
        }
    }

private:
    static tl::unexpected<cli::MonitorError> fail(Kind kind, std::string why) {
        return tl::unexpected(cli::MonitorError{kind, std::move(why)});
    }

    [[nodiscard]] bool converged() const { return passes >= converges_at; }
    [[nodiscard]] bool holding() const {
        return std::any_of(devices.begin(), devices.end(),
                           [](const json& device) { return device["hold"].get<bool>(); });
    }

    void end(const std::string& how) {
        status = how;
        for (json& device : devices) {
            device["hold"] = false;
        }
        if (how == "completed") {
            run_state = "postmigrate";
        } else if (stays_stopped) {
            run_state = "paused";
        }
    }

    void let_go(Milliseconds time) {
        for (auto leaving = leaving_.begin(); leaving != leaving_.end();) {
            if (leaving->second > time) {
                leaving->second -= time;
                ++leaving;
                continue;
            }
            const auto left = std::find_if(devices.begin(), devices.end(), [&](const json& device) {
                return device["id"] == leaving->first && device["state"] == "plugged";
            });
            if (never_ends) {
                (*left)["state"] = "leaving";
            } else {
                devices.erase(left);
            }
            events_.push_back({"DEVICE_DELETED", {{"device", leaving->first}}});
            leaving = leaving_.erase(leaving);
        }
    }

    [[nodiscard]] cli::MonitorResult<json> question(const std::string& command,
                                                    const json& arguments) const {
        if (command == "query-version") {
            return json{{"qemu", {{"major", 7}, {"minor", 2}, {"micro", 1}}}, {"package", "x"}};
        }
        if (command == "query-status") {
            return json{{"status", run_state}};
        }
        if (command == "query-migrate-parameters") {
            return json(parameters);
        }
        if (command == "query-migrate-capabilities") {
            return json::array({{{"capability", "return-path"}, {"state", return_path}}});
        }
        if (command == "query-migrate") {
            if (status == "cancelled" || status == "failed") { // QEMU has no numbers then
                return error.empty() || status == "cancelled"
                           ? json{{"status", status}}
                           : json{{"status", status}, {"error-desc", error}};
            }
            json info = {{"status", status},
                         {"downtime", 7},
                         {"ram",
                          {{"page-size", 4096},
                           {"remaining", 1 << 20},
                           {"transferred", 1000 * passes},
                           {"dirty-sync-count", passes},
                           {"dirty-pages-rate", 50}}}};
            if (!addresses.is_null()) {
                info["socket-address"] = addresses;
            }
            return info;
        }
        return plugin ? property(arguments.at("property"))
                      : fail(Kind::refused, "Device '/pvdirty' not found");
    }

    [[nodiscard]] cli::MonitorResult<json> property(const std::string& name) const {
        const std::map<std::string, json> properties{
            {"devices", devices},
            {"ports", json::array({{{"id", "rp0"}, {"registered", true}}})},
            {"why-incomplete", ""},
            {"logging", status == "active"},
            {"harvests", passes},
            {"pages-marked", 10 * passes},
            {"pages-in-flight", 3},
            {"answered-all-dirty", 0},
            {"last-pass-pages", 4},
            {"holding", holding() && converged()},
            {"converged", converged()},
            {"rest-bytes", 5},
            {"threshold-bytes", 6},
        };
        return properties.at(name);
    }

    cli::MonitorResult<json> order(const std::string& command, const json& arguments) {
        if (command == "qom-set") {
            const std::string ids = "," + arguments.at("value").get<std::string>() + ",";
            for (json& device : devices) {
                device["hold"] =
                    ids.find("," + device["id"].get<std::string>() + ",") != std::string::npos;
            }
        } else if (command == "migrate" || command == "migrate-incoming") {
            uri = arguments.at("uri");
            status = command == "migrate" ? "active" : "setup";
            passes = 0;
        } else if (command == "migrate_cancel") {
            status = status == "active" ? "cancelling" : status;
        } else if (command == "device_del") {
            const std::string id = arguments.at("id");
            if (leaving_.count(id) != 0) {
                return fail(Kind::refused, "Device " + id + " is already in the process of unplug");
            }
            if (lets_go_within) {
                leaving_[id] = *lets_go_within;
            }
        } else if (command == "device_add" && arguments.value("bus", "rp0") != "rp0") {
            added.push_back(arguments); // on the bus of a device
        } else if (command == "device_add") {
            if (has(arguments.at("id"))) {
                return fail(Kind::refused, "Duplicate device ID");
            }
            added.push_back(arguments);
            devices.push_back(device(arguments.at("id")));
        } else if (command == "migrate-set-parameters") {
            for (const auto& [name, value] : arguments.items()) {
                parameters[name] = value;
            }
        } else if (command == "migrate-set-capabilities") {
            return_path = arguments.at("capabilities").at(0).at("state");
        } else {
            return fail(Kind::refused, "no such command");
        }
        return json::object();
    }

    std::vector<cli::Event> events_;
    std::map<std::string, Milliseconds> leaving_; // device: how long the guest still has it
    Milliseconds now_{0};
    Milliseconds since_pass_{0};
};

/** A clock that stands still but in pauses. */
class ModelPacer final : public cli::Pacer {
public:
    /** @param vms live by this clock */
    explicit ModelPacer(std::vector<ModelVm*> vms) : vms_(std::move(vms)) {}

    cli::Milliseconds interrupted_at = cli::Milliseconds::max();

    [[nodiscard]] cli::Moment now() const override { return cli::Moment() + now_; }
    [[nodiscard]] bool interrupted() const override { return now_ >= interrupted_at; }
    void pause(cli::Milliseconds time) override {
        now_ += time;
        for (ModelVm* vm : vms_) {
            vm->live(time);
        }
    }
    [[nodiscard]] cli::Milliseconds elapsed() const noexcept { return now_; }

private:
    std::vector<ModelVm*> vms_;
    cli::Milliseconds now_{0};
};

} // namespace pvdirty::unit

#endif // PVDIRTY_TESTS_UNIT_MODEL_VM_HPP
