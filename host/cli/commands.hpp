// SPDX-License-Identifier: MIT
/** The subcommands: what each reads from the command line, and how it is run then. */
#ifndef PVDIRTY_CLI_COMMANDS_HPP
#define PVDIRTY_CLI_COMMANDS_HPP

#include <cstdio>
#include <functional>

namespace CLI {
class App;
}

namespace pvdirty::cli {

struct Command {
    CLI::App* app = nullptr; /**< owned by the one it was added to */
    /** Once it is parsed: writes results and messages, returns the exit code. */
    std::function<int(std::FILE* out, std::FILE* err)> run;
};

Command add_status(CLI::App& app);
Command add_watch(CLI::App& app);
Command add_migrate(CLI::App& app);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_COMMANDS_HPP
