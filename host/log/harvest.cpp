// SPDX-License-Identifier: MIT
/*
 * Taking marks. Partner: mark_group() in guest/core/log.c, which sets leaf, summary, root, in that
 * order, and looks at every level each time. Here each level is cleared before the one below it is
 * read. So for any mark, whichever level we have passed: the guest set it before we looked (and we
 * find it), or the guest sees a level that we have cleared and sets it again (and we find it next
 * time). A leaf bit that the guest finds set already and therefore skips is one that we have yet to
 * clear, and the page is read after that.
 */
#include <algorithm>
#include <atomic>
#include <bit>

#include "log/word.hpp"
#include "log/written.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty {

namespace {

constexpr unsigned words_per_group = PVDIRTY_GROUP_PAGES / 64;
constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);
constexpr std::uint64_t group_bytes = words_per_group * word_bytes;
constexpr std::uint64_t pages_per_summary_word = 64 * PVDIRTY_GROUP_PAGES;

/* The 64 groups below one word of a section's summary. */
struct Groups {
    std::uint64_t* marks;
    std::uint64_t first_pfn;
};

/* What was taken of such groups: how many pages, and which groups had any. */
struct Taken {
    std::uint64_t pages = 0;
    std::uint64_t groups = 0;

    Taken& operator+=(const Taken& other) noexcept {
        pages += other.pages;
        groups |= other.groups;
        return *this;
    }
};

/* Takes all marks of a group, and counts them. */
struct TakeWhole {
    std::uint64_t operator()(unsigned /*bit*/, std::uint64_t* words,
                             GroupMasks& masks) const noexcept {
        BitCount pages;
        for (std::uint64_t& mask : masks) {
            GuestWord<std::uint64_t> word(words++);
            if (word.load() == 0) {
                mask = 0;
                continue;
            }
            const std::uint64_t found = word.exchange(0);
            mask = found;
            // The next exchange waits for this store, which should not wait for the counting.
            std::atomic_signal_fence(std::memory_order_seq_cst);
            pages.add(found);
        }
        return pages.sum();
    }
};

/* Takes those marks of a group that the range wants, and notes groups where it leaves others. */
struct TakePart {
    // Pages of the section: the first one of the group that bit 0 stands for, and the last one.
    std::uint64_t first_page = 0;
    std::uint64_t last_page = 0;
    PageRange wanted;
    std::uint64_t left = 0; // groups

    std::uint64_t operator()(unsigned bit, std::uint64_t* words, GroupMasks& masks) noexcept {
        std::uint64_t index = first_page / 64 + std::uint64_t{bit} * words_per_group;
        BitCount pages;
        for (std::uint64_t& mask : masks) {
            GuestWord<std::uint64_t> word(words++);
            const std::uint64_t inside = bits_in_word(index, wanted.first, wanted.last);
            const std::uint64_t outside = bits_in_word(index, 0, last_page) & ~inside;
            mask = word.take(inside);
            pages.add(mask);
            if (outside != 0 && (word.load() & outside) != 0) {
                left |= std::uint64_t{1} << bit;
            }
            index++;
        }
        return pages.sum();
    }
};

/*
 * Takes and reports the marks of the groups that have their bit set, one group after the other:
 * first its words are exchanged, then they are handed over. The locked instructions are what it
 * costs; other work runs beside them only as long as they need not wait for it. So this is a
 * function of its own, whose loop lives in registers.
 */
template <class Take>
[[gnu::noinline]] Taken take_groups(std::uint64_t bits, Groups groups, const PageSink& sink,
                                    Take& take) noexcept {
    Taken taken;
    for_each_bit(bits, [&](unsigned bit) {
        GroupMasks masks;
        const std::uint64_t pages = take(bit, groups.marks + bit * words_per_group, masks);
        if (pages != 0) {
            sink(groups.first_pfn + bit * std::uint64_t{PVDIRTY_GROUP_PAGES}, masks);
            taken += {pages, std::uint64_t{1} << bit};
        }
    });
    return taken;
}

/* Of one summary word, in ascending order: the range may cut the groups at its ends. */
Taken take_word(std::uint64_t bits, std::uint64_t whole, Groups groups, const PageSink& sink,
                TakePart& take_part) noexcept {
    const std::uint64_t below_whole = (whole & -whole) - 1; // all when no group is whole
    TakeWhole take_whole;
    Taken taken = take_groups(bits & ~whole & below_whole, groups, sink, take_part);
    taken += take_groups(bits & whole, groups, sink, take_whole);
    taken += take_groups(bits & ~whole & ~below_whole, groups, sink, take_part);
    return taken;
}

/* Groups that lie in the pages first..last as a whole; ends before it begins when none does. */
struct WholeGroups {
    std::uint64_t first;
    std::uint64_t end;

    explicit WholeGroups(PageRange pages) noexcept
        : first((pages.first + PVDIRTY_GROUP_PAGES - 1) >> PVDIRTY_GROUP_SHIFT),
          end((pages.last + 1) >> PVDIRTY_GROUP_SHIFT) {}
    /* As bits of a word of the summary. */
    [[nodiscard]] std::uint64_t in_word(std::uint64_t word) const noexcept {
        return first < end ? bits_in_word(word, first, end - 1) : 0;
    }
};

} // namespace

std::uint64_t Log::harvest(PageSink sink, PageRange range) noexcept {
    // Sections whose window begins in the range, and the one before, which may reach into it.
    const auto begins_after = [this](std::uint64_t pfn) {
        return static_cast<std::size_t>(
            std::upper_bound(sections_.begin(), sections_.end(), pfn,
                             [](std::uint64_t page, const Section& section) {
                                 return page < section.base_pfn;
                             }) -
            sections_.begin());
    };
    const std::size_t end = begins_after(range.last);
    std::size_t first = begins_after(range.first);
    first -= first > 0 ? 1 : 0;
    if (first >= end) {
        return 0;
    }

    Written top(*memory_);
    std::uint64_t pages = 0;
    for (std::size_t word = first / 64; word <= (end - 1) / 64; word++) {
        std::uint64_t* where = top_marks() + word;
        const std::uint64_t taken =
            GuestWord<std::uint64_t>(where).take(bits_in_word(word, first, end - 1));
        if (taken == 0) {
            continue;
        }
        full_fence(); // root cleared, then summaries read; partner: pvd_mark_above()
        for_each_bit(taken,
                     [&](unsigned bit) { pages += harvest_section(word * 64 + bit, sink, range); });
        top.add(gpa_of(where), word_bytes);
    }
    full_fence(); // marks cleared, then pages read; partner: the dma_rmb of pvd_logging_now()
    return pages;
}

/*
 * Marks of one section. What the range leaves behind in a group, or groups it leaves behind in the
 * section, get their bit in the level above again, from leaf to root like the guest does.
 */
std::uint64_t Log::harvest_section(std::size_t index, PageSink sink, PageRange range) noexcept {
    const Section& section = sections_[index];
    const std::uint64_t last_page = section.npages - 1;
    const std::uint64_t first = range.first > section.base_pfn ? range.first - section.base_pfn : 0;
    const std::uint64_t last = std::min(last_page, range.last - section.base_pfn);
    const WholeGroups whole_groups({first, last});
    auto* marks = reinterpret_cast<std::uint64_t*>(section.marks.host());
    std::uint64_t* summary = summary_marks(index);
    Written summary_written(*memory_);
    Written marks_written(*memory_);
    std::uint64_t pages = 0;
    bool remains = false;

    for (std::uint64_t word = 0; word < PVDIRTY_SUMMARY_WORDS; word++) {
        GuestWord<std::uint64_t> groups(summary + word);
        const std::uint64_t here = bits_in_word(word, 0, last_page >> PVDIRTY_GROUP_SHIFT);
        const std::uint64_t wanted = first > last ? 0
                                                  : bits_in_word(word, first >> PVDIRTY_GROUP_SHIFT,
                                                                 last >> PVDIRTY_GROUP_SHIFT);
        const std::uint64_t taken = groups.take(wanted);
        TakePart take_part{word * pages_per_summary_word, last_page, {first, last}};
        if (taken != 0) {
            full_fence(); // summary cleared, then leaves read; partner: pvd_mark_above()
            const Taken found = take_word(
                taken, whole_groups.in_word(word),
                {marks + word * 64 * words_per_group, section.base_pfn + take_part.first_page},
                sink, take_part);
            if (found.groups != 0) {
                // From the first group to the last: two pages at most, each with a cleared mark.
                const auto from = static_cast<std::uint64_t>(std::countr_zero(found.groups));
                const auto to = static_cast<std::uint64_t>(std::bit_width(found.groups));
                marks_written.add(section.marks.gpa() + (word * 64 + from) * group_bytes,
                                  (to - from) * group_bytes);
            }
            pages += found.pages;
            if (take_part.left != 0) {
                groups.set(take_part.left);
            }
            summary_written.add(gpa_of(summary + word), word_bytes);
        }
        remains = remains || take_part.left != 0 ||
                  ((here & ~wanted) != 0 && (groups.load() & here & ~wanted) != 0);
    }
    if (remains) {
        // The caller reports the root's page: it has cleared a bit there.
        GuestWord<std::uint64_t>(top_marks() + index / 64).set(std::uint64_t{1} << (index % 64));
    }
    return pages;
}

} // namespace pvdirty
