// SPDX-License-Identifier: MIT
/* The states and the events of the policy's table, and how a cell is played. */
#include "unit/policy/table.hpp"

namespace pvdirty::test {

namespace {

void track(Scene& scene) {
    scene.binds();
    scene.registers();
}

constexpr Policy refuse{};
constexpr Policy all_dirty{.on_incomplete = OnIncomplete::all_dirty};
constexpr Policy blind{.blind = true};

template <class Function>
auto by_policy(Function function) {
    return ByPolicy<decltype(function(refuse))>{function(refuse), function(all_dirty),
                                                function(blind)};
}

} // namespace

const std::vector<StateCase>& state_cases() {
    static const std::vector<StateCase> cases = {
        {"no device", "no covered device; the ports are registered",
         [](Scene& scene) {
             scene.unplug_all_devices();
             scene.registers();
         }},
        {"silent", "a covered device; the guest has not registered", [](Scene&) {}},
        {"TOUCH", "the guest took TOUCH only",
         [](Scene& scene) {
             scene.binds();
             scene.registers(feature_touch);
         }},
        {"BITMAP", "the guest took BITMAP without INFLIGHT",
         [](Scene& scene) {
             scene.binds();
             scene.registers(feature_bitmap);
         }},
        {"tracked", "all is well", track},
        {"untracked", "the guest names a reason why it does not track the device",
         [](Scene& scene) {
             track(scene);
             scene.unbinds(PVDIRTY_R_EARLY_DRIVER);
         }},
        {"no number", "the guest has not numbered the device's bus",
         [](Scene& scene) {
             track(scene);
             scene.forgets_number();
         }},
        {"no entry", "the guest says nothing of the device",
         [](Scene& scene) { scene.registers(); }},
        {"incomplete", "the guest has set a bit of `incomplete`",
         [](Scene& scene) {
             track(scene);
             scene.maps_outside();
         }},
        {"big flight", "tracked, and more pages in flight than the limit",
         [](Scene& scene) {
             track(scene);
             scene.maps_more_than_the_limit();
         }},
        {"unsavable", "tracked, but the device's state cannot be saved",
         [](Scene& scene) {
             track(scene);
             scene.cannot_save();
         }},
        {"to leave", "the same, and the migration was told to wait until it has gone",
         [](Scene& scene) {
             track(scene);
             scene.cannot_save();
             scene.waits_for_all();
         }},
        {"log gone", "the RAM that held the log was unplugged",
         [](Scene& scene) {
             track(scene);
             scene.remove_ram(true);
         }},
        {"log refused", "came by a migration, and the log was refused here",
         [](Scene& scene) {
             track(scene);
             scene.move(true);
         }},
    };
    return cases;
}

const std::vector<EventCase>& event_cases() {
    static const std::vector<EventCase> cases = {
        {"nothing but work", false, false, [](Scene& scene) { scene.work(); }},
        {"the VM is reset", false, false, [](Scene& scene) { scene.reset(); }},
        {"the guest unregisters", false, false, [](Scene& scene) { scene.unregisters(); }},
        {"the guest registers (again), all features, all devices tracked", false, false,
         [](Scene& scene) {
             scene.registers();
             scene.binds();
         }},
        {"the guest gives a port up (FAILED)", false, false,
         [](Scene& scene) { scene.gives_up(); }},
        {"a new kernel enumerates the ports", false, false,
         [](Scene& scene) { scene.enumerates(); }},
        {"the driver is unbound", true, true, [](Scene& scene) { scene.unbinds(); }},
        {"the driver is unbound, and bound again under the layer", true, true,
         [](Scene& scene) {
             scene.unbinds();
             scene.binds();
         }},
        {"the guest removes the device, then the VMM", true, false,
         [](Scene& scene) {
             scene.removes();
             scene.unplug_all_devices();
         }},
        {"the VMM removes the device at once", true, false,
         [](Scene& scene) { scene.unplug_all_devices(); }},
        {"the guest removes the device, and something of it is left in the VMM", true, false,
         [](Scene& scene) {
             scene.removes();
             scene.unplugs_all_at_bus();
         }},
        {"the driver is unbound, then the VMM removes the device", true, true,
         [](Scene& scene) {
             scene.unbinds();
             scene.unplug_all_devices();
         }},
        {"a device is plugged, and never tracked", false, false,
         [](Scene& scene) { scene.plug(); }},
        {"a device is plugged, and tracked from its driver's start", false, true,
         [](Scene& scene) {
             scene.plug();
             scene.binds();
         }},
        {"a device is plugged, and removed again", false, false,
         [](Scene& scene) {
             scene.plug();
             scene.unplug_all_devices();
         }},
        {"a port is unplugged, with the devices below", false, false,
         [](Scene& scene) { scene.unplug_port(); }},
        {"a page outside every section is mapped", false, true,
         [](Scene& scene) { scene.maps_outside(); }},
        {"a page is unmapped more often than mapped", false, true,
         [](Scene& scene) { scene.unmaps_once_too_often(); }},
        {"more pages are in flight than the limit", false, true,
         [](Scene& scene) { scene.maps_more_than_the_limit(); }},
        {"the device's bus gets another number", true, false,
         [](Scene& scene) { scene.renumbers(); }},
        {"RAM with the log in it is unplugged", false, true,
         [](Scene& scene) { scene.remove_ram(true); }},
        {"other RAM is unplugged", false, false, [](Scene& scene) { scene.remove_ram(false); }},
        {"the state of the ports is loaded", false, false,
         [](Scene& scene) { scene.load_ports(); }},
        {"the migration is cancelled, and started again", false, false,
         [](Scene& scene) {
             scene.end_session();
             scene.start_session();
         }},
        {"the VM has moved, runs there, and is migrated on", false, false,
         [](Scene& scene) {
             scene.move(false);
             scene.start_session();
         },
         true},
        {"the same, and its log is refused there", false, true,
         [](Scene& scene) {
             scene.move(true);
             scene.start_session();
         },
         true},
    };
    return cases;
}

std::optional<Answers> play(const StateCase& state, const EventCase& event) {
    constexpr std::uint64_t threshold = std::uint64_t{1} << 20;
    constexpr std::uint64_t ram = Scene::ram_bytes;
    Scene scene;
    state.prepare(scene);
    if ((event.needs_device && !scene.covered()) || (event.needs_log && !scene.domain().log()) ||
        (event.needs_end && (scene.unsavable() || scene.awaited()))) {
        return std::nullopt;
    }
    scene.start_session();
    event.happen(scene);

    Answers answers;
    answers.harvest = scene.harvest();
    answers.latched = scene.domain().latched();
    answers.later = scene.harvest();
    answers.was_untracked = scene.was_untracked();
    answers.awaited = scene.awaited();
    answers.in_the_way = answers.awaited || scene.unsavable();
    answers.round = by_policy(
        [&](const Policy& policy) { return policy.round(scene.domain(), ram, threshold); });
    answers.final_pass =
        by_policy([&](const Policy& policy) { return policy.final_pass(scene.domain(), ram); });
    answers.save =
        by_policy([&](const Policy& policy) { return policy.may_save(scene.domain(), ram, true); });

    scene.end_session();
    scene.start_session();
    answers.untracked = scene.untracked();
    answers.unsavable = scene.unsavable();
    answers.start = by_policy([&](const Policy& policy) {
        return policy.may_start(scene.domain(), MigrationKind::pre_copy, ram);
    });
    return answers;
}

namespace {

/* What must hold while a device is there that must not be when the migration ends. */
std::string judge_in_the_way(const Answers& answers) {
    for (const auto& pass :
         {answers.final_pass.refuse, answers.final_pass.all_dirty, answers.final_pass.blind}) {
        if (pass.pass != FinalPass::fail || pass.message.empty()) {
            return "it ends with the device still there, or fails without a word";
        }
    }
    if (answers.save.refuse.allowed || answers.save.all_dirty.allowed ||
        answers.save.blind.allowed) {
        return "a port is saved with the device still there";
    }
    for (const auto& round : {answers.round.refuse, answers.round.all_dirty, answers.round.blind}) {
        if (answers.awaited && !round.fail && !round.hold) {
            return "a round does not wait for the device";
        }
    }
    return "";
}

} // namespace

std::string judge(const Answers& answers) {
    if (answers.in_the_way) {
        if (auto wrong = judge_in_the_way(answers); !wrong.empty()) {
            return wrong;
        }
    }
    if (answers.unsavable && (answers.start.refuse.allowed || answers.start.all_dirty.allowed ||
                              answers.start.blind.allowed)) {
        return "one starts with a state that cannot be saved";
    }
    if (answers.was_untracked) {
        if (!answers.harvest.all_dirty || !answers.later.all_dirty) {
            return "a harvest says clean";
        }
        if (answers.latched.empty()) {
            return "nothing says why";
        }
        if (!answers.round.refuse.fail || answers.final_pass.refuse.pass != FinalPass::fail ||
            answers.save.refuse.allowed) {
            return "refuse lets it go on";
        }
        if (!answers.in_the_way && (answers.round.all_dirty.fail ||
                                    answers.final_pass.all_dirty.pass != FinalPass::all_dirty ||
                                    answers.final_pass.all_dirty.message.empty())) {
            return "all-dirty does not send all, or not aloud";
        }
    }
    if (answers.untracked) {
        if (answers.start.refuse.allowed || answers.start.refuse.message.empty()) {
            return "refuse starts";
        }
        if (answers.start.all_dirty.allowed == answers.unsavable ||
            answers.start.all_dirty.message.empty()) {
            return "all-dirty does not start, or starts quietly";
        }
    }
    return "";
}

} // namespace pvdirty::test
