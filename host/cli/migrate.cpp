// SPDX-License-Identifier: MIT
#include "cli/migrate.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/incoming.hpp"
#include "cli/unplug.hpp"

namespace pvdirty::cli {

namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Kind = MonitorError::Kind;

constexpr Milliseconds step = 100ms;
constexpr Milliseconds end_limit = 60s; // for a cancelled or a completed migration to settle
constexpr Milliseconds resume_limit = 5s;
constexpr auto return_path = "return-path";

/* Why it is not done. */
struct Failure {
    int code = exit_failed;
    std::string message;
};
using Step = tl::expected<void, Failure>;

tl::unexpected<Failure> fail(int code, std::string message) {
    return tl::unexpected(Failure{code, std::move(message)});
}

/* By our plug-in, not by QEMU. */
int refusal_code(const std::string& why) {
    return why.find("pvdirty:") != std::string::npos ? exit_refused : exit_failed;
}

template <typename T>
tl::unexpected<Failure> fail(const char* side, const MonitorResult<T>& answer) {
    const MonitorError& error = answer.error();
    return fail(error.kind == Kind::silent ? exit_timeout : refusal_code(error.message),
                fmt::format("{}: {}", side, error.message));
}

class Run {
public:
    Run(const Vm& source, const Destination& destination, const MigrateOptions& options,
        Pacer& pacer, const std::function<void(const Snapshot&)>& show)
        : source_(&source), destination_(&destination), options_(&options), pacer_(&pacer),
          show_(&show), unplug_(source, {}) {}

    MigrateReport run() {
        report_.status = "none";
        Step ended = prepare();
        if (ended) {
            ended = set_up().and_then([&] { return go(); });
            if (!ended) {
                ended = give_up(ended.error());
            }
            if (ended) {
                ended = replace();
            }
            finish(ended);
        }
        if (ended) {
            report_.code = exit_done;
        } else {
            report_.code = ended.error().code;
            report_.message = ended.error().message;
        }
        return std::move(report_);
    }

private:
    /* Reads what has to be known; changes nothing. */
    Step prepare() {
        const auto migration = source_->migration();
        if (!migration) {
            return fail("source", migration);
        }
        if (migration->running()) {
            return fail(exit_failed, fmt::format("source: another migration is running ({})",
                                                 migration->status));
        }
        auto state = source_->run_state();
        if (!state) {
            return fail("source", state);
        }
        state_before_ = std::move(*state);
        auto parameters = source_->parameters();
        if (!parameters) {
            return fail("source", parameters);
        }
        parameters_ = std::move(*parameters);
        const auto capabilities = source_->capabilities();
        if (!capabilities) {
            return fail("source", capabilities);
        }
        const auto found = capabilities->find(return_path);
        return_path_before_ = found != capabilities->end() && found->second;
        return options_->policy == DevicePolicy::unplug ? select() : Step();
    }

    /* The devices that have to leave. */
    Step select() {
        const auto covered = source_->devices();
        if (!covered) {
            return fail("source", covered);
        }
        std::vector<Device> chosen;
        std::vector<std::string> known;
        for (const Device& device : *covered) {
            if (device.leaving) {
                continue;
            }
            known.push_back(device.id);
            const auto& wanted = options_->devices;
            if (wanted.empty() ||
                std::find(wanted.begin(), wanted.end(), device.id) != wanted.end()) {
                chosen.push_back(device);
            }
        }
        for (const std::string& id : options_->devices) {
            if (std::find(known.begin(), known.end(), id) == known.end()) {
                return fail(exit_failed,
                            fmt::format("source: '{}' is no covered device; there are: {}", id,
                                        known.empty() ? "none"
                                                      : fmt::format("{}", fmt::join(known, ", "))));
            }
        }
        for (const Device& device : chosen) {
            const char* const why_not =
                device.add.empty() ? "QEMU cannot plug in a device like it, or what is on its bus"
                : !device.add.front().contains("id") ? "it needs an id of its own, by id="
                                                     : nullptr;
            if (why_not != nullptr) {
                return fail(exit_failed, fmt::format("source: {} could not be plugged in again: {}",
                                                     device.id, why_not));
            }
            report_.devices.push_back(device.id);
        }
        unplug_ = Unplug(*source_, std::move(chosen));
        return {};
    }

    Step set_up() {
        for (const auto& [name, value] : {std::pair{"downtime-limit", options_->max_downtime_ms},
                                          std::pair{"max-bandwidth", options_->bandwidth}}) {
            if (!value) {
                continue;
            }
            if (const auto set = source_->set_parameter(name, *value); !set) {
                return fail("source", set);
            }
        }
        // So the source hears when the destination refuses at the end, and goes on.
        if (has_answers(destination_->uri) && !return_path_before_) {
            if (const auto set = source_->set_capability(return_path, true); !set) {
                return fail("source", set);
            }
        }
        return {};
    }

    [[nodiscard]] bool unplugs() const { return !report_.devices.empty(); }

    Step go() {
        if (unplugs()) {
            if (Step ready = options_->unplug_first ? take_out() : hold(); !ready) {
                return ready;
            }
        }
        if (pacer_->interrupted()) {
            return fail(exit_interrupted, "interrupted");
        }
        if (const auto begun = source_->migrate(destination_->uri); !begun) {
            begun_ = begun.error().kind != Kind::refused; // or nobody knows
            return fail("source", begun);
        }
        begun_ = true;
        return follow();
    }

    Step hold() {
        const auto held = source_->hold_for(report_.devices);
        return held ? Step() : fail("source", held);
    }

    Step take_out() {
        if (Step asked = ask(); !asked) {
            return asked;
        }
        while (true) {
            if (Step looked = look_for_devices(); !looked) {
                return looked;
            }
            if (unplug_.all_gone()) {
                return {};
            }
            if (pacer_->interrupted()) {
                return fail(exit_interrupted, "interrupted");
            }
            wait();
        }
    }

    Step ask() {
        asked_at_ = pacer_->now();
        const auto asked = unplug_.ask(asked_at_);
        return asked ? Step() : fail("source", asked);
    }

    /* An error when the guest has had its time. */
    Step look_for_devices() {
        if (const auto looked = unplug_.look(pacer_->now()); !looked) {
            return fail("source", looked);
        }
        if (!unplug_.all_gone() && pacer_->now() >= asked_at_ + options_->timeout) {
            return fail(exit_timeout,
                        fmt::format("the {} of {} within {:.0f} s",
                                    unplug_.guest_let_go()
                                        ? "guest has let go, but QEMU sees no end"
                                        : "guest does not let go",
                                    unplug_.remaining(),
                                    std::chrono::duration<double>(options_->timeout).count()));
        }
        return {};
    }

    void wait() {
        pacer_->pause(step);
        source_->monitor().take_events();
    }

    [[nodiscard]] MonitorResult<Snapshot> snapshot() const {
        Snapshot now;
        now.taken = pacer_->now();
        auto migration = source_->migration();
        if (!migration) {
            return tl::unexpected(migration.error());
        }
        now.migration = std::move(*migration);
        const auto rest = source_->rest();
        if (!rest) {
            return tl::unexpected(rest.error());
        }
        now.rest = *rest;
        const auto counters = source_->counters();
        if (!counters) {
            return tl::unexpected(counters.error());
        }
        now.counters = *counters;
        now.awaited = unplug_.asked() ? unplug_.remaining() : "";
        return now;
    }

    /* The same, once more after a connection that is gone: the VM may well be there. */
    MonitorResult<Snapshot> look() {
        auto now = snapshot();
        if (!now && now.error().kind == Kind::closed && source_->monitor().reconnect()) {
            now = snapshot();
        }
        if (now) {
            note(*now);
        }
        return now;
    }

    void note(const Snapshot& now) {
        report_.status = now.migration.status;
        // Of one that has failed or was cancelled QEMU says no numbers: they are the last ones.
        const auto keep = [](std::uint64_t& place, std::uint64_t value) {
            place = std::max(place, value);
        };
        keep(report_.total_ms, now.migration.total_ms);
        keep(report_.downtime_ms, now.migration.downtime_ms);
        keep(report_.passes, now.migration.passes);
        keep(report_.ram_bytes_sent, now.migration.transferred_bytes);
        report_.pages_marked = now.counters.pages_marked;
    }

    /* Until the migration is over. */
    Step follow() {
        while (true) {
            const auto now = look();
            if (!now) {
                return fail("source", now);
            }
            (*show_)(*now);
            if (!now->migration.running()) {
                // The last of them may have gone with the end, between two looks. Without an
                // answer only the time that they were away stays unknown.
                if (unplug_.asked()) {
                    unplug_.look(now->taken);
                }
                return verdict(now->migration);
            }
            running_ = true;
            if (pacer_->interrupted()) {
                return fail(exit_interrupted, "interrupted");
            }
            if (Step moved = move_devices(now->rest); !moved) {
                return moved;
            }
            wait();
        }
    }

    static Step verdict(const Migration& migration) {
        if (migration.status == "completed") {
            return {};
        }
        if (migration.status == "cancelled") {
            return fail(exit_failed, "the migration was cancelled");
        }
        // The source does not hear from a destination that does not take a device's state.
        return fail(refusal_code(migration.error),
                    "the migration failed: " +
                        (migration.error.empty()
                             ? "QEMU says no more here, see what it printed at the destination"
                             : migration.error));
    }

    Step move_devices(const Rest& rest) {
        if (!unplugs() || options_->unplug_first) {
            return {};
        }
        if (!unplug_.asked()) {
            return rest.converged ? ask() : Step();
        }
        return unplug_.all_gone() ? Step() : look_for_devices();
    }

    /* The source goes on with its devices. No error if it has moved after all. */
    Step give_up(Failure failure) {
        if (begun_) {
            if (const Step cancelled = cancel(); !cancelled) {
                failure.message += "; " + cancelled.error().message;
                return tl::unexpected(std::move(failure));
            }
            if (running_ && report_.status == "completed") {
                return {};
            }
        }
        // Not begun, it has not forgotten for what it was to wait.
        if (unplugs() && !begun_) {
            if (const auto reset = source_->hold_for({}); !reset) {
                failure.message += "; hold-for is still set: " + reset.error().message;
            }
        }
        const auto back = unplug_.put_back(*pacer_);
        report_.plugged_back = unplug_.put_back_ids();
        if (!back) {
            failure.message += "; source: " + back.error().message;
        }
        if (const std::string state = settled_state(); state != state_before_) {
            failure.message += fmt::format("; the source is {}, and was {}", state, state_before_);
        }
        return tl::unexpected(std::move(failure));
    }

    /* QEMU lets the VM go on a moment after a migration has failed. */
    std::string settled_state() {
        const Moment limit = pacer_->now() + resume_limit;
        while (true) {
            const auto state = source_->run_state();
            if (!state) {
                return "unknown";
            }
            if (*state == state_before_ || pacer_->now() >= limit) {
                return *state;
            }
            wait();
        }
    }

    /* Until it is over, whichever way. */
    Step cancel() {
        const Moment limit = pacer_->now() + end_limit;
        bool asked = false;
        while (true) {
            const auto now = look();
            if (!now) {
                return fail(exit_failed, "how it ends is unknown");
            }
            if (!now->migration.running()) {
                return {};
            }
            if (!asked) {
                if (const auto cancelled = source_->cancel(); !cancelled) {
                    return fail(exit_failed, "not cancelled: " + cancelled.error().message);
                }
                asked = true;
            } else if (pacer_->now() >= limit) {
                return fail(exit_failed, "it is being cancelled still");
            }
            wait();
        }
    }

    Step replace() {
        if (options_->replacements.empty()) {
            return {};
        }
        const auto failed = [](const std::string& why) {
            return fail(exit_failed, "the VM has moved, but without its replacement: " + why);
        };
        const Moment limit = pacer_->now() + end_limit;
        while (true) {
            const auto state = destination_->vm->run_state();
            if (!state) {
                return failed("destination: " + state.error().message);
            }
            if (*state != "inmigrate") {
                break;
            }
            if (pacer_->now() >= limit) {
                return failed("the destination does not finish");
            }
            wait();
        }
        for (const json& replacement : options_->replacements) {
            if (const auto added = destination_->vm->device_add(replacement); !added) {
                return failed("destination: " + added.error().message);
            }
        }
        return {};
    }

    /* What was set for this migration is as before. */
    void finish(Step& ended) {
        if (const auto left = unplug_.first_left()) {
            report_.unplugged_ms = static_cast<std::uint64_t>(
                std::chrono::duration_cast<Milliseconds>(pacer_->now() - *left).count());
        }
        std::vector<std::string> changed;
        for (const auto& [name, value] : {std::pair{"downtime-limit", options_->max_downtime_ms},
                                          std::pair{"max-bandwidth", options_->bandwidth}}) {
            const auto before = parameters_.find(name);
            if (value && before != parameters_.end() &&
                !source_->set_parameter(name, before->second)) {
                changed.emplace_back(name);
            }
        }
        if (has_answers(destination_->uri) && !return_path_before_ &&
            !source_->set_capability(return_path, false)) {
            changed.emplace_back(return_path);
        }
        // QEMU may be gone, which has been said then. A VM that has moved does not need them.
        if (!ended && !changed.empty()) {
            ended.error().message += fmt::format("; not as before: {}", fmt::join(changed, ", "));
        }
    }

    const Vm* source_;
    const Destination* destination_;
    const MigrateOptions* options_;
    Pacer* pacer_;
    const std::function<void(const Snapshot&)>* show_;

    MigrateReport report_;
    Unplug unplug_;
    std::string state_before_;
    Parameters parameters_; // before
    bool return_path_before_ = false;
    bool begun_ = false;
    bool running_ = false; // has been seen so: the status is of this migration
    Moment asked_at_;
};

} // namespace

MigrateReport migrate(const Vm& source, const Destination& destination,
                      const MigrateOptions& options, Pacer& pacer,
                      const std::function<void(const Snapshot&)>& show) {
    return Run(source, destination, options, pacer, show).run();
}

json to_json(const MigrateReport& report) {
    return {{"status", report.status},
            {"message", report.message},
            {"total_ms", report.total_ms},
            {"downtime_ms", report.downtime_ms},
            {"passes", report.passes},
            {"ram_bytes_sent", report.ram_bytes_sent},
            {"pages_marked", report.pages_marked},
            {"unplugged_ms", report.unplugged_ms ? json(*report.unplugged_ms) : json()},
            {"devices", report.devices},
            {"plugged_back", report.plugged_back}};
}

} // namespace pvdirty::cli
