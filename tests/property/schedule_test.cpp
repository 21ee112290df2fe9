// SPDX-License-Identifier: MIT
/*
 * Two CPUs of the guest against one pass of the host, in all orders of their accesses: one CPU
 * works in two parts, the other, which may be stopped for good in the middle, between them. What
 * the random commands of stateful_test.cpp may miss is met here in any case.
 */
#include <climits>
#include <cstring>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "guest/guest_log.hpp"
#include "guest/machine.hpp"
#include "guest/page_set.hpp"
#include "pvdirty/log.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::Log;
using pvdirty::PageRange;
using pvdirty::PageSink;

namespace {

/* The last word of the section is not full. */
constexpr std::uint32_t npages = 700;
constexpr std::uint64_t page = 690;
constexpr unsigned most_steps = 9; // of a release

struct Case {
    bool holds = false;                   // against a scan; or releases, against a harvest
    std::uint64_t others_page = 0;        // what the other CPU does it with
    std::uint64_t before = 0;             // a page that it was done with before
    PageRange range = pvdirty::all_pages; // what is harvested
};

/* At which access of the host's each part comes, and how long the first two are. */
struct Schedule {
    unsigned first_at = 0;
    unsigned other_at = 0;
    unsigned rest_at = 0;
    unsigned first_steps = 0;
    unsigned other_steps = 0;
    bool stale = false;
};

class Scene {
public:
    Scene() {
        machine_.on_host_access([this](const void* where) {
            if (of_interest(where)) {
                at(++accesses_);
            }
        });
    }

    /* Accesses of the host to words that matter, when nobody comes between. */
    unsigned length(const Case& what) {
        loses(what, {UINT_MAX, UINT_MAX, UINT_MAX});
        return accesses_;
    }

    /* Is a page lost? */
    bool loses(const Case& what, const Schedule& schedule) {
        prepare(what);
        machine_.start(0, [&] { act(what, page); });
        machine_.start(1, [&] { act(what, what.others_page); });
        schedule_ = &schedule;
        accesses_ = 0;
        part_ = 0;
        Collector found;
        if (what.holds) {
            host_.scan(PageSink(found));
        } else {
            host_.harvest(PageSink(found), what.range);
        }
        at(UINT_MAX);
        schedule_ = nullptr;

        const bool other_done = machine_.idle();
        Collector last_scan;
        host_.scan(PageSink(last_scan));
        Collector last;
        host_.harvest(PageSink(last));
        PageSet pages = last_scan.pages();
        if (what.holds) {
            return !pages.contains(page) || (other_done && !pages.contains(what.others_page));
        }
        pages = pages | found.pages() | last.pages();
        return !pages.contains(page) || !pages.contains(what.others_page);
    }

private:
    /* A log as it is in the middle of a life: what is done with has left its bits. */
    void prepare(const Case& what) {
        machine_.abandon();
        pvd_log* core = guest_.log.core();
        std::memset(&guest_.log.top(), 0, sizeof(pvdirty_top));
        std::memset(&guest_.log.summary(0), 0, sizeof(pvdirty_summary));
        std::memset(guest_.log.marks(0), 0, PVDIRTY_MARKS_BYTES(npages));
        std::memset(guest_.log.counts(0), 0, PVDIRTY_COUNTS_BYTES(npages));
        guest_.log.control().logging = 1;
        pvd_hold(core, what.before, what.before);
        pvd_release(core, what.before, what.before);
        if (!what.holds) {
            pvd_hold(core, page, page);
            pvd_hold(core, what.others_page, what.others_page);
        }
    }
    void act(const Case& what, std::uint64_t pfn) {
        if (what.holds) {
            pvd_hold(guest_.log.core(), pfn, pfn);
        } else {
            pvd_release(guest_.log.core(), pfn, pfn);
        }
    }
    [[nodiscard]] bool of_interest(const void* where) const {
        return schedule_ != nullptr && (where == nullptr || *static_cast<const char*>(where) != 0 ||
                                        where == guest_.log.marks(0) + page / 64);
    }
    void at(unsigned access) {
        if (part_ == 0 && access >= schedule_->first_at) {
            part_ = 1;
            machine_.step(0, schedule_->first_steps, false);
        }
        if (part_ == 1 && access >= schedule_->other_at) {
            part_ = 2;
            machine_.step(1, schedule_->other_steps, false);
        }
        if (part_ == 2 && access >= schedule_->rest_at) {
            part_ = 3;
            machine_.step(0, UINT_MAX, schedule_->stale);
        }
    }

    Machine machine_; // first: it sees what the rest does
    Guest guest_{{{0, npages}}};
    Log host_ = std::move(*Log::attach(guest_.ram, guest_.log.addr(), guest_.log.pages()));
    const Schedule* schedule_ = nullptr;
    unsigned accesses_ = 0;
    unsigned part_ = 0;
};

/* How many schedules there are, and how many lose a page. */
std::pair<unsigned, unsigned> try_all(const Case& what) {
    Scene scene;
    const unsigned length = scene.length(what) + 1;
    unsigned schedules = 0;
    unsigned losing = 0;
    Schedule s;
    for (s.first_at = 1; s.first_at <= length; s.first_at++) {
        for (s.other_at = s.first_at; s.other_at <= length; s.other_at++) {
            for (s.rest_at = s.other_at; s.rest_at <= length; s.rest_at++) {
                for (s.first_steps = 0; s.first_steps <= most_steps; s.first_steps++) {
                    for (s.other_steps = 0; s.other_steps <= most_steps; s.other_steps++) {
                        for (const bool stale : {false, true}) {
                            s.stale = stale;
                            schedules++;
                            losing += scene.loses(what, s) ? 1 : 0;
                        }
                    }
                }
            }
        }
    }
    return {schedules, losing};
}

constexpr unsigned host_events = 5; // of a publication: its accesses, the first pass, the stop

/* Before which event of the host the driver begins, and before which it ends. */
struct Release {
    unsigned begins = 0;
    unsigned ends = 0;
    unsigned steps = 0; // that it makes at once
    bool stale = false;
};

/*
 * A device writes, its driver releases the page; the host publishes and then sends the page. Copies
 * first: the control, a first pass that does not wait for the publication.
 * @returns whether the page is lost
 */
bool loses_at_publication(const Release& release, bool copies_first) {
    Machine machine;
    Guest guest({{0, npages}});
    Log host = std::move(*Log::attach(guest.ram, guest.log.addr(), guest.log.pages()));
    host.publish(true); // so that a stale load has something to return
    host.publish(false);
    pvd_hold(guest.log.core(), page, page);
    unsigned event = 0;
    unsigned version = 1;
    const auto happens = [&] {
        if (event == release.begins) {
            version = 2;
            machine.start(0, [&] {
                machine.sees_completion();
                pvd_release(guest.log.core(), page, page);
            });
            machine.step(0, release.steps, release.stale);
        }
        if (event == release.ends) {
            machine.step(0, UINT_MAX, release.stale);
        }
        event++;
    };
    machine.on_host_access([&](const void* /*where*/) { happens(); });
    unsigned sent = version;
    host.publish(true);
    machine.on_host_access(nullptr);
    happens();
    sent = copies_first ? sent : version;
    while (event < host_events) {
        happens();
    }
    Collector last;
    host.harvest(PageSink(last));
    return sent != version && !last.pages().contains(page);
}

unsigned lost_at_publication(bool copies_first) {
    unsigned losing = 0;
    Release r;
    for (r.begins = 0; r.begins < host_events; r.begins++) {
        for (r.ends = r.begins; r.ends < host_events; r.ends++) {
            for (r.steps = 0; r.steps <= most_steps; r.steps++) {
                for (const bool stale : {false, true}) {
                    r.stale = stale;
                    losing += loses_at_publication(r, copies_first) ? 1 : 0;
                }
            }
        }
    }
    return losing;
}

} // namespace

TEST_CASE("schedules: a release and the publication in all orders", "[schedules]") {
    const unsigned pages_lost = lost_at_publication(false);
    CHECK(pages_lost == 0);
    CHECK(lost_at_publication(true) > 0);
}

TEST_CASE("schedules: two releases and a harvest in all orders", "[schedules]") {
    // The other page is the same, or shares a word, a group, or the section.
    const auto others_page = GENERATE(as<std::uint64_t>{}, page, page + 1, 600, 5);
    const auto before = GENERATE(as<std::uint64_t>{}, page, 6);
    const auto [schedules, pages_lost] = try_all({.others_page = others_page, .before = before});
    CHECK(schedules > 1000);
    CHECK(pages_lost == 0);
}

TEST_CASE("schedules: two releases and the harvest of a part of their word", "[schedules]") {
    const auto range = GENERATE(PageRange{page + 1, page + 5}, PageRange{page, page});
    const auto [schedules, pages_lost] =
        try_all({.others_page = page + 1, .before = page + 2, .range = range});
    CHECK(schedules > 1000);
    CHECK(pages_lost == 0);
}

TEST_CASE("schedules: two holds and a scan in all orders", "[schedules]") {
    const auto others_page = GENERATE(as<std::uint64_t>{}, page, 600, 5);
    const auto before = GENERATE(as<std::uint64_t>{}, page, 6);
    const auto [schedules, pages_lost] =
        try_all({.holds = true, .others_page = others_page, .before = before});
    CHECK(schedules > 1000);
    CHECK(pages_lost == 0);
}
