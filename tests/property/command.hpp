// SPDX-License-Identifier: MIT
/** What may happen to a VM that is migrated: random commands for world.hpp. */
#ifndef PVDIRTY_TESTS_PROPERTY_COMMAND_HPP
#define PVDIRTY_TESTS_PROPERTY_COMMAND_HPP

#include <ostream>
#include <vector>

#include <rapidcheck.h>

namespace pvdirty::test {

/**
 * Any command is possible at any time: the numbers choose among what is there, and a command for
 * which there is nothing does nothing. So every part of a sequence is a sequence, and shrinks.
 */
struct Command {
    enum Kind {
        // The guest's, also while the host is inside one of its own.
        map,    // a driver maps pages for a device
        unmap,  // the device is done with a mapping, its driver unmaps it
        sync,   // the device is done with a part of it, its driver reads that
        write,  // a device writes to a mapping
        stick,  // a page is mapped until its counter sticks
        step,   // a CPU makes some accesses to the log
        finish, // a CPU finishes what it does
        unbind, // a device loses its driver, and is not tracked from then on
        bind,   // a device gets a driver and is tracked
        retire, // the guest gives a device up in good order
        stray,  // a device that is not tracked writes anywhere
        // The host's. The next commands of the guest may fall into them.
        start, // a migration begins
        harvest,
        // Each as a whole.
        copy,   // the host sends some of its dirty pages
        stop,   // the last pass; then on at the source or at the destination
        cancel, // the migration is given up
        enter,  // a port is registered
        leave,  // a port is unregistered
        reset_port,
        reset,  // the machine is reset, and a kernel comes up
        crash,  // a new kernel comes up without a word of the old one
        plug,   // a device comes
        unplug, // a device goes, given up by the guest or not
        plug_port,
        unplug_port,
        log_gone // the RAM with the log is taken away
    } kind = map;
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;

    [[nodiscard]] bool is_guests() const noexcept { return kind <= stray; }
};

/** What happens in a VM to which nothing bad happens: no device is ever untracked. */
rc::Gen<std::vector<Command>> quiet_life();
/** Devices that are tracked, and not, and again. */
rc::Gen<std::vector<Command>> unsteady_life();
/** Everything. */
rc::Gen<std::vector<Command>> any_life();

std::ostream& operator<<(std::ostream& out, const Command& command);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_COMMAND_HPP
