// SPDX-License-Identifier: MIT
/* Counters against a model multiset: saturation, underflow, scan, prune, and marks at release. */
#include <algorithm>
#include <functional>
#include <map>

#include "property/attached.hpp"
#include "property/check.hpp"
#include "property/gen.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::PageRange;

namespace {

/* What the counters should say: a multiset of pages that forgets how many beyond the limit. */
class Model {
public:
    explicit Model(const GuestLog& log) : log_(log) {}

    void hold(PageRange range) {
        each(range, [](unsigned& count) { count = std::min(count + 1, 255U); });
    }
    void release(PageRange range, bool logging) {
        each(range, [this](unsigned& count) {
            underflow_ = underflow_ || count == 0;
            count -= count != 0 && count != 255 ? 1 : 0;
        });
        if (logging) {
            marked_ = marked_ | (PageSet({range}) & PageSet::covered(log_.sections()));
        }
    }
    [[nodiscard]] PageSet in_flight() const {
        std::vector<PageRange> pages;
        for (const auto& [pfn, count] : counts_) {
            if (count != 0) {
                pages.push_back({pfn, pfn});
            }
        }
        return PageSet(pages);
    }
    [[nodiscard]] const std::map<std::uint64_t, unsigned>& counts() const { return counts_; }
    [[nodiscard]] PageSet take_marked() { return std::exchange(marked_, {}); }
    [[nodiscard]] std::uint32_t incomplete() const {
        return (outside_ ? 1U << PVDIRTY_I_OUTSIDE : 0) |
               (underflow_ ? 1U << PVDIRTY_I_UNDERFLOW : 0);
    }

private:
    template <class Function>
    void each(PageRange range, Function function) {
        for (std::uint64_t pfn = range.first; pfn <= range.last; pfn++) {
            if (log_.covers(pfn)) {
                function(counts_[pfn]);
            } else {
                outside_ = true;
            }
        }
    }

    const GuestLog& log_;
    std::map<std::uint64_t, unsigned> counts_;
    PageSet marked_;
    bool outside_ = false;
    bool underflow_ = false;
};

struct Step {
    enum Kind { hold, release, scan, harvest, toggle } kind = hold;
    PageRange range;
    unsigned times = 1;
};

/* A handful of places, so that steps meet. */
rc::Gen<Step> any_step(const Layout& layout, const std::vector<std::uint64_t>& places) {
    const auto kind = rc::gen::weightedElement<Step::Kind>({{8, Step::hold},
                                                            {6, Step::release},
                                                            {2, Step::scan},
                                                            {1, Step::harvest},
                                                            {1, Step::toggle}});
    const auto times =
        rc::gen::weightedOneOf<unsigned>({{8, rc::gen::just(1U)}, {1, rc::gen::inRange(1U, 300U)}});
    const auto pages = rc::gen::weightedOneOf<std::uint64_t>(
        {{4, rc::gen::just<std::uint64_t>(0)}, {1, rc::gen::inRange<std::uint64_t>(0, 1100)}});
    const auto first = rc::gen::weightedOneOf<std::uint64_t>(
        {{6, rc::gen::elementOf(places)}, {1, any_pfn(layout)}});
    return rc::gen::apply(
        [](Step::Kind kind, std::uint64_t first, std::uint64_t more, unsigned times) {
            return Step{kind, {first, first + (times > 1 ? 0 : more)}, times};
        },
        kind, first, pages, times);
}

std::ostream& operator<<(std::ostream& out, const Step& step) {
    return out << "kind " << step.kind << " pages " << step.range.first << "-" << step.range.last
               << " times " << step.times;
}

using Scanner = std::function<PageSet(Attached&)>;

auto counters_agree(const Scanner& scan) {
    return [scan] {
        const Layout layout = *any_layout(3);
        const auto places = *rc::gen::container<std::vector<std::uint64_t>>(4, any_pfn(layout));
        const auto steps = *rc::gen::container<std::vector<Step>>(any_step(layout, places));
        Attached guest(layout);
        Model model(guest.log);
        bool logging = false;

        for (const Step& step : steps) {
            for (unsigned i = 0; i < step.times; i++) {
                switch (step.kind) {
                case Step::hold:
                    model.hold(step.range);
                    pvd_hold(guest.log.core(), step.range.first, step.range.last);
                    break;
                case Step::release:
                    model.release(step.range, logging);
                    pvd_release(guest.log.core(), step.range.first, step.range.last);
                    break;
                case Step::scan:
                    RC_ASSERT(scan(guest) == model.in_flight());
                    break;
                case Step::harvest:
                    RC_ASSERT(guest.harvest() == model.take_marked());
                    break;
                case Step::toggle:
                    logging = !logging;
                    guest.host.publish(logging);
                    break;
                }
            }
        }
        RC_ASSERT(scan(guest) == model.in_flight());
        RC_ASSERT(guest.harvest() == model.take_marked());
        RC_ASSERT(guest.host.incomplete() == model.incomplete());
        for (const auto& [pfn, count] : model.counts()) {
            RC_ASSERT(unsigned{guest.log.count(pfn)} == count);
            RC_ASSERT(guest.host.in_flight(pfn) == (count != 0));
        }
    };
}

} // namespace

TEST_CASE("counters: agree with a multiset that saturates", "[counters]") {
    holds(counters_agree([](Attached& guest) { return guest.scan(); }), 3000);
}

TEST_CASE("counters: a scan that takes stuck counters for nothing is caught", "[counters]") {
    is_refuted(counters_agree([](Attached& guest) {
                   std::vector<PageRange> stuck;
                   const PageSet found = guest.scan();
                   for (const PageRange& range : found.ranges()) {
                       for (std::uint64_t pfn = range.first; pfn <= range.last; pfn++) {
                           if (guest.log.count(pfn) == PVDIRTY_COUNT_STUCK) {
                               stuck.push_back({pfn, pfn});
                           }
                       }
                   }
                   return found - PageSet(stuck);
               }),
               300);
}

TEST_CASE("counters: a prune that forgets to look again is caught", "[counters]") {
    // What a host would see that clears a summary bit over counters that are not all 0.
    is_refuted(counters_agree([](Attached& guest) {
                   PageSet found = guest.scan();
                   guest.log.summary(0).counts[0] = 0;
                   return found;
               }),
               300);
}
