// SPDX-License-Identifier: MIT
/*
 * Each cell of the policy's table against what is true of the devices, so that the table cannot be
 * generated anew into something wrong.
 */
#include <catch2/catch.hpp>

#include "unit/policy/table.hpp"

using pvdirty::FinalPass;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

TEST_CASE("policy table: what is or was untracked is never clean, and never goes quietly",
          "[policy]") {
    std::size_t cells = 0;
    std::size_t untracked = 0;
    for (const StateCase& state : state_cases()) {
        for (const EventCase& event : event_cases()) {
            const auto answers = play(state, event);
            if (!answers) {
                continue;
            }
            INFO(state.name << ", " << event.what << ": " << answers->latched);
            CHECK(judge(*answers).empty());
            // What is latched stays.
            CHECK(answers->later.all_dirty == answers->harvest.all_dirty);
            cells++;
            untracked += answers->was_untracked ? 1 : 0;
        }
    }
    CHECK(cells > 200);
    CHECK(untracked > 150);
}

TEST_CASE("policy table: the judge sees each answer that would be wrong", "[policy]") {
    // A control: the answers of a silent guest, each made wrong in turn.
    const StateCase& silent = state_cases().at(1);
    const EventCase& work = event_cases().front();
    const auto right = play(silent, work);
    REQUIRE(right);
    REQUIRE(right->was_untracked);
    REQUIRE(right->untracked);
    REQUIRE(judge(*right).empty());
    const auto wrong = [&](auto change) {
        Answers answers = *right;
        change(answers);
        return judge(answers);
    };
    CHECK(wrong([](Answers& a) { a.harvest.all_dirty = false; }) == "a harvest says clean");
    CHECK(wrong([](Answers& a) { a.later.all_dirty = false; }) == "a harvest says clean");
    CHECK(wrong([](Answers& a) { a.latched.clear(); }) == "nothing says why");
    CHECK(wrong([](Answers& a) { a.round.refuse.fail = false; }) == "refuse lets it go on");
    CHECK(wrong([](Answers& a) { a.final_pass.refuse.pass = FinalPass::all_dirty; }) ==
          "refuse lets it go on");
    CHECK(wrong([](Answers& a) { a.save.refuse.allowed = true; }) == "refuse lets it go on");
    CHECK_FALSE(
        wrong([](Answers& a) { a.final_pass.all_dirty.pass = FinalPass::reported; }).empty());
    CHECK_FALSE(wrong([](Answers& a) { a.final_pass.all_dirty.message.clear(); }).empty());
    CHECK(wrong([](Answers& a) { a.start.refuse.allowed = true; }) == "refuse starts");
    CHECK_FALSE(wrong([](Answers& a) { a.start.all_dirty.message.clear(); }).empty());
    // What the test-only blind property makes the library answer, everywhere.
    for (const EventCase& event : event_cases()) {
        if (auto blind = play(silent, event); blind && blind->was_untracked) {
            blind->round.refuse = blind->round.blind;
            blind->final_pass.refuse = blind->final_pass.blind;
            blind->save.refuse = blind->save.blind;
            INFO(event.what);
            CHECK(judge(*blind) == "refuse lets it go on");
        }
    }
}

TEST_CASE("policy table: the judge sees a device that must not be there at the end", "[policy]") {
    const auto state = [](std::string_view name) {
        for (const StateCase& known : state_cases()) {
            if (known.name == name) {
                return play(known, event_cases().front());
            }
        }
        return std::optional<Answers>();
    };
    const std::string_view name = GENERATE("unsavable", "to leave");
    const auto right = state(name);
    REQUIRE(right);
    REQUIRE(right->in_the_way);
    REQUIRE(right->awaited == (name == "to leave"));
    REQUIRE(right->unsavable);
    REQUIRE(judge(*right).empty());
    const auto wrong = [&](auto change) {
        Answers answers = *right;
        change(answers);
        return judge(answers);
    };
    const std::string ends = "it ends with the device still there, or fails without a word";
    CHECK(wrong([](Answers& a) { a.final_pass.refuse.pass = FinalPass::reported; }) == ends);
    CHECK(wrong([](Answers& a) { a.final_pass.all_dirty.pass = FinalPass::all_dirty; }) == ends);
    CHECK(wrong([](Answers& a) { a.final_pass.blind.pass = FinalPass::reported; }) == ends);
    CHECK(wrong([](Answers& a) { a.final_pass.blind.message.clear(); }) == ends);
    const std::string saved = "a port is saved with the device still there";
    CHECK(wrong([](Answers& a) { a.save.blind.allowed = true; }) == saved);
    CHECK(wrong([](Answers& a) { a.start.blind.allowed = true; }) ==
          "one starts with a state that cannot be saved");
    if (right->awaited) {
        CHECK(wrong([](Answers& a) { a.round.blind.hold = false; }) ==
              "a round does not wait for the device");
    }
}

TEST_CASE("policy table: what is fine is not refused", "[policy]") {
    // The other direction: a table that says no everywhere is of no use.
    std::size_t fine = 0;
    for (const StateCase& state : state_cases()) {
        const bool well = std::string_view(state.name) == "no device" ||
                          std::string_view(state.name) == "tracked";
        const auto answers = play(state, event_cases().front());
        REQUIRE(answers);
        INFO(state.name);
        CHECK(answers->harvest.all_dirty == answers->was_untracked);
        CHECK(answers->start.refuse.allowed == (!answers->untracked && !answers->unsavable));
        if (well) {
            CHECK(answers->final_pass.refuse.pass == FinalPass::reported);
            fine++;
        }
    }
    CHECK(fine == 2);
}
