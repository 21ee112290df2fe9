// SPDX-License-Identifier: MIT
/*
 * The guest runs in the middle of a scan or a harvest: at each callback of the library (a word
 * reported, a write announced) it may hold, release and mark pages. These are races whose outcome
 * does not depend on luck.
 */
#include <map>

#include "property/attached.hpp"
#include "property/check.hpp"
#include "property/gen.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::PageSink;

namespace {

struct Action {
    enum Kind { hold, release, mark } kind = hold;
    std::uint64_t pfn = 0;
    unsigned after = 0; // callbacks to wait
};

std::ostream& operator<<(std::ostream& out, const Action& action) {
    return out << (action.kind == Action::hold      ? "hold "
                   : action.kind == Action::release ? "release "
                                                    : "mark ")
               << action.pfn << " after " << action.after;
}

/* Two sections, and pages that share a word, a group or a section, or nothing. */
const std::vector<SectionSpec> sections = {{0, 40000}, {1, 600}};
const std::vector<std::uint64_t> places = {
    0, 1, 63, 64, 511, 512, 1024, 32767, 32768, PVDIRTY_WINDOW_PAGES, PVDIRTY_WINDOW_PAGES + 599};

rc::Gen<Action> any_action() {
    return rc::gen::apply(
        [](Action::Kind kind, std::uint64_t pfn, unsigned after) {
            return Action{kind, pfn, after};
        },
        rc::gen::element(Action::hold, Action::release, Action::mark), rc::gen::elementOf(places),
        rc::gen::inRange(0U, 3U));
}

/* Runs a list of actions, a few at each callback. */
class GuestCpu {
public:
    GuestCpu(Attached& guest, std::vector<Action> actions)
        : guest_(guest), actions_(std::move(actions)) {
        guest.ram.on_written([this] { run(); });
    }

    void run() {
        while (next_ < actions_.size()) {
            const Action& action = actions_[next_];
            if (waited_++ < action.after) {
                return;
            }
            waited_ = 0;
            next_++;
            act(action);
        }
    }
    void finish() {
        while (next_ < actions_.size()) {
            run();
        }
    }
    void reported(std::uint64_t first, std::uint64_t mask) {
        for (unsigned bit = 0; bit < 64; bit++) {
            if ((mask >> bit & 1) != 0) {
                unreported_.erase(first + bit);
            }
        }
        run();
    }
    /* Marked and not reported since. */
    [[nodiscard]] const std::map<std::uint64_t, bool>& unreported() const { return unreported_; }
    [[nodiscard]] PageSet held() const {
        std::vector<pvdirty::PageRange> pages;
        for (const auto& [pfn, count] : counts_) {
            if (count != 0) {
                pages.push_back({pfn, pfn});
            }
        }
        return PageSet(pages);
    }

private:
    void act(const Action& action) {
        pvd_log* log = guest_.log.core();
        switch (action.kind) {
        case Action::hold:
            pvd_hold(log, action.pfn, action.pfn);
            counts_[action.pfn]++;
            break;
        case Action::release:
            if (counts_[action.pfn] == 0) {
                break;
            }
            counts_[action.pfn]--;
            unreported_[action.pfn] = true;
            pvd_release(log, action.pfn, action.pfn);
            break;
        case Action::mark:
            unreported_[action.pfn] = true;
            pvd_mark(log, action.pfn, action.pfn);
            break;
        }
    }

    Attached& guest_;
    std::vector<Action> actions_;
    std::size_t next_ = 0;
    unsigned waited_ = 0;
    std::map<std::uint64_t, unsigned> counts_;
    std::map<std::uint64_t, bool> unreported_;
};

/*
 * A mark is reported after it was made: in the harvest that it fell into, or in the next one.
 * Counters are found by the next scan.
 */
void check_interrupted(const std::vector<Action>& actions, const std::vector<bool>& rounds) {
    Attached guest(sections);
    guest.host.publish(true);
    GuestCpu cpu(guest, actions);
    const auto look = [&](bool scans, auto sink) {
        scans ? guest.host.scan(PageSink(sink)) : guest.host.harvest(PageSink(sink));
    };
    for (const bool scans : rounds) {
        cpu.run();
        if (scans) {
            look(true, [&](std::uint64_t, std::uint64_t) { cpu.run(); });
        } else {
            look(false,
                 [&](std::uint64_t first, std::uint64_t mask) { cpu.reported(first, mask); });
        }
    }
    cpu.finish();
    look(false, [&](std::uint64_t first, std::uint64_t mask) { cpu.reported(first, mask); });
    RC_ASSERT(cpu.unreported().empty());
    Collector found;
    guest.host.scan(PageSink(found));
    RC_ASSERT(found.pages() == cpu.held());
    RC_ASSERT(guest.host.incomplete() == 0U);
}

} // namespace

TEST_CASE("interrupted: scans and harvests lose nothing that falls into them", "[interrupted]") {
    holds(
        [] {
            const auto actions = *rc::gen::container<std::vector<Action>>(any_action());
            const auto rounds = *rc::gen::container<std::vector<bool>>(rc::gen::arbitrary<bool>());
            check_interrupted(actions, rounds);
        },
        10000);
}

TEST_CASE("interrupted: a hold between the look at a summary and the prune of the root",
          "[interrupted]") {
    Attached guest(sections);
    pvd_hold(guest.log.core(), 0, 0);
    pvd_release(guest.log.core(), 0, 0); // leaves its bits behind in summary and root
    pvd_hold(guest.log.core(), PVDIRTY_WINDOW_PAGES, PVDIRTY_WINDOW_PAGES);
    bool held = false;
    auto sink = [&](std::uint64_t, std::uint64_t) {
        if (!std::exchange(held, true)) {
            pvd_hold(guest.log.core(), 0, 0);
        }
    };
    guest.host.scan(PageSink(sink));
    REQUIRE(held);
    CHECK(guest.scan().contains(0));
}

TEST_CASE("interrupted: a hold between the look at counters and the prune of their group",
          "[interrupted]") {
    Attached guest(sections);
    pvd_hold(guest.log.core(), 0, 0);
    pvd_release(guest.log.core(), 0, 0);
    pvd_hold(guest.log.core(), 512, 512);
    bool held = false;
    auto sink = [&](std::uint64_t, std::uint64_t) {
        if (!std::exchange(held, true)) {
            pvd_hold(guest.log.core(), 0, 0);
        }
    };
    guest.host.scan(PageSink(sink));
    REQUIRE(held);
    CHECK(guest.scan().contains(0));
}
