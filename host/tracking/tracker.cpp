// SPDX-License-Identifier: MIT
/* Combining sources. */
#include "pvdirty/tracker.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pvdirty {

std::string Outcome::message() const {
    std::string line;
    for (const Doubt& doubt : doubts) {
        line += (line.empty() ? "" : "; ") + doubt.source + ": " + doubt.reason;
    }
    return line;
}

tl::expected<Outcome, SourceError> Tracker::add(DirtySource& source) {
    if (std::find(sources_.begin(), sources_.end(), &source) != sources_.end()) {
        return tl::unexpected(SourceError{EEXIST, "the tracker has it already"});
    }
    sources_.push_back(&source);
    if (!tracking_) {
        return Outcome{};
    }
    if (const auto started = source.start(); !started) {
        fail(source, started.error());
        return failure();
    }
    owe({}, source.name(), "joined while pages were tracked");
    return Outcome{false, {owed_.back().doubt}};
}

tl::expected<Outcome, SourceError> Tracker::remove(DirtySource& source, const DirtyBitmap* last) {
    const auto at = std::find(sources_.begin(), sources_.end(), &source);
    if (at == sources_.end()) {
        return tl::unexpected(SourceError{ENOENT, "the tracker has no such source"});
    }
    Outcome outcome;
    if (tracking_) {
        if (last != nullptr) {
            const IovaRange range = last->range();
            const std::string why = why_unreadable(range, *last, source.page_size());
            if (!why.empty()) {
                return tl::unexpected(SourceError{EINVAL, why});
            }
            const auto answer = source.started() ? source.read_and_clear(range, *last)
                                                 : tl::expected<Answer, SourceError>(Answer{});
            if (!answer) {
                fail(source, answer.error());
            } else if (!answer->cannot_say.empty()) {
                outcome.doubts.push_back({source.name(), answer->cannot_say});
            }
            if (!failed_.empty()) {
                last->set(range);
            }
            if (range.first != 0) {
                owe({0, range.first - 1}, source.name(), "left");
            }
            if (range.last != UINT64_MAX) {
                owe({range.last + 1, UINT64_MAX}, source.name(), "left");
            }
        } else {
            owe({}, source.name(), "left, and its last pages were not read");
        }
        outcome.all_dirty = !failed_.empty();
        outcome.doubts.insert(outcome.doubts.end(), failed_.begin(), failed_.end());
    }
    if (const auto stopped = source.stop(); !stopped) {
        outcome.doubts.push_back({source.name(), stopped.error().message});
    }
    sources_.erase(at);
    return outcome;
}

Outcome Tracker::start() {
    if (tracking_) {
        return failure();
    }
    owed_.clear();
    failed_.clear();
    for (DirtySource* source : sources_) {
        if (const auto started = source->start(); !started) {
            fail(*source, started.error());
        }
    }
    tracking_ = true;
    return failure();
}

Outcome Tracker::stop() {
    Outcome outcome;
    if (!std::exchange(tracking_, false)) {
        return outcome;
    }
    for (DirtySource* source : sources_) {
        if (const auto stopped = source->stop(); !stopped) {
            outcome.doubts.push_back({source->name(), stopped.error().message});
        }
    }
    return outcome;
}

std::uint64_t Tracker::page_size() const noexcept {
    std::uint64_t size = 1;
    for (const DirtySource* source : sources_) {
        size = std::max(size, source->page_size());
    }
    return size;
}

tl::expected<Outcome, SourceError> Tracker::read_and_clear(IovaRange range,
                                                           const DirtyBitmap& bitmap) {
    if (!tracking_) {
        return tl::unexpected(SourceError{EINVAL, "dirty pages are not tracked"});
    }
    if (const std::string why = why_unreadable(range, bitmap, page_size()); !why.empty()) {
        return tl::unexpected(SourceError{EINVAL, why});
    }
    Outcome outcome;
    if (failed_.empty()) {
        for (DirtySource* source : sources_) {
            const auto answer = source->read_and_clear(range, bitmap);
            if (!answer) {
                fail(*source, answer.error());
            } else if (!answer->cannot_say.empty()) {
                outcome.doubts.push_back({source->name(), answer->cannot_say});
            }
        }
    }
    pay(range, bitmap, outcome);
    if (!failed_.empty()) {
        bitmap.set(range);
        outcome.all_dirty = true;
        outcome.doubts.insert(outcome.doubts.end(), failed_.begin(), failed_.end());
    }
    return outcome;
}

void Tracker::owe(IovaRange range, const std::string& source, const std::string& reason) {
    owed_.push_back({range, {source, reason}});
}

/* Sets what is owed in a range, and keeps the rest. */
void Tracker::pay(IovaRange range, const DirtyBitmap& bitmap, Outcome& outcome) {
    std::vector<Owed> rest;
    for (const Owed& owed : owed_) {
        if (!owed.range.overlaps(range)) {
            rest.push_back(owed);
            continue;
        }
        bitmap.set(owed.range & range);
        outcome.doubts.push_back(owed.doubt);
        if (owed.range.first < range.first) {
            rest.push_back({{owed.range.first, range.first - 1}, owed.doubt});
        }
        if (owed.range.last > range.last) {
            rest.push_back({{range.last + 1, owed.range.last}, owed.doubt});
        }
    }
    owed_ = std::move(rest);
}

void Tracker::fail(const DirtySource& source, const SourceError& error) {
    failed_.push_back({source.name(), error.message});
}

} // namespace pvdirty
