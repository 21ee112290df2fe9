// SPDX-License-Identifier: MIT
#include "cli/unplug.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace pvdirty::cli {

namespace {

using namespace std::chrono_literals;
using Kind = MonitorError::Kind;

constexpr Milliseconds step = 100ms;
// A guest waits 5 s after the attention button before it lets go, whatever becomes of us.
constexpr Milliseconds late = 7s;
constexpr Milliseconds limit = 30s; // a slot is ready for the next device by then

} // namespace

Unplug::Unplug(const Vm& vm, std::vector<Device> devices) : vm_(&vm) {
    // A guest looks at a slot when function 0 comes: the others have to be there by then.
    std::stable_partition(devices.begin(), devices.end(), [](const Device& device) {
        const std::string addr = device.add.front().value("addr", nlohmann::json()).dump();
        const auto dot = addr.find('.');
        return dot != std::string::npos && addr.compare(dot, 3, ".0\"") != 0;
    });
    for (Device& device : devices) {
        entries_.push_back({std::move(device), true, false, ""});
    }
}

bool Unplug::all_plugged() const noexcept {
    return std::all_of(entries_.begin(), entries_.end(),
                       [](const Entry& entry) { return entry.plugged; });
}

bool Unplug::none_plugged() const noexcept {
    return std::none_of(entries_.begin(), entries_.end(),
                        [](const Entry& entry) { return entry.plugged; });
}

bool Unplug::all_gone() const noexcept {
    return std::all_of(entries_.begin(), entries_.end(),
                       [](const Entry& entry) { return entry.gone(); });
}

bool Unplug::guest_let_go() const noexcept {
    return none_plugged() && !all_gone();
}

std::string Unplug::remaining() const {
    std::vector<std::string> ids;
    for (const Entry& entry : entries_) {
        if (!entry.gone()) {
            ids.push_back(entry.device.id);
        }
    }
    return fmt::format("{}", fmt::join(ids, ", "));
}

MonitorResult<void> Unplug::ask(Moment now) {
    asked_ = true;
    all_seen_ = now;
    for (const Entry& entry : entries_) {
        auto answer = vm_->device_del(entry.device.id);
        // Functions of one slot go together: then the first of them took the others with it.
        const bool going =
            !answer && answer.error().kind == Kind::refused &&
            (answer.error().message.find("in the process of unplug") != std::string::npos ||
             answer.error().message.find("not found") != std::string::npos);
        if (!answer && !going) {
            return answer;
        }
    }
    return {};
}

MonitorResult<void> Unplug::look(Moment now) {
    const auto devices = vm_->devices();
    if (!devices) {
        return tl::unexpected(devices.error());
    }
    for (Entry& entry : entries_) {
        // One that leaves and the one that came in its place may have the same id.
        entry.plugged = entry.leaving = false;
        for (const Device& device : *devices) {
            if (device.id == entry.device.id) {
                (device.leaving ? entry.leaving : entry.plugged) = true;
            }
        }
    }
    if (all_plugged()) {
        all_seen_ = now;
    } else if (!first_left_) {
        first_left_ = all_seen_;
    }
    return {};
}

MonitorResult<void> Unplug::plug_in(Entry& entry) {
    entry.refusal.clear();
    for (const nlohmann::json& arguments : entry.device.add) {
        auto added = vm_->device_add(arguments);
        if (!added && added.error().kind != Kind::refused) {
            return added;
        }
        if (!added) {
            entry.refusal = added.error().message;
            return {};
        }
        if (&arguments == &entry.device.add.front()) {
            back_.push_back(entry.device.id);
        }
    }
    return {};
}

MonitorResult<void> Unplug::missing() const {
    std::vector<std::string> ids;
    for (const Entry& entry : entries_) {
        if (!entry.refusal.empty()) {
            // It may be back, without what was on its bus.
            ids.push_back(fmt::format("{} ({})", entry.device.id, entry.refusal));
        } else if (!entry.plugged) {
            ids.push_back(entry.device.id);
        }
    }
    if (ids.empty()) {
        return {};
    }
    return tl::unexpected(
        MonitorError{Kind::refused, fmt::format("not plugged in again: {}", fmt::join(ids, ", "))});
}

MonitorResult<void> Unplug::put_back(Pacer& pacer) {
    if (!asked_) {
        return {};
    }
    const Moment start = pacer.now();
    if (auto looked = look(start); !looked) {
        return looked;
    }
    const Moment settled = none_plugged() ? start : start + late;
    while ((!all_plugged() || pacer.now() < settled) && pacer.now() < start + limit) {
        for (Entry& entry : entries_) {
            if (!entry.plugged) {
                if (auto tried = plug_in(entry); !tried) {
                    return tried;
                }
            }
        }
        pacer.pause(step);
        vm_->monitor().take_events();
        if (auto looked = look(pacer.now()); !looked) {
            return looked;
        }
    }
    return missing();
}

} // namespace pvdirty::cli
