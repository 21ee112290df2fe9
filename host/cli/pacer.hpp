// SPDX-License-Identifier: MIT
/** Time, and whether the operator wants an end; tests put a clock of their own in its place. */
#ifndef PVDIRTY_CLI_PACER_HPP
#define PVDIRTY_CLI_PACER_HPP

#include <chrono>

namespace pvdirty::cli {

using Milliseconds = std::chrono::milliseconds;
using Moment = std::chrono::steady_clock::time_point;

class Pacer {
public:
    Pacer() = default;
    Pacer(const Pacer&) = delete;
    Pacer& operator=(const Pacer&) = delete;
    virtual ~Pacer() = default;

    [[nodiscard]] virtual Moment now() const = 0;
    /** Has Ctrl-C or its like arrived? It stays so. */
    [[nodiscard]] virtual bool interrupted() const = 0;
    /** Waits; not longer than until the next interruption or until a monitor has news. */
    virtual void pause(Milliseconds time) = 0;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_PACER_HPP
