// SPDX-License-Identifier: MIT
/*
 * The library and the core together, driven by random commands: nothing is lost whatever happens,
 * and nothing is reported in vain while nothing happens. Guests and VMMs that break a rule are
 * caught by the same properties, with a short counterexample.
 */
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <iostream>
#include <map>
#include <string>
#include <utility>

#include "property/check.hpp"
#include "property/command.hpp"
#include "property/world.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

/* How many cases were of which kind: a property must not be true of nothing. */
class Kinds {
public:
    explicit Kinds(std::string name) : name_(std::move(name)) {}

    void add(const Tally& tally) {
        cases_++;
        for (const auto& [kind, count] : std::initializer_list<std::pair<const char*, unsigned>>{
                 {"stopped", tally.stops},
                 {"stopped between two accesses", tally.parked},
                 {"undisturbed", tally.undisturbed},
                 {"all dirty", tally.all_dirty},
                 {"written by an untracked device", tally.stray},
                 {"right because of marks", tally.saved_by_marks},
                 {"right because of pages in flight", tally.saved_in_flight},
                 {"run on at the destination", tally.arrived}}) {
            of_[kind] += count > 0 ? 1 : 0;
        }
    }
    [[nodiscard]] unsigned percent(const std::string& kind) const {
        return of_.at(kind) * 100 / cases_;
    }
    void print() const {
        std::cout << name_ << ", " << cases_ << " cases:\n";
        for (const auto& [kind, count] : of_) {
            std::cout << "  " << percent(kind) << " % " << kind << '\n';
        }
        std::cout << std::flush;
    }

private:
    std::string name_;
    unsigned cases_ = 0;
    std::map<std::string, unsigned> of_;
};

/* All commands that a generator makes. */
Kinds run(const char* name, const rc::Gen<std::vector<Command>>& life, int cases) {
    Kinds kinds(name);
    holds(
        [&] {
            const auto commands = *life;
            World world;
            world.run(commands);
            kinds.add(world.tally());
        },
        cases);
    kinds.print();
    return kinds;
}

/* The length of the shortest counterexample that was found, or of none: a large number. */
std::size_t shortest_against(Fault fault, const rc::Gen<std::vector<Command>>& life, int cases) {
    std::size_t shortest = SIZE_MAX;
    examine(
        [&] {
            const auto commands = *life;
            World world(fault);
            try {
                world.run(commands);
            } catch (const rc::detail::CaseResult&) { // an assertion, nothing else
                shortest = std::min(shortest, commands.size());
                throw;
            }
        },
        cases, true);
    return shortest;
}

} // namespace

TEST_CASE("stateful: a life without trouble loses nothing and reports nothing in vain",
          "[stateful]") {
    const Kinds kinds = run("a life without trouble", quiet_life(), 6000);
    CHECK(kinds.percent("undisturbed") >= 60);
    CHECK(kinds.percent("stopped between two accesses") >= 30);
    CHECK(kinds.percent("right because of marks") >= 20);
    CHECK(kinds.percent("right because of pages in flight") >= 20);
    CHECK(kinds.percent("run on at the destination") >= 20);
}

TEST_CASE("stateful: any life loses nothing, and no untracked device goes quietly", "[stateful]") {
    const Kinds kinds = run("any life", any_life(), 12000);
    CHECK(kinds.percent("undisturbed") >= 20);
    CHECK(kinds.percent("all dirty") >= 20);
    CHECK(kinds.percent("written by an untracked device") >= 10);
    CHECK(kinds.percent("right because of marks") >= 10);
    CHECK(kinds.percent("right because of pages in flight") >= 10);
    CHECK(kinds.percent("run on at the destination") >= 10);
}

TEST_CASE("stateful: devices that are tracked and not and again never go quietly", "[stateful]") {
    const Kinds kinds = run("an unsteady life", unsteady_life(), 6000);
    CHECK(kinds.percent("undisturbed") >= 20);
    CHECK(kinds.percent("written by an untracked device") >= 20);
}

TEST_CASE("stateful: who breaks a rule is caught, and why is short", "[stateful]") {
    const auto fault = GENERATE(Fault::guest_lowers_first, Fault::guest_never_marks,
                                Fault::guest_counts_late, Fault::guest_hides_gap,
                                Fault::guest_gap_before_entry, Fault::host_reads_before_publish,
                                Fault::host_copies_first, Fault::host_forgets_in_flight,
                                Fault::host_ignores_all_dirty, Fault::host_keeps_its_writes);
    CAPTURE(static_cast<int>(fault));
    const bool by_gap = fault == Fault::guest_gap_before_entry;
    CHECK(shortest_against(fault, by_gap ? unsteady_life() : any_life(), 20000) <= 12);
}
