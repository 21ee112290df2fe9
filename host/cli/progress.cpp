// SPDX-License-Identifier: MIT
#include "cli/progress.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "cli/units.hpp"

namespace pvdirty::cli {

namespace {

using namespace std::chrono_literals;

constexpr Milliseconds redraw = 200ms;
constexpr Milliseconds now_and_then = 5s;
constexpr Milliseconds window = 1s; // to measure rates over

double per_second(std::uint64_t before, std::uint64_t after, double seconds) {
    return after < before ? 0 : static_cast<double>(after - before) / seconds;
}

std::string rate_text(double bytes) {
    return size_text(static_cast<std::uint64_t>(std::max(bytes, 0.0))) + "/s";
}

} // namespace

Progress::~Progress() {
    if (drawn_) {
        fmt::print(out_, "\n");
    }
}

/* Marks are taken at a sync, and QEMU counts its dirty pages from sync to sync: so do we. */
void Progress::measure(const Snapshot& now) {
    const auto seconds_since = [&](const Snapshot& then) {
        return std::chrono::duration<double>(now.taken - then.taken).count();
    };
    if (!base_) {
        base_ = synced_ = now;
        return;
    }
    if (now.taken >= base_->taken + window) {
        sent_ = per_second(base_->migration.transferred_bytes, now.migration.transferred_bytes,
                           seconds_since(*base_));
        base_ = now;
    }
    // The first sync only begins the first pass: there is nothing to count from before it.
    const bool begins = synced_->migration.passes == 0;
    if (now.migration.passes > synced_->migration.passes &&
        (begins || now.taken >= synced_->taken + window)) {
        if (!begins) {
            marked_ = static_cast<double>(now.migration.page_size) *
                      per_second(synced_->counters.pages_marked, now.counters.pages_marked,
                                 seconds_since(*synced_));
        }
        synced_ = now;
    }
}

/* QEMU's rate counts the writes of CPUs and devices alike, the marks are the devices'. */
std::string Progress::rates(const Snapshot& now) const {
    if (!sent_ || !now.migration.running()) {
        return "";
    }
    std::string sent = fmt::format(", sent {}", rate_text(*sent_));
    if (!marked_) {
        return sent; // nobody knows yet what the first pass leaves
    }
    const double dirtied =
        std::max(*marked_, static_cast<double>(now.migration.page_size) *
                               static_cast<double>(now.migration.dirty_pages_per_second));
    const std::string estimate =
        now.rest.converged || *sent_ <= 0 ? ""
        : *sent_ <= dirtied
            ? ", no end at this rate"
            : fmt::format(", about {:.0f} s left",
                          static_cast<double>(now.migration.remaining_bytes) / (*sent_ - dirtied));
    return fmt::format(", dirty {} by CPUs + {} by DMA{}{}", rate_text(dirtied - *marked_),
                       rate_text(*marked_), sent, estimate);
}

void Progress::show(const Snapshot& now) {
    measure(now);
    const std::string phase =
        now.awaited.empty() || !now.migration.running()
            ? now.migration.status
            : fmt::format("{}, waits for {}", now.migration.status, now.awaited);
    const bool due = !shown_ || now.taken >= *shown_ + (terminal_ ? redraw : now_and_then);
    if (!due && phase == phase_) {
        return;
    }
    fmt::print(out_, "{}{}: pass {}, {} left{}{}", terminal_ ? "\r\x1b[K" : "", phase,
               now.migration.passes, size_text(now.migration.remaining_bytes), rates(now),
               terminal_ ? "" : "\n");
    std::fflush(out_);
    drawn_ = terminal_;
    phase_ = phase;
    shown_ = now.taken;
}

} // namespace pvdirty::cli
