// SPDX-License-Identifier: MIT
/** The pacer of the command itself. */
#ifndef PVDIRTY_CLI_REAL_PACER_HPP
#define PVDIRTY_CLI_REAL_PACER_HPP

#include <array>

#include <poll.h>

#include "cli/pacer.hpp"
#include "cli/qmp.hpp"
#include "cli/signals.hpp"

namespace pvdirty::cli {

/** The clock of this machine, its signals, and the news of one monitor; both outlive it. */
class RealPacer final : public Pacer {
public:
    RealPacer(const Signals& signals, const Qmp& monitor)
        : signals_(&signals), monitor_(&monitor) {}

    [[nodiscard]] Moment now() const override { return std::chrono::steady_clock::now(); }
    [[nodiscard]] bool interrupted() const override { return signals_->interrupted(); }
    void pause(Milliseconds time) override {
        // A signal that has arrived already must not make the clean-up spin.
        const int signals = interrupted() ? -1 : signals_->descriptor();
        std::array<pollfd, 2> ready{{{signals, POLLIN, 0}, {monitor_->descriptor(), POLLIN, 0}}};
        ::poll(ready.data(), ready.size(), static_cast<int>(time.count()));
    }

private:
    const Signals* signals_;
    const Qmp* monitor_;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_REAL_PACER_HPP
