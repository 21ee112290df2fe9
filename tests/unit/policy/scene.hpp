// SPDX-License-Identifier: MIT
/** A VM for the policy's table: what may happen to it, and what is true of it by its own account.
 */
#ifndef PVDIRTY_TESTS_UNIT_POLICY_SCENE_HPP
#define PVDIRTY_TESTS_UNIT_POLICY_SCENE_HPP

#include <cstdint>
#include <memory>
#include <vector>

#include "unit/vm.hpp"

namespace pvdirty::test {

/**
 * Ports rp0, with the device net0, and rp1; nobody has registered them. Each action does to the
 * real library what guest and VMM would do. Beside it the scene keeps book of what is true: it
 * asks no library whether a device is tracked, so it can judge the library's answers.
 */
class Scene {
public:
    /** Guest RAM, for limits. */
    static constexpr std::uint64_t ram_bytes = std::uint64_t{1} << 30;

    Scene();

    [[nodiscard]] const Domain& domain() const noexcept { return vm_->domain; }

    // What is true.
    /** A device is below a port. */
    [[nodiscard]] bool covered() const noexcept { return !devices_.empty(); }
    /** A device may write now without the guest's account of it. */
    [[nodiscard]] bool untracked() const noexcept;
    /** Something is left of a device whose state cannot be saved. */
    [[nodiscard]] bool unsavable() const noexcept;
    /** Something is left of a device that the session was told to wait for. */
    [[nodiscard]] bool awaited() const noexcept;
    /** One could, at some time since the session started. */
    [[nodiscard]] bool was_untracked() const noexcept { return was_untracked_; }

    // The VMM.
    void start_session();
    void end_session();
    HarvestResult harvest() { return vm_->harvest(); }
    void reset();
    void plug(); /**< device disk0 below rp1, that the guest does not know yet */
    void unplug_port();
    void unplug_all_devices();
    void cannot_save();        /**< the state of any device */
    void waits_for_all();      /**< the session is not to end before they are gone */
    void unplugs_all_at_bus(); /**< they leave their buses, and something of each is left */
    void remove_ram(bool of_the_log);
    void load_ports();
    /** Saves the ports, and goes on at another host, with the same RAM. */
    void move(bool log_is_refused);

    // The guest.
    void work();
    void registers(std::uint32_t features = PVDIRTY_FEATURES_LOG);
    void unregisters();
    void gives_up();
    void enumerates();
    void binds(); /**< all devices, after the layer */
    void unbinds(pvdirty_dev_reason reason = PVDIRTY_R_NO_DRIVER); /**< all devices */
    void removes(); /**< all devices, in good order */
    void renumbers();
    void forgets_number();
    void maps_outside();
    void unmaps_once_too_often();
    void maps_more_than_the_limit();

private:
    struct Covered {
        Device* device = nullptr;
        int rid = -1;
        std::size_t slot = 0; // in the device table
        bool tracked = false; // by the guest, as far as it is up to the guest's layer
        bool quiet = false;   // the guest has removed it: no DMA any more
        bool savable = true;
        bool awaited = false;
    };

    /** Does any device, on its bus or not any more, have this? */
    [[nodiscard]] bool any_left(bool (*has)(const Covered&)) const noexcept;

    void observe() noexcept { was_untracked_ = was_untracked_ || untracked(); }
    void drop_registration() noexcept;

    std::unique_ptr<Vm> vm_ = std::make_unique<Vm>();
    std::vector<Covered> devices_;
    std::vector<Covered> left_behind_; // off their buses, and not removed
    bool complete_log_ = false; // registered with BITMAP and INFLIGHT, and in use by the host
    bool incomplete_ = false;   // the guest has said so
    bool was_untracked_ = false;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_POLICY_SCENE_HPP
