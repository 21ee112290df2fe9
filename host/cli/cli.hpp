// SPDX-License-Identifier: MIT
/** The command line `pvdirty`. */
#ifndef PVDIRTY_CLI_CLI_HPP
#define PVDIRTY_CLI_CLI_HPP

#include <cstdio>

namespace pvdirty::cli {

/** Exit codes of every command of ours. */
enum Exit : int {
    exit_done = 0,
    exit_failed = 1,
    exit_usage = 2,
    exit_refused = 3, /**< by policy */
    exit_timeout = 4,
    exit_interrupted = 130,
};

/**
 * Runs the command.
 * @param out,err where results and messages go
 * @returns the exit code
 */
int run(int argc, const char* const* argv, std::FILE* out, std::FILE* err);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_CLI_HPP
