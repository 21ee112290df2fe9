// SPDX-License-Identifier: MIT
/*
 * The order of accesses and barriers, as they are made. On this machine a missing barrier may show
 * in no result; that one is there, between which accesses, can be seen.
 */
#include <algorithm>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "guest/guest_log.hpp"
#include "guest/watch.hpp"
#include "pvdirty/domain.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Domain;
using pvdirty::Log;
using pvdirty::Logger;
using pvdirty::PageSink;

namespace {

enum Place {
    other,
    logging,
    incomplete,
    gaps,
    devices,
    root_marks,
    root_counts,
    summary_marks,
    summary_counts,
    marks,
    counts
};
enum Kind { load, store, exchange, fence, rmb, dma_rmb, told, reported };

struct Event {
    Kind kind;
    Place place = other;

    friend bool operator==(const Event&, const Event&) = default;
    friend std::ostream& operator<<(std::ostream& out, const Event& event) {
        return out << event.kind << '@' << event.place;
    }
};
using Events = std::vector<Event>;

/* A log of one section, all of whose accesses are recorded. */
class Recorder : Watcher {
public:
    Recorder() {
        guest.ram.on_written([this] { events_.push_back({told}); });
    }

    Events of(const std::function<void()>& function) {
        events_.clear();
        function();
        return std::exchange(events_, {});
    }
    void operator()(std::uint64_t /*first*/, std::uint64_t /*mask*/) {
        events_.push_back({reported});
    }

    Guest guest{{{0, 1000}}};
    pvd_log* core = guest.log.core();

private:
    [[nodiscard]] Place place_of(const void* where) const {
        const auto in = [where](const void* area, std::size_t size) {
            return where >= area && where < static_cast<const std::byte*>(area) + size;
        };
        const pvdirty_log& control = guest.log.control();
        const pvdirty_top& top = guest.log.top();
        const pvdirty_summary& summary = guest.log.summary(0);
        return in(&control.logging, sizeof(control.logging))         ? logging
               : in(&control.incomplete, sizeof(control.incomplete)) ? incomplete
               : in(&control.gaps, sizeof(control.gaps))             ? gaps
               : in(&control.devices, sizeof(control.devices))       ? devices
               : in(&top.marks, sizeof(top.marks))                   ? root_marks
               : in(&top.counts, sizeof(top.counts))                 ? root_counts
               : in(&summary.marks, sizeof(summary.marks))           ? summary_marks
               : in(&summary.counts, sizeof(summary.counts))         ? summary_counts
               : in(guest.log.marks(0), PVDIRTY_MARKS_BYTES(1000))   ? marks
               : in(guest.log.counts(0), PVDIRTY_COUNTS_BYTES(1000)) ? counts
                                                                     : other;
    }
    void add(Kind kind, const void* where) { events_.push_back({kind, place_of(where)}); }

    std::uint64_t guest_load(const void* where, unsigned size) override {
        add(load, where);
        return read(where, size);
    }
    void guest_exchanged(void* where, bool /*done*/) override { add(exchange, where); }
    void guest_rmb() override { events_.push_back({rmb}); }
    void guest_dma_rmb() override { events_.push_back({dma_rmb}); }
    std::uint64_t host_load(const void* where, unsigned size) override {
        add(load, where);
        return read(where, size);
    }
    void host_store(void* where, unsigned size, std::uint64_t value) override {
        add(store, where);
        write(where, size, value);
    }
    void host_exchanged(void* where) override { add(exchange, where); }
    void host_fence() override { events_.push_back({fence}); }

    Events events_;
};

/* Is there such an event, and does each have a barrier between it and the next of another sort? */
bool barrier_between(const Events& events, Event first, Kind barrier, Event second) {
    bool found = false;
    bool waiting = false;
    for (const Event& event : events) {
        if (waiting && event == second) {
            return false;
        }
        waiting = (waiting && event.kind != barrier) || event == first;
        found = found || event == first;
    }
    return found && std::count(events.begin(), events.end(), second) != 0;
}

/* Is the last event of one sort before the first of another? */
bool all_before(const Events& events, Event first, Event second) {
    const auto last = std::find(events.rbegin(), events.rend(), first);
    const auto next = std::find(events.begin(), events.end(), second);
    return last != events.rend() && next != events.end() && last.base() <= next;
}

Log attached(Recorder& recorder) {
    return std::move(
        *Log::attach(recorder.guest.ram, recorder.guest.log.addr(), recorder.guest.log.pages()));
}

} // namespace

TEST_CASE("order: the guest releases", "[order]") {
    Recorder recorder;
    recorder.guest.log.control().logging = 1;
    pvd_hold(recorder.core, 5, 5);
    const Events events = recorder.of([&] { pvd_release(recorder.core, 5, 5); });
    const Events expected = {{dma_rmb},          {load, logging},        {load, marks},
                             {exchange, marks},  {load, summary_marks},  {exchange, summary_marks},
                             {load, root_marks}, {exchange, root_marks}, {load, counts},
                             {exchange, counts}};
    CHECK(events == expected);
}

TEST_CASE("order: the guest marks again what is marked", "[order]") {
    Recorder recorder;
    pvd_mark(recorder.core, 5, 5);
    const Events events = recorder.of([&] { pvd_mark(recorder.core, 5, 5); });
    const Events expected = {{load, marks},      {rmb}, {load, summary_marks}, {rmb},
                             {load, root_marks}, {rmb}};
    CHECK(events == expected);
}

TEST_CASE("order: a range is marked from its leaves to the root", "[order]") {
    Recorder recorder;
    const Events events = recorder.of([&] { pvd_mark(recorder.core, 5, 6); });
    const Events expected = {{load, marks},         {exchange, marks},
                             {load, summary_marks}, {exchange, summary_marks},
                             {load, root_marks},    {exchange, root_marks}};
    CHECK(events == expected);
}

TEST_CASE("order: the guest holds", "[order]") {
    Recorder recorder;
    const Events events = recorder.of([&] { pvd_hold(recorder.core, 5, 5); });
    const Events expected = {{load, counts},         {exchange, counts},
                             {load, summary_counts}, {exchange, summary_counts},
                             {load, root_counts},    {exchange, root_counts}};
    CHECK(events == expected);

    // A counter that is stuck is not raised, but the levels above are looked at after it.
    recorder.guest.log.count(5) = PVDIRTY_COUNT_STUCK;
    const Events stuck = recorder.of([&] { pvd_hold(recorder.core, 5, 5); });
    CHECK(barrier_between(stuck, {load, counts}, rmb, {load, summary_counts}));
}

TEST_CASE("order: the host publishes, fences, and says so", "[order]") {
    Recorder recorder;
    Log log = attached(recorder);
    const Events events = recorder.of([&] { log.publish(true); });
    CHECK(events == Events{{store, logging}, {fence}, {told}});
}

TEST_CASE("order: the host clears the marks of a level before it looks below", "[order]") {
    Recorder recorder;
    Log log = attached(recorder);
    pvd_mark(recorder.core, 5, 5);
    pvd_mark(recorder.core, 600, 600);
    const Events events = recorder.of([&] {
        log.harvest(PageSink(recorder));
        recorder(0, 0); // the caller reads the pages
    });
    CHECK(barrier_between(events, {exchange, root_marks}, fence, {load, summary_marks}));
    CHECK(barrier_between(events, {exchange, summary_marks}, fence, {load, marks}));
    CHECK(all_before(events, {exchange, root_marks}, {exchange, summary_marks}));
    CHECK(all_before(events, {exchange, summary_marks}, {exchange, marks}));
    const auto last_mark = std::find(events.rbegin(), events.rend(), Event{exchange, marks}).base();
    const bool fenced_before_pages_are_read = std::count(last_mark, events.end(), Event{fence}) > 0;
    CHECK(fenced_before_pages_are_read);
    const bool told_after_the_last_write = all_before(events, {exchange, marks}, {told});
    CHECK(told_after_the_last_write);
}

TEST_CASE("order: the host prunes, fences, and looks again", "[order]") {
    Recorder recorder;
    Log log = attached(recorder);
    pvd_hold(recorder.core, 5, 5);
    pvd_release(recorder.core, 5, 5);
    const Events events = recorder.of([&] { log.scan({}); });
    CHECK(barrier_between(events, {exchange, summary_counts}, fence, {load, counts}));
    CHECK(barrier_between(events, {exchange, root_counts}, fence, {load, summary_counts}));
}

TEST_CASE("order: a session starts, and harvests", "[order]") {
    Recorder recorder;
    Domain domain(recorder.guest.ram, 1);
    pvdirty::Port& port = domain.add_port("rp0", PVDIRTY_FEATURES_ALL);
    domain.add_device(port, "net0", [] { return 0x100; });
    port.write(offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
    const std::uint64_t addr = recorder.guest.log.addr();
    port.write(offsetof(pvdirty_cap, log_addr_lo), static_cast<std::uint32_t>(addr), 4);
    port.write(offsetof(pvdirty_cap, log_addr_hi), static_cast<std::uint32_t>(addr >> 32), 4);
    port.write(offsetof(pvdirty_cap, log_pages), recorder.guest.log.pages(), 4);
    port.write(offsetof(pvdirty_cap, device_status), 15, 1);
    REQUIRE(domain.log());

    pvd_mark(recorder.core, 5, 5);
    const Events start = recorder.of([&] { domain.set_logging(Logger::session, true); });
    const bool old_marks_go_before_the_publication =
        all_before(start, {exchange, marks}, {store, logging});
    CHECK(old_marks_go_before_the_publication);
    const bool looks_after_the_publication = all_before(start, {store, logging}, {load, devices});
    CHECK(looks_after_the_publication);

    pvd_mark(recorder.core, 5, 5);
    pvd_hold(recorder.core, 6, 6);
    const Events harvest = recorder.of([&] { domain.harvest({}, {}); });
    const bool counters_before_marks = all_before(harvest, {load, counts}, {load, root_marks});
    CHECK(counters_before_marks);
    const bool gaps_before_devices = all_before(harvest, {load, gaps}, {load, devices});
    CHECK(gaps_before_devices);
    const bool marks_before_the_look = all_before(harvest, {exchange, marks}, {load, gaps});
    CHECK(marks_before_the_look);
}
