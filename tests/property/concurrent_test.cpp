// SPDX-License-Identifier: MIT
/*
 * Guest CPUs against the host's thread, for real, under the thread sanitizer: a migration in
 * miniature. Pages are words, the destination is a copy, and the rules are those of SPEC.md.
 */
#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "guest/guest_log.hpp"
#include "guest/page_set.hpp"
#include "pvdirty/log.hpp"

#ifndef __SANITIZE_THREAD__
#if !defined(__has_feature) || !__has_feature(thread_sanitizer)
#error "this test is for the thread sanitizer"
#endif
#endif

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Log;
using pvdirty::PageRange;
using pvdirty::PageSink;

namespace {

constexpr unsigned guest_cpus = 3;
constexpr std::uint64_t first_window = 1500; // pages of the first section, two windows apart
constexpr std::uint64_t second_base = 2 * std::uint64_t{PVDIRTY_WINDOW_PAGES};
constexpr std::uint64_t npages = 2 * first_window;

/* Pages 0..npages-1 lie in two sections. */
std::uint64_t pfn_of(std::uint64_t page) {
    return page < first_window ? page : second_base + page - first_window;
}
std::uint64_t page_of(std::uint64_t pfn) {
    return pfn < first_window ? pfn : pfn - second_base + first_window;
}

struct Machine {
    Guest guest{{{0, first_window}, {2, first_window}}};
    Log host = std::move(*Log::attach(guest.ram, guest.log.addr(), guest.log.pages()));
    std::vector<std::atomic<std::uint64_t>> ram = std::vector<std::atomic<std::uint64_t>>(npages);
    std::vector<std::uint64_t> copy = std::vector<std::uint64_t>(npages);
    std::atomic<bool> stop{false};

    void send(std::uint64_t page) { copy[page] = ram[page].load(std::memory_order_relaxed); }
    /* Marked pages are read after the harvest has returned, like a VMM does. */
    void send(const std::vector<std::uint64_t>& pages) {
        for (const std::uint64_t page : pages) {
            send(page);
        }
    }
    void send_all() {
        for (std::uint64_t page = 0; page < npages; page++) {
            send(page);
        }
    }
    /* A device's write is visible before its driver hears of it: a full barrier does that here. */
    void device_writes(std::uint64_t page, std::uint64_t value) { ram[page].exchange(value); }

    [[nodiscard]] std::uint64_t lost() const {
        std::uint64_t pages = 0;
        for (std::uint64_t page = 0; page < npages; page++) {
            pages += copy[page] != ram[page].load() ? 1 : 0;
        }
        return pages;
    }
};

/* Adds the pages of a report to a list. */
class Lister {
public:
    void operator()(std::uint64_t first_pfn, std::uint64_t mask) {
        for (unsigned bit = 0; bit < 64; bit++) {
            if ((mask >> bit & 1) != 0) {
                pages.push_back(page_of(first_pfn + bit));
            }
        }
    }
    std::vector<std::uint64_t> pages;
};

template <class Function>
std::vector<std::thread> start(Function function) {
    std::vector<std::thread> threads;
    for (unsigned cpu = 0; cpu < guest_cpus; cpu++) {
        threads.emplace_back(function, cpu);
    }
    return threads;
}

void join(std::vector<std::thread>& threads) {
    for (std::thread& thread : threads) {
        thread.join();
    }
}

/* A driver: maps, lets the device write, unmaps; and leaves some pages mapped at the end. */
void drive(Machine& machine, unsigned cpu, unsigned seed) {
    std::mt19937_64 random(seed * 100 + cpu);
    pvd_log* log = machine.guest.log.core();
    std::vector<std::uint64_t> mapped;

    for (std::uint64_t value = 1; !machine.stop.load(std::memory_order_relaxed); value++) {
        const std::uint64_t page = random() % npages;
        const std::uint64_t pfn = pfn_of(page);
        pvd_hold(log, pfn, pfn);
        mapped.push_back(page);
        machine.device_writes(page, value * guest_cpus + cpu);
        while (mapped.size() > 8) {
            const std::size_t victim = random() % mapped.size();
            machine.device_writes(mapped[victim], value * guest_cpus + cpu);
            pvd_release(log, pfn_of(mapped[victim]), pfn_of(mapped[victim]));
            mapped.erase(mapped.begin() + static_cast<std::ptrdiff_t>(victim));
        }
    }
    for (const std::uint64_t page : mapped) {
        machine.device_writes(page, UINT64_MAX - cpu); // the device goes on to the very end
    }
}

struct Faults {
    bool publishes_late = false;    // the first pass comes before the publication
    bool forgets_in_flight = false; // the last pass has marks only
};

/* One migration; returns the pages that differ at the destination. */
std::uint64_t migrate(unsigned seed, const Faults& faults) {
    Machine machine;
    auto threads = start([&](unsigned cpu) { drive(machine, cpu, seed); });

    if (faults.publishes_late) {
        machine.send_all();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        machine.host.publish(true);
    } else {
        machine.host.publish(true);
        machine.send_all();
    }
    for (unsigned pass = 0; pass < 60; pass++) {
        Lister marked;
        machine.host.scan({});
        machine.host.harvest(PageSink(marked));
        machine.send(marked.pages);
    }
    machine.stop = true;
    join(threads);

    Lister last;
    if (!faults.forgets_in_flight) {
        machine.host.scan(PageSink(last));
    }
    machine.host.harvest(PageSink(last));
    machine.send(last.pages);
    return machine.lost();
}

/* Losses over many migrations, until there are some. */
std::uint64_t lost_in_any(const Faults& faults, unsigned runs) {
    std::uint64_t lost = 0;
    for (unsigned run = 0; run < runs && lost == 0; run++) {
        lost = migrate(run, faults);
    }
    return lost;
}

/*
 * Harvests while the guest runs. A page that was held at some moment since the last harvest is in
 * flight at this one, or marked, because the counters are read before the marks.
 * @returns pages for which that was not so
 */
std::uint64_t unreported(unsigned seed) {
    constexpr std::uint64_t busy_pages = 60; // few, so that they change hands all the time
    Machine machine;
    std::atomic<std::uint64_t> epoch{0}; // number of the harvest to come
    std::vector<std::atomic<std::uint64_t>> held_in(busy_pages);
    auto threads = start([&](unsigned cpu) {
        std::mt19937_64 random(seed * 100 + cpu);
        pvd_log* log = machine.guest.log.core();
        while (!machine.stop.load(std::memory_order_relaxed)) {
            const std::uint64_t page = random() % (busy_pages / guest_cpus) * guest_cpus + cpu;
            pvd_hold(log, page, page);
            held_in[page] = epoch.load();
            pvd_release(log, page, page);
        }
    });
    machine.host.publish(true);

    std::uint64_t missing = 0;
    std::uint64_t looked_at = 0;
    const auto start_time = std::chrono::steady_clock::now();
    // Longer on a machine so busy that the guest has not begun by then.
    const auto goes_on = [&] {
        const auto time = std::chrono::steady_clock::now() - start_time;
        return time < std::chrono::milliseconds(400) ||
               (looked_at == 0 && time < std::chrono::seconds(20));
    };
    for (std::uint64_t pass = 1; goes_on(); pass++) {
        epoch = pass;
        std::vector<std::uint64_t> held;
        for (unsigned look = 0; look < 100 && held.empty(); look++) {
            for (std::uint64_t page = 0; page < busy_pages; page++) {
                if (held_in[page].load() == pass) {
                    held.push_back(page);
                }
            }
        }
        looked_at += held.size();
        Lister found;
        machine.host.scan(PageSink(found));
        machine.host.harvest(PageSink(found));
        for (const std::uint64_t page : held) {
            missing += std::count(found.pages.begin(), found.pages.end(), page) == 0 ? 1 : 0;
        }
    }
    machine.stop = true;
    join(threads);
    CHECK(looked_at > 0);
    return missing;
}

} // namespace

TEST_CASE("concurrent: counters before marks miss no page", "[concurrent]") {
    std::uint64_t missing = 0;
    for (unsigned seed = 0; seed < 20; seed++) {
        missing += unreported(seed);
    }
    CHECK(missing == 0);
}

TEST_CASE("concurrent: marks before counters would miss a page released in between",
          "[concurrent]") {
    const bool counters_first = GENERATE(true, false);
    Machine machine;
    machine.host.publish(true);
    pvd_hold(machine.guest.log.core(), 5, 5);
    Lister found;
    const auto scan = [&] { machine.host.scan(PageSink(found)); };
    const auto harvest = [&] { machine.host.harvest(PageSink(found)); };
    counters_first ? scan() : harvest();
    pvd_release(machine.guest.log.core(), 5, 5);
    counters_first ? harvest() : scan();
    CHECK(found.pages.empty() == !counters_first);
}

TEST_CASE("concurrent: a migration in miniature loses nothing", "[concurrent]") {
    CHECK(lost_in_any({}, 300) == 0);
}

TEST_CASE("concurrent: controls lose pages", "[concurrent]") {
    CHECK(lost_in_any({.publishes_late = true}, 300) > 0);
    CHECK(lost_in_any({.forgets_in_flight = true}, 300) > 0);
}

TEST_CASE("concurrent: marks alone, harvested whole and by ranges", "[concurrent]") {
    for (unsigned round = 0; round < 200; round++) {
        Machine machine;
        auto threads = start([&](unsigned cpu) {
            std::mt19937_64 random(round * 100 + cpu);
            for (std::uint64_t value = 1; !machine.stop.load(std::memory_order_relaxed); value++) {
                const std::uint64_t page = random() % npages;
                machine.device_writes(page, value * guest_cpus + cpu);
                pvd_mark(machine.guest.log.core(), pfn_of(page), pfn_of(page));
            }
        });
        std::mt19937_64 random(round);
        std::uint64_t reported = 0;
        // On a busy machine the guest may not have begun by then.
        for (unsigned pass = 0; pass < 200 || (reported == 0 && pass < 1000000); pass++) {
            Lister marked;
            PageRange range = pvdirty::all_pages;
            if (pass % 2 != 0) {
                range.first = pfn_of(random() % npages);
                range.last = range.first + random() % 700;
            }
            reported += machine.host.harvest(PageSink(marked), range);
            machine.send(marked.pages);
        }
        machine.stop = true;
        join(threads);
        Lister last;
        reported += machine.host.harvest(PageSink(last));
        machine.send(last.pages);
        CHECK(machine.lost() == 0);
        CHECK(reported > 0);
        CHECK(machine.host.harvest({}) == 0);
    }
}

TEST_CASE("concurrent: prune never hides a counter", "[concurrent]") {
    // Each round is one race: the host prunes what the last round left, while each CPU maps a page
    // and then rests. A later hold would repair what a bad prune had hidden.
    const auto places = GENERATE(
        as<std::vector<std::uint64_t>>{}, std::vector<std::uint64_t>{0, 1, 600, 1300},
        std::vector<std::uint64_t>{first_window}, std::vector<std::uint64_t>{0, first_window});
    constexpr unsigned rounds = 20000;
    constexpr unsigned cpus = 1; // and the host: more would only wait for each other
    Machine machine;
    std::array<std::uint64_t, cpus> held{};
    std::barrier turn(cpus + 1);
    const auto spin = [](std::uint64_t times) {
        for (std::atomic<std::uint64_t> i{0}; i < times; i++) {
        }
    };
    std::vector<std::thread> threads;
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        threads.emplace_back([&, cpu] {
            std::mt19937_64 random(cpu);
            for (unsigned round = 0; round < rounds; round++) {
                held[cpu] = pfn_of(places[random() % places.size()]);
                turn.arrive_and_wait();
                spin(random() % 40);
                pvd_hold(machine.guest.log.core(), held[cpu], held[cpu]);
                turn.arrive_and_wait();
                turn.arrive_and_wait();
                pvd_release(machine.guest.log.core(), held[cpu], held[cpu]);
            }
        });
    }
    std::mt19937_64 random(cpus);
    unsigned hidden = 0;
    for (unsigned round = 0; round < rounds; round++) {
        turn.arrive_and_wait();
        spin(random() % 40);
        machine.host.scan({});
        turn.arrive_and_wait();
        std::vector<PageRange> expected;
        expected.reserve(held.size());
        for (const std::uint64_t pfn : held) {
            expected.push_back({pfn, pfn});
        }
        Collector found;
        machine.host.scan(PageSink(found));
        hidden += found.pages() == PageSet(expected) ? 0 : 1;
        turn.arrive_and_wait();
    }
    join(threads);
    CHECK(hidden == 0);
    CHECK(machine.host.incomplete() == 0);
}
