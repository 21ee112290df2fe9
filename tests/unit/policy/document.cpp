// SPDX-License-Identifier: MIT
/* The policy's table as a document. */
#include <algorithm>
#include <map>
#include <sstream>
#include <stdexcept>

#include "unit/policy/table.hpp"

namespace pvdirty::test {

namespace {

/** Numbers texts from 1 in the order in which they are first used. */
class Messages {
public:
    std::size_t number(const std::string& text) {
        auto found = std::find(texts_.begin(), texts_.end(), text);
        if (found == texts_.end()) {
            found = texts_.insert(texts_.end(), text);
        }
        return static_cast<std::size_t>(found - texts_.begin()) + 1;
    }
    [[nodiscard]] const std::vector<std::string>& texts() const noexcept { return texts_; }

private:
    std::vector<std::string> texts_;
};

/** The reason in a message that was put around it. */
std::string reason_in(const std::string& message, const std::string& before,
                      const std::string& after) {
    if (!message.starts_with(before) || !message.ends_with(after)) {
        throw std::logic_error("unexpected message: " + message);
    }
    return message.substr(before.size(), message.size() - before.size() - after.size());
}

const std::string start_before = "the guest does not track all DMA: ";
const std::string start_refused =
    "; load its pvdirty module before the drivers, or unplug the device";
const std::string start_warned = "; all RAM will be sent while the VM is stopped";
const std::string round_before = "the guest no longer tracks all DMA: ";
const std::string never_after =
    "; unplug it, or have it taken out before the end (pvdirty migrate --policy unplug)";
const std::string final_before = "all RAM is sent while the VM is stopped: ";

const char* words(FinalPass pass) {
    switch (pass) {
    case FinalPass::reported:
        return "sends the marks and the pages in flight";
    case FinalPass::all_dirty:
        return "sends all RAM, with a warning";
    case FinalPass::fail:
        return "fails";
    }
    return "?";
}

/** The matrix, and what its codes mean as far as the policies say. */
class Document {
public:
    std::string text();

private:
    std::string harvest_code(const Answers& answers);
    std::string start_code(const Answers& answers);
    void same_meaning(const std::string& code, const Answers& answers);
    std::string matrix();

    Messages messages_;
    std::map<std::string, ByPolicy<FinalVerdict>> meanings_;
    std::string over_limit_;
};

/* One code, one meaning: what the policies do must follow from the harvest alone. */
void Document::same_meaning(const std::string& code, const Answers& answers) {
    const auto& [known, is_new] = meanings_.try_emplace(code, answers.final_pass);
    const ByPolicy<FinalVerdict>& meaning = known->second;
    if (meaning.refuse.pass != answers.final_pass.refuse.pass ||
        meaning.all_dirty.pass != answers.final_pass.all_dirty.pass ||
        meaning.blind.pass != answers.final_pass.blind.pass ||
        answers.round.refuse.fail != (meaning.refuse.pass == FinalPass::fail) ||
        answers.round.all_dirty.fail != (meaning.all_dirty.pass == FinalPass::fail)) {
        throw std::logic_error("two meanings of " + code);
    }
}

std::string Document::harvest_code(const Answers& answers) {
    if (answers.in_the_way) {
        const ByPolicy<FinalVerdict>& pass = answers.final_pass;
        if (pass.refuse.message != pass.all_dirty.message ||
            pass.refuse.message != pass.blind.message) {
            throw std::logic_error("another reason: " + pass.blind.message);
        }
        return (answers.awaited ? "WAIT " : "STAYS ") +
               std::to_string(messages_.number(pass.refuse.message));
    }
    if (!answers.harvest.all_dirty) {
        const bool over = answers.round.refuse.fail;
        if (over) {
            over_limit_ = answers.final_pass.refuse.message;
        }
        same_meaning(over ? "LIMIT" : "set", answers);
        return over ? "LIMIT" : "set";
    }
    same_meaning("ALL", answers);
    const std::string reason = reason_in(answers.final_pass.all_dirty.message, final_before, "");
    if (reason != answers.latched ||
        reason != reason_in(answers.final_pass.refuse.message, round_before, "")) {
        throw std::logic_error("another reason: " + reason);
    }
    return "ALL " + std::to_string(messages_.number(reason));
}

std::string Document::start_code(const Answers& answers) {
    const ByPolicy<Verdict>& start = answers.start;
    if (answers.unsavable) {
        if (start.refuse.message != start.blind.message ||
            start.refuse.message != start.all_dirty.message) {
            throw std::logic_error("another reason: " + start.blind.message);
        }
        return "never " +
               std::to_string(messages_.number(reason_in(start.refuse.message, "", never_after)));
    }
    if (!start.blind.allowed || !start.blind.message.empty() || !start.all_dirty.allowed ||
        start.refuse.allowed != start.all_dirty.message.empty()) {
        throw std::logic_error("unexpected answer to a start");
    }
    if (start.refuse.allowed) {
        return "go";
    }
    const std::string reason = reason_in(start.refuse.message, start_before, start_refused);
    if (reason != reason_in(start.all_dirty.message, start_before, start_warned)) {
        throw std::logic_error("another reason: " + reason);
    }
    return "no " + std::to_string(messages_.number(reason));
}

std::string Document::matrix() {
    std::ostringstream out;
    out << "| event |";
    for (const StateCase& state : state_cases()) {
        out << ' ' << state.name << " |";
    }
    out << "\n|---|";
    for (std::size_t i = 0; i < state_cases().size(); i++) {
        out << "---|";
    }
    out << '\n';
    for (const EventCase& event : event_cases()) {
        out << "| " << event.what << " |";
        for (const StateCase& state : state_cases()) {
            if (const auto answers = play(state, event)) {
                out << ' ' << harvest_code(*answers) << ", " << start_code(*answers) << " |";
            } else {
                out << " |";
            }
        }
        out << '\n';
    }
    return out.str();
}

std::string Document::text() {
    const std::string cells = matrix();
    std::ostringstream out;
    out << R"(<!-- Generated by build/host/tests/unit/policy-table; do not edit. -->
# The session policy

What the library answers in each state that a VM may be in when a migration starts, after each event on the way. This page is written by a program that puts the real library into each state; a test compares the two, and another holds each cell against what is true of the devices.

A cell has two answers: what a **harvest** says in the session in which the event happened, and whether a new migration **starts** after it. Numbers are messages, below. An empty cell: the event cannot happen there.

| answer | `on-incomplete=refuse` | `on-incomplete=all-dirty` | `x-test-blind` (tests only) |
|---|---|---|---|
)";
    for (const char* code : {"set", "LIMIT", "ALL"}) {
        const ByPolicy<FinalVerdict>& meaning = meanings_.at(code);
        out << "| `" << code << "` | " << words(meaning.refuse.pass) << " | "
            << words(meaning.all_dirty.pass) << " | " << words(meaning.blind.pass)
            << (std::string_view(code) == "ALL" ? ", and **loses data**" : "") << " |\n";
    }
    out << R"(| `WAIT` | goes on until the device is gone; fails if it would end before | the same | the same |
| `STAYS` | fails | fails | fails |
| `go` | starts | starts | starts |
| `no` | does not start | starts, with a warning | starts |
| `never` | does not start | does not start | does not start |

`set`: the pages that the guest reported. `LIMIT`: more pages are in flight than `final-limit` (default: half of RAM). `ALL`: all dirty. `STAYS`: a device is there, or what is left of one, whose state cannot be saved; `WAIT`: the migration was told to wait until it has gone (`hold-for`). A migration that has to fail does so in its next round, or in its last pass with the VM stopped, and then the source goes on.

With `all-dirty` and a `final-limit` that RAM does not fit in, `ALL` fails and `no` does not start. With a covered device, post-copy, savevm, background snapshots and COLO never start.

## States
| state | what |
|---|---|
)";
    for (const StateCase& state : state_cases()) {
        out << "| " << state.name << " | " << state.what << " |\n";
    }
    out << "\n## Answers\n" << cells << "\n## Messages\n";
    for (const std::string& text : messages_.texts()) {
        out << messages_.number(text) << ". " << text << '\n';
    }
    out << "\nWhat is said around them:\n\n| when | words |\n|---|---|\n"
        << "| `no`, refuse | " << start_before << "…" << start_refused << " |\n"
        << "| `no`, all-dirty | " << start_before << "…" << start_warned << " |\n"
        << "| `never` | …" << never_after << " |\n"
        << "| `ALL`, refuse | " << round_before << "… |\n"
        << "| `ALL`, all-dirty | " << final_before << "… |\n"
        << "| `LIMIT` | " << over_limit_ << " |\n";
    return out.str();
}

} // namespace

std::string policy_document() {
    return Document().text();
}

} // namespace pvdirty::test
