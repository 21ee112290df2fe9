// SPDX-License-Identifier: MIT
/*
 * The order of the levels. A marker is stepped, with a harvest or none between any two steps, over
 * each state that its neighbours may have left. Leaf, summary, root loses nothing; every other
 * order does, which shows that the schedules are good enough to find it.
 */
#include <algorithm>
#include <array>

#include "property/attached.hpp"
#include "property/check.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

enum Level { leaf, summary, root };
using Order = std::array<Level, 3>;

constexpr std::uint64_t page = 5;
constexpr std::uint64_t neighbour = 9; // in the same word

void step(Attached& guest, Level level) {
    switch (level) {
    case leaf:
        guest.log.marks(0)[0] |= std::uint64_t{1} << page;
        break;
    case summary:
        guest.log.summary(0).marks[0] |= 1;
        break;
    case root:
        guest.log.top().marks[0] |= 1;
        break;
    }
}

/*
 * Is the page lost? Bit i of harvests: one before step i, bit 3: one at the end comes in any case.
 * neighbours: how many steps of a correct marker of another page came before.
 */
bool loses(const Order& order, unsigned harvests, unsigned neighbours) {
    Attached guest({{0, 512}});
    PageSet found;
    if (neighbours > 0) {
        guest.log.marks(0)[0] |= std::uint64_t{1} << neighbour;
    }
    if (neighbours > 1) {
        step(guest, summary);
    }
    if (neighbours > 2) {
        step(guest, root);
    }
    for (unsigned i = 0; i < order.size(); i++) {
        if ((harvests >> i & 1) != 0) {
            found = found | guest.harvest();
        }
        step(guest, order[i]);
    }
    found = found | guest.harvest();
    return !found.contains(page);
}

unsigned schedules_that_lose(const Order& order) {
    unsigned losing = 0;
    for (unsigned harvests = 0; harvests < 8; harvests++) {
        for (unsigned neighbours = 0; neighbours < 4; neighbours++) {
            losing += loses(order, harvests, neighbours) ? 1 : 0;
        }
    }
    return losing;
}

} // namespace

TEST_CASE("levels: leaf, summary, root is the only order that loses nothing", "[levels]") {
    Order order{leaf, summary, root};
    do {
        INFO("order " << order[0] << order[1] << order[2]);
        const bool correct = order == Order{leaf, summary, root};
        CHECK((schedules_that_lose(order) == 0) == correct);
    } while (std::next_permutation(order.begin(), order.end()));
}
