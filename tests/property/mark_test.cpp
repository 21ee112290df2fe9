// SPDX-License-Identifier: MIT
/* Marking any ranges and harvesting them: exactly the covered pages, and nothing is left behind. */
#include <algorithm>

#include "property/attached.hpp"
#include "property/check.hpp"
#include "property/gen.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::PageRange;
using pvdirty::pages_of;

namespace {

using Marker = void (*)(pvd_log*, u64 first, u64 last);

/* After a full harvest both trees of marks are empty. */
bool levels_are_clear(const Guest& guest) {
    const auto clear = [](const auto& words) {
        return std::all_of(std::begin(words), std::end(words), [](auto word) { return word == 0; });
    };
    bool all = clear(guest.log.top().marks);
    for (std::size_t i = 0; i < guest.log.sections().size(); i++) {
        all = all && clear(guest.log.summary(i).marks);
    }
    return all;
}

void check_marks(Marker mark, const Layout& layout, const std::vector<Bytes>& mapped) {
    Attached guest(layout);
    std::vector<PageRange> ranges;
    for (const Bytes& bytes : mapped) {
        if (const auto pages = pages_of(bytes.gpa, bytes.len)) {
            mark(guest.log.core(), pages->first, pages->last);
            ranges.push_back(*pages);
        }
    }
    const PageSet marked(ranges);
    const PageSet covered = PageSet::covered(layout);
    RC_ASSERT(guest.harvest() == (marked & covered));
    RC_ASSERT(guest.outside() == !(marked - covered).empty());
    RC_ASSERT(levels_are_clear(guest));
    RC_ASSERT(guest.harvest().empty());
    RC_ASSERT(!guest.ram.written_outside());
}

auto marks_are_harvested(Marker mark) {
    return [mark] {
        const Layout layout = *any_layout(12);
        const auto mapped = *rc::gen::container<std::vector<Bytes>>(any_bytes(layout, 40));
        check_marks(mark, layout, mapped);
    };
}

/* Controls: markers that leave one level out. */
void mark_leaf(pvd_log* log, u64 pfn) {
    const pvd_window& window = log->windows[pfn >> PVDIRTY_WINDOW_SHIFT];
    const u64 page = pfn % PVDIRTY_WINDOW_PAGES;
    window.marks[page / 64] |= 1ULL << (page % 64);
}

bool has_section(const pvd_log* log, u64 pfn) {
    const u64 index = pfn >> PVDIRTY_WINDOW_SHIFT;
    return index < log->nwindows && log->windows[index].marks != nullptr &&
           pfn % PVDIRTY_WINDOW_PAGES < log->windows[index].npages;
}

void mark_without_summary(pvd_log* log, u64 first, u64 last) {
    pvd_mark(log, first, last);
    if (has_section(log, first)) {
        const pvd_window& window = log->windows[first >> PVDIRTY_WINDOW_SHIFT];
        const u64 group = first % PVDIRTY_WINDOW_PAGES / PVDIRTY_GROUP_PAGES;
        window.summary->marks[group / 64] &= ~(1ULL << (group % 64));
    }
}

void mark_without_root(pvd_log* log, u64 first, u64 last) {
    pvd_mark(log, first, last);
    if (has_section(log, first)) {
        const u32 slot = log->windows[first >> PVDIRTY_WINDOW_SHIFT].slot;
        log->top->marks[slot / 64] &= ~(1ULL << (slot % 64));
    }
}

void mark_one_more(pvd_log* log, u64 first, u64 last) {
    pvd_mark(log, first, last);
    if (has_section(log, last + 1)) {
        mark_leaf(log, last + 1);
    }
}

} // namespace

TEST_CASE("marks: any ranges in any sections, 1 byte to 1 TiB", "[marks]") {
    holds(marks_are_harvested(pvd_mark), 3000);
}

TEST_CASE("marks: controls that leave out a level or mark too much are caught", "[marks]") {
    is_refuted(marks_are_harvested(mark_without_summary));
    is_refuted(marks_are_harvested(mark_without_root));
    is_refuted(marks_are_harvested(mark_one_more));
}

TEST_CASE("marks: ranges over a TiB of full windows", "[marks]") {
    constexpr std::uint64_t tib = std::uint64_t{1} << 40;
    Layout layout;
    for (std::uint64_t window = 0; window < tib >> 30; window++) {
        layout.push_back({window, PVDIRTY_WINDOW_PAGES});
    }
    SECTION("all of it") {
        check_marks(pvd_mark, layout, {{0, tib}});
    }
    SECTION("all of it but its ends, which are not aligned, in pieces") {
        check_marks(pvd_mark, layout, {{1, tib / 3}, {tib / 3 + 1, tib - tib / 3 - 4097}});
    }
    SECTION("few bytes of it") {
        holds(
            [&layout] {
                const auto bytes = rc::gen::pair(rc::gen::inRange<std::uint64_t>(0, tib),
                                                 rc::gen::inRange<std::uint64_t>(0, 1 << 24));
                std::vector<Bytes> mapped;
                for (const auto& [gpa, len] :
                     *rc::gen::container<std::vector<std::pair<std::uint64_t, std::uint64_t>>>(
                         bytes)) {
                    mapped.push_back({gpa, len});
                }
                check_marks(pvd_mark, layout, mapped);
            },
            100);
    }
}

TEST_CASE("marks: at the top of the address space", "[marks]") {
    constexpr std::uint64_t top_window = (std::uint64_t{1} << 40 >> PVDIRTY_WINDOW_SHIFT) - 1;
    holds([] {
        // The last window that a log can describe, and the addresses beyond it.
        const Layout layout = {
            {top_window, *rc::gen::element<std::uint32_t>(PVDIRTY_WINDOW_PAGES, 1, 777)}};
        const auto len = *any_size(32);
        const auto back = *any_size(32);
        const auto end = *rc::gen::element<std::uint64_t>(std::uint64_t{1} << 52,
                                                          std::uint64_t{1} << 63, UINT64_MAX);
        check_marks(pvd_mark, layout, {{end - back, len}});
    });
    holds([] {
        // PFNs that no byte address has.
        Attached guest({{0, 512}});
        const auto last = *rc::gen::element<std::uint64_t>((std::uint64_t{1} << 52) - 1,
                                                           UINT64_MAX - 1, UINT64_MAX);
        const auto first = last - *rc::gen::inRange<std::uint64_t>(0, 5000);
        pvd_mark(guest.log.core(), first, last);
        pvd_hold(guest.log.core(), first, last);
        pvd_release(guest.log.core(), first, last);
        RC_ASSERT(guest.outside());
        RC_ASSERT(guest.harvest().empty());
        RC_ASSERT(guest.scan().empty());
    });
}

TEST_CASE("marks: an empty range marks nothing, wherever it is", "[marks]") {
    holds([](std::uint64_t gpa) { RC_ASSERT(!pages_of(gpa, 0)); });
}

TEST_CASE("marks: range harvests take their own and leave the rest", "[marks]") {
    holds(
        [] {
            const Layout layout = *any_layout(4);
            Attached guest(layout);
            PageSet model;
            const PageSet covered = PageSet::covered(layout);
            const auto steps = *rc::gen::container<std::vector<std::pair<bool, Bytes>>>(
                rc::gen::pair(rc::gen::arbitrary<bool>(), any_bytes(layout, 32)));
            for (const auto& [harvests, bytes] : steps) {
                const auto pages = pages_of(bytes.gpa, bytes.len);
                if (!pages) {
                    continue;
                }
                const PageSet range({*pages});
                if (harvests) {
                    RC_ASSERT(guest.harvest(*pages) == (model & range));
                    model = model - range;
                } else {
                    pvd_mark(guest.log.core(), pages->first, pages->last);
                    model = model | (range & covered);
                }
            }
            RC_ASSERT(guest.harvest() == model);
            RC_ASSERT(levels_are_clear(guest));
        },
        3000);
}
