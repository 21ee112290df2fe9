// SPDX-License-Identifier: MIT
#include "unit/policy/scene.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace pvdirty::test {

namespace {

constexpr int disk0_rid = 0x200;
constexpr std::size_t net0_slot = 7;
constexpr std::size_t disk0_slot = 8;

std::array<std::uint8_t, port_state_len> save(const Port& port) {
    std::array<std::uint8_t, port_state_len> state{};
    port.save(state);
    return state;
}

} // namespace

Scene::Scene() : devices_{{&vm_->net0, vm_->net0_rid, net0_slot}} {}

bool Scene::untracked() const noexcept {
    return std::any_of(devices_.begin(), devices_.end(), [this](const Covered& covered) {
        return !covered.quiet && (!complete_log_ || incomplete_ || !covered.tracked);
    });
}

bool Scene::any_left(bool (*has)(const Covered&)) const noexcept {
    return std::any_of(devices_.begin(), devices_.end(), has) ||
           std::any_of(left_behind_.begin(), left_behind_.end(), has);
}

bool Scene::unsavable() const noexcept {
    return any_left([](const Covered& covered) { return !covered.savable; });
}

bool Scene::awaited() const noexcept {
    return any_left([](const Covered& covered) { return covered.awaited; });
}

void Scene::start_session() {
    vm_->domain.set_logging(Logger::session, true);
    vm_->domain.set_logging(Logger::dirty_log, true);
    was_untracked_ = untracked();
}

void Scene::end_session() {
    vm_->domain.set_logging(Logger::dirty_log, false);
    vm_->domain.set_logging(Logger::session, false);
    // Whoever migrates next says anew what to wait for.
    for (auto* list : {&devices_, &left_behind_}) {
        for (Covered& covered : *list) {
            vm_->domain.hold_for(*covered.device, false);
            covered.awaited = false;
        }
    }
}

void Scene::drop_registration() noexcept {
    complete_log_ = false;
    observe();
}

void Scene::reset() {
    vm_->rp0.reset();
    vm_->rp1.reset();
    drop_registration();
}

void Scene::plug() {
    Device& device = vm_->domain.add_device(vm_->rp1, "disk0", [] { return disk0_rid; });
    devices_.push_back({&device, disk0_rid, disk0_slot});
    observe();
}

void Scene::unplug_port() {
    vm_->domain.remove_port(vm_->rp0);
    std::erase_if(devices_, [this](const Covered& covered) {
        if (covered.slot == net0_slot) {
            vm_->domain.remove_device(*covered.device);
        }
        return covered.slot == net0_slot;
    });
}

void Scene::unplug_all_devices() {
    for (const Covered& covered : devices_) {
        vm_->domain.remove_device(*covered.device);
    }
    devices_.clear();
}

void Scene::cannot_save() {
    for (Covered& covered : devices_) {
        vm_->domain.set_migratable(*covered.device, false);
        covered.savable = false;
    }
}

void Scene::waits_for_all() {
    for (Covered& covered : devices_) {
        vm_->domain.hold_for(*covered.device, true);
        covered.awaited = true;
    }
}

void Scene::unplugs_all_at_bus() {
    for (const Covered& covered : devices_) {
        vm_->domain.unplug_device(*covered.device);
        left_behind_.push_back(covered);
    }
    devices_.clear();
}

void Scene::remove_ram(bool of_the_log) {
    if (of_the_log) {
        vm_->domain.ram_removed(vm_->guest.log.addr(), PVDIRTY_PAGE_SIZE);
        drop_registration();
    } else {
        vm_->domain.ram_removed(0, PVDIRTY_PAGE_SIZE);
    }
}

void Scene::load_ports() {
    // What a port loads is what it was; while it loads, nobody vouches for anything.
    for (Port* port : {&vm_->rp0, &vm_->rp1}) {
        if (!port->load(save(*port))) {
            std::abort();
        }
    }
    was_untracked_ = was_untracked_ || covered();
}

void Scene::move(bool log_is_refused) {
    auto there = std::make_unique<Vm>();
    const Ram& from = vm_->guest.ram;
    std::memcpy(there->guest.ram.at<std::byte>(from.gpa()), from.at<std::byte>(from.gpa()),
                from.size());
    there->net0_rid = vm_->net0_rid;
    bool has_net0 = false;
    for (Covered& covered : devices_) {
        has_net0 = has_net0 || covered.slot == net0_slot;
        covered.device =
            covered.slot == net0_slot
                ? &there->net0
                : &there->domain.add_device(there->rp1, "disk0", [] { return disk0_rid; });
    }
    if (!has_net0) {
        there->domain.remove_device(there->net0);
    }
    if (log_is_refused) {
        there->guest.log.control().signature = 0;
        complete_log_ = false;
    }
    if (!there->rp0.load(save(vm_->rp0)) || !there->rp1.load(save(vm_->rp1))) {
        std::abort();
    }
    vm_ = std::move(there);
    vm_->domain.running();
    observe();
}

void Scene::work() {
    pvd_hold(vm_->guest.log.core(), 100, 103);
    pvd_release(vm_->guest.log.core(), 100, 101);
}

void Scene::registers(std::uint32_t features) {
    unregisters();
    vm_->guest.log.control().signature = PVDIRTY_LOG_SIGNATURE;
    register_port(vm_->rp0, vm_->guest.log.addr(), vm_->guest.log.pages(), features);
    register_port(vm_->rp1, vm_->guest.log.addr(), vm_->guest.log.pages(), features);
    complete_log_ = features == PVDIRTY_FEATURES_LOG;
    observe();
}

void Scene::unregisters() {
    unregister_port(vm_->rp0);
    unregister_port(vm_->rp1);
    drop_registration();
}

void Scene::gives_up() {
    for (Port* port : {&vm_->rp0, &vm_->rp1}) {
        port->write(offsetof(pvdirty_cap, device_status), VIRTIO_CONFIG_S_FAILED, 1);
    }
    drop_registration();
}

void Scene::enumerates() {
    vm_->rp1.enumerated();
    drop_registration();
}

void Scene::binds() {
    for (Covered& covered : devices_) {
        vm_->entry(covered.slot, covered.rid, PVDIRTY_DEV_TRACKED);
        covered.tracked = true;
    }
    observe();
}

void Scene::unbinds(pvdirty_dev_reason reason) {
    for (Covered& covered : devices_) {
        vm_->entry(covered.slot, covered.rid, PVDIRTY_DEV_UNTRACKED, reason);
        covered.tracked = false;
    }
    pvd_gap(vm_->guest.log.core());
    observe();
}

void Scene::removes() {
    for (Covered& covered : devices_) {
        vm_->entry(covered.slot, 0, PVDIRTY_DEV_FREE);
        covered.quiet = true;
    }
}

void Scene::renumbers() {
    vm_->net0_rid = 0x108;
}

void Scene::forgets_number() {
    vm_->net0_rid = -1;
    for (Covered& covered : devices_) {
        covered.tracked = covered.tracked && covered.slot != net0_slot;
    }
    observe();
}

void Scene::maps_outside() {
    const std::uint64_t outside = 2 * PVDIRTY_WINDOW_PAGES;
    pvd_hold(vm_->guest.log.core(), outside, outside);
    incomplete_ = true;
    observe();
}

void Scene::unmaps_once_too_often() {
    constexpr std::uint64_t never_mapped = PVDIRTY_WINDOW_PAGES - 1;
    pvd_release(vm_->guest.log.core(), never_mapped, never_mapped);
    incomplete_ = true;
    observe();
}

void Scene::maps_more_than_the_limit() {
    constexpr std::uint64_t pages = (ram_bytes / 2 + (16 << 20)) / PVDIRTY_PAGE_SIZE;
    pvd_hold(vm_->guest.log.core(), 0, pages - 1);
}

} // namespace pvdirty::test
