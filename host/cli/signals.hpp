// SPDX-License-Identifier: MIT
/** Ctrl-C and its like as a thing to ask for, so that a command can clean up. */
#ifndef PVDIRTY_CLI_SIGNALS_HPP
#define PVDIRTY_CLI_SIGNALS_HPP

#include <csignal>

#include "cli/descriptor.hpp"

namespace pvdirty::cli {

/**
 * While it lives, SIGINT, SIGTERM and SIGHUP only make it readable, and a reader of our output
 * that goes away (SIGPIPE) ends nothing. For a program with one thread; one at a time.
 */
class Signals {
public:
    Signals();
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;
    ~Signals();

    /** Readable from the first signal on; -1 if the kernel gives none. */
    [[nodiscard]] int descriptor() const noexcept { return fd_.get(); }
    [[nodiscard]] bool interrupted() const noexcept;

private:
    sigset_t before_{};
    struct sigaction pipe_before_ {};
    Descriptor fd_;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_SIGNALS_HPP
