// SPDX-License-Identifier: MIT
/** Says how a migration gets on, while it does. */
#ifndef PVDIRTY_CLI_PROGRESS_HPP
#define PVDIRTY_CLI_PROGRESS_HPP

#include <cstdio>
#include <optional>
#include <string>

#include "cli/migrate.hpp"

namespace pvdirty::cli {

/** One line that is drawn again on a terminal, else a line now and then. */
class Progress {
public:
    /** @param out outlives this */
    Progress(std::FILE* out, bool terminal) : out_(out), terminal_(terminal) {}
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    /** Leaves the terminal's line. */
    ~Progress();

    void show(const Snapshot& now);

private:
    void measure(const Snapshot& now);
    [[nodiscard]] std::string rates(const Snapshot& now) const;

    std::FILE* out_;
    bool terminal_;
    bool drawn_ = false;
    std::optional<Snapshot> base_;   // what the rate of sending is measured from
    std::optional<Snapshot> synced_; // likewise that of marking
    std::optional<double> marked_;   // by devices, in bytes per second
    std::optional<double> sent_;     // in bytes per second
    std::string phase_;              // of the last line
    std::optional<Moment> shown_;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_PROGRESS_HPP
