// SPDX-License-Identifier: MIT
/*
 * A migration's thread asks the policy for each round without the lock under which everything else
 * happens; under the thread sanitizer.
 */
#include <array>
#include <atomic>
#include <thread>

#include <catch2/catch.hpp>

#include "pvdirty/policy.hpp"
#include "unit/vm.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Logger;
using pvdirty::Policy;

namespace {

/** Rounds that did not fail although the session was known to be lost by then. */
unsigned wrong_rounds(const Policy& policy) {
    constexpr std::uint64_t ram = std::uint64_t{1} << 30;
    constexpr unsigned enough = 1000;
    Vm vm;
    vm.track();
    // Odd while the session is known to be lost; each value is used once.
    std::atomic<unsigned> epoch{0};
    std::atomic<bool> stop{false};
    std::array<std::atomic<unsigned>, 2> rounds{};
    unsigned wrong = 0;

    std::thread migration([&] {
        while (!stop.load(std::memory_order_relaxed)) {
            const unsigned before = epoch.load(std::memory_order_acquire);
            const auto round = policy.round(vm.domain, ram, 1);
            if (epoch.load(std::memory_order_acquire) == before) {
                rounds.at(before % 2)++;
                wrong += before % 2 == 1 && !round.fail ? 1 : 0;
            }
        }
    });
    // Until the other thread, however late it starts, has seen both.
    while (rounds[0] < enough || rounds[1] < enough) {
        vm.domain.set_logging(Logger::session, true);
        for (int i = 0; i < 20; i++) {
            vm.harvest();
            std::this_thread::yield();
        }
        pvd_gap(vm.guest.log.core());
        vm.harvest();
        epoch++;
        for (int i = 0; i < 20; i++) {
            vm.harvest();
            std::this_thread::yield();
        }
        epoch++;
        vm.domain.set_logging(Logger::session, false);
    }
    stop = true;
    migration.join();
    return wrong;
}

} // namespace

TEST_CASE("policy: a round after the latch always fails, on any thread", "[concurrent]") {
    CHECK(wrong_rounds({}) == 0);
    // A control: whoever is blind goes on.
    CHECK(wrong_rounds({.blind = true}) > 0);
}
