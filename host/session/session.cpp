// SPDX-License-Identifier: MIT
/* Logging, harvests, and the latch. */
#include "pvdirty/domain.hpp"
#include "pvdirty/error.hpp"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

namespace pvdirty {

namespace {

/* Words of the device table, in order of their routing ids. */
bool by_rid(std::uint32_t a, std::uint32_t b) noexcept {
    return PVDIRTY_DEV_RID(a) < PVDIRTY_DEV_RID(b);
}

} // namespace

/*
 * The gaps word is read before the device table. The guest first takes TRACKED out of the table,
 * then raises gaps, then stops tracking. So a device that is seen TRACKED here and is not tracked
 * at some later moment has raised gaps after our read, and the next look sees it even if the table
 * looks well again by then.
 */
struct Domain::View {
    std::uint32_t gaps = 0;
    DeviceTable devices{};
    std::size_t used = 0; // entries that are not free: these come first, by routing id
    std::uint32_t incomplete = 0;

    /** Entries with this routing id. */
    [[nodiscard]] std::span<const std::uint32_t> at(int rid) const {
        const auto* const end = devices.data() + used;
        const auto [from, to] =
            std::equal_range(devices.data(), end, PVDIRTY_DEV(rid, 0, 0), by_rid);
        return {from, to};
    }
};

Domain::View Domain::view() const {
    View view;
    if (log_) {
        view.gaps = log_->gaps();
        view.devices = log_->devices();
        view.incomplete = log_->incomplete();
        auto* const end =
            std::remove_if(view.devices.begin(), view.devices.end(), [](std::uint32_t word) {
                return PVDIRTY_DEV_STATE(word) == PVDIRTY_DEV_FREE;
            });
        std::sort(view.devices.begin(), end, by_rid);
        view.used = static_cast<std::size_t>(end - view.devices.begin());
    }
    return view;
}

/* Why one device is not tracked completely, or nothing. rid: where it is now. */
std::optional<std::string> Domain::why_untracked(const Device& device, int rid,
                                                 const View& view) const {
    const auto because = [&](std::string_view reason) {
        return device.label() + ": " + std::string(reason);
    };
    const Capability& capability = device.port().capability();
    if (!capability.registered()) {
        return because("the guest has not registered the port");
    }
    if (!capability.registration().can_be_complete()) {
        return because("the guest took neither or only one of BITMAP and INFLIGHT");
    }
    if (!log_ || !device.port().uses_log_) {
        return because("no log is registered");
    }
    if (rid < 0) {
        return because("the guest has not enumerated it");
    }
    bool tracked = false;
    for (const std::uint32_t word : view.at(rid)) {
        if (PVDIRTY_DEV_STATE(word) != PVDIRTY_DEV_TRACKED) {
            return because(describe_device_reason(PVDIRTY_DEV_REASON(word)));
        }
        tracked = true;
    }
    /*
     * The entry of a device that was tracked goes when the guest has removed the device, a moment
     * before the VMM does. Any other way to stop tracking it raises gaps.
     */
    const bool removed = device.tracked_rid_ == rid && view.gaps == gaps_seen_;
    if (!tracked && !removed) {
        return because("the guest does not see it, or has no layer for it");
    }
    return std::nullopt;
}

std::optional<std::string> Domain::why_log_incomplete(const View& view) const {
    if (log_ && view.incomplete != 0) {
        return "log: " + std::string(describe_incomplete(view.incomplete));
    }
    return std::nullopt;
}

std::optional<std::string> Domain::why_untracked(const Device& device) const {
    const View now = view();
    auto why = why_untracked(device, device.rid_(), now);
    return why ? why : why_log_incomplete(now);
}

std::optional<std::string> Domain::why_incomplete() const {
    if (devices_.empty()) {
        return std::nullopt;
    }
    const View now = view();
    for (const Device& device : devices_) {
        if (auto why = why_untracked(device, device.rid_(), now)) {
            return why;
        }
    }
    return why_log_incomplete(now);
}

void Domain::latch(const std::string& reason) {
    if (!exposed_ || !latched_.empty()) {
        return;
    }
    latched_ = reason;
    pending_.store(UINT64_MAX, std::memory_order_relaxed);
}

/* Evaluates once, and latches. */
void Domain::look() {
    if (!exposed_) {
        return;
    }
    const View now = view();
    for (Device& device : devices_) {
        const int rid = device.rid_();
        const auto why = why_untracked(device, rid, now);
        device.tracked_rid_ = why ? -1 : rid;
        if (why) {
            latch(*why);
        }
    }
    if (const auto why = why_log_incomplete(now)) {
        latch(*why);
    }
    if (log_ && std::exchange(gaps_seen_, now.gaps) != now.gaps) {
        latch("log: the guest stopped tracking a device for a while");
    }
}

void Domain::unplug_device(Device& device) {
    if (device.port_ == nullptr) {
        return; // it is, by itself or with its port
    }
    /*
     * Its marks and counters stay in the log, so its writes are not lost if it was tracked to its
     * end. By now the guest may have freed its entry, and the VMM its routing id.
     */
    const View now = view();
    if (const auto why = why_untracked(device, device.tracked_rid_, now)) {
        latch(*why);
    } else if (const auto log_why = why_log_incomplete(now)) {
        latch(*log_why);
    } else if (now.gaps != gaps_seen_) {
        latch(device.label() + ": was not tracked for a while before it was removed");
    }
    const auto at = std::find_if(devices_.begin(), devices_.end(),
                                 [&](const Device& other) { return &other == &device; });
    unplugged_.splice(unplugged_.end(), devices_, at);
    device.port_ = nullptr;
}

bool Domain::logging() const noexcept {
    return std::any_of(loggers_.begin(), loggers_.end(), [](bool on) { return on; });
}

/*
 * A start of logging loses nothing in this order:
 * 1. Old marks are discarded while the word is still 0. Whatever they stand for was written before
 *    now, so before the publication.
 * 2. The word is published and fenced. A device write whose release read the old word is visible
 *    to whoever reads RAM from here on: the first pass has it. One whose release reads the new
 *    word is marked, and no mark is discarded any more.
 * 3. Completeness is evaluated last: a device that was not tracked before this point and is now
 *    wrote before the first pass; one that stops being tracked later raises gaps or incomplete,
 *    which the next look compares with this one.
 * When a user comes while another is logging, the marks are of use to the other and are not
 * discarded.
 */
void Domain::set_logging(Logger who, bool on) {
    bool& logger = loggers_[static_cast<std::size_t>(who)];
    if (logger == on) {
        return;
    }
    const bool was_logging = logging();
    logger = on;
    if (!on) {
        if (log_ && !logging()) {
            log_->publish(false);
        }
        return;
    }
    if (log_) {
        if (!was_logging) {
            log_->harvest(PageSink());
        }
        log_->publish(true); // also for a second user: a loaded log may say something else
    }
    if (who == Logger::session) {
        statistics_ = {};
    }
    if (!was_logging || who == Logger::session) {
        begin();
    }
}

/* Evaluates anew: what was latched before concerns RAM that the first pass copies now. */
void Domain::begin() {
    latched_.clear();
    exposed_ = !devices_.empty();
    pending_.store(0, std::memory_order_relaxed);
    for (Device& device : devices_) {
        device.tracked_rid_ = -1;
    }
    if (log_) {
        gaps_seen_ = log_->gaps();
    }
    look();
}

void Domain::running() {
    if (log_ && log_->published() != logging()) {
        log_->publish(logging());
    }
}

HarvestResult Domain::harvest(PageSink in_flight, PageSink marked, PageRange range) {
    HarvestResult result;
    if (log_) {
        // Counters before marks: a page that is released in between is marked before it is
        // counted down, so one of the two has it.
        result.pages_in_flight = log_->scan(in_flight);
        result.pages_marked = log_->harvest(marked, range);
    }
    look();
    result.all_dirty = !latched_.empty();
    if (!result.all_dirty) {
        pending_.store(result.pages_in_flight, std::memory_order_relaxed);
    }
    if (in_session()) {
        statistics_.harvests++;
        statistics_.pages_marked += result.pages_marked;
        statistics_.pages_in_flight = result.pages_in_flight;
        statistics_.answered_all_dirty += result.all_dirty ? 1 : 0;
    }
    return result;
}

bool Domain::page_in_flight(std::uint64_t pfn) const {
    if (!log_) {
        return !devices_.empty();
    }
    return log_->in_flight(pfn).value_or(log_->incomplete() != 0);
}

} // namespace pvdirty
