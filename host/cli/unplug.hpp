// SPDX-License-Identifier: MIT
/** Devices that leave a VM for its migration, and come back when it fails. */
#ifndef PVDIRTY_CLI_UNPLUG_HPP
#define PVDIRTY_CLI_UNPLUG_HPP

#include <optional>
#include <string>
#include <vector>

#include "cli/pacer.hpp"
#include "cli/vm.hpp"

namespace pvdirty::cli {

/** Not for several threads. */
class Unplug {
public:
    /**
     * @param vm outlives this
     * @param devices plugged now; each with the arguments to plug it in again
     */
    Unplug(const Vm& vm, std::vector<Device> devices);

    [[nodiscard]] bool asked() const noexcept { return asked_; }
    /** By the last look(). */
    [[nodiscard]] bool all_gone() const noexcept;
    /** By the last look(): the guest has none of them, and QEMU has some still. */
    [[nodiscard]] bool guest_let_go() const noexcept;
    /** Which are not gone, by the last look(): "nic0, disk0". */
    [[nodiscard]] std::string remaining() const;
    /** When all were seen in the guest last, if one has left: not later than it did. */
    [[nodiscard]] std::optional<Moment> first_left() const noexcept { return first_left_; }
    /** Which were plugged in again, by put_back(). */
    [[nodiscard]] const std::vector<std::string>& put_back_ids() const noexcept { return back_; }

    /** Asks the guest to let go of all of them. */
    MonitorResult<void> ask(Moment now);
    /** Sees which are gone: to the end of the object, which is after DEVICE_DELETED. */
    MonitorResult<void> look(Moment now);
    /**
     * Plugs in again what has left, with what was on its buses, also what a guest lets go of late;
     * waits for a bounded time.
     * @returns an error that names what is still missing
     */
    MonitorResult<void> put_back(Pacer& pacer);

private:
    struct Entry {
        Device device;
        bool plugged = true;
        bool leaving = false; // also beside the one that came in its place
        std::string refusal;  // of the last attempt to plug it in again

        [[nodiscard]] bool gone() const noexcept { return !plugged && !leaving; }
    };

    MonitorResult<void> plug_in(Entry& entry);
    [[nodiscard]] MonitorResult<void> missing() const;
    [[nodiscard]] bool all_plugged() const noexcept;
    [[nodiscard]] bool none_plugged() const noexcept;

    const Vm* vm_;
    std::vector<Entry> entries_;
    std::vector<std::string> back_;
    Moment all_seen_; // plugged
    std::optional<Moment> first_left_;
    bool asked_ = false;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_UNPLUG_HPP
