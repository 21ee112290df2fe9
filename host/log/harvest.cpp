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
#include <bit>

#include "log/word.hpp"
#include "log/written.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty {

namespace {

constexpr unsigned words_per_group = PVDIRTY_GROUP_PAGES / 64;
constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);

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
        full_fence(); // root cleared, then summaries read; partner: set_bit_at(top->marks)
        for_each_bit(taken,
                     [&](unsigned bit) { pages += harvest_section(word * 64 + bit, sink, range); });
        top.add(gpa_of(where), word_bytes);
    }
    full_fence(); // marks cleared, then pages read; partner: set_bits() that skips a set bit
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
        std::uint64_t again = 0;

        if (taken != 0) {
            full_fence(); // summary cleared, then leaves read; partner: set_bit_at(summary)
        }
        for_each_bit(taken, [&](unsigned bit) {
            const std::uint64_t group = word * 64 + bit;
            for (unsigned i = 0; i < words_per_group; i++) {
                const std::uint64_t leaf_index = group * words_per_group + i;
                GuestWord<std::uint64_t> leaf(marks + leaf_index);
                const std::uint64_t mask = bits_in_word(leaf_index, first, last);
                const std::uint64_t dirty = leaf.take(mask);
                if (dirty != 0) {
                    sink(section.base_pfn + leaf_index * 64, dirty);
                    pages += static_cast<std::uint64_t>(std::popcount(dirty));
                    marks_written.add(section.marks.gpa() + leaf_index * word_bytes, word_bytes);
                }
                const std::uint64_t others = bits_in_word(leaf_index, 0, last_page) & ~mask;
                if (others != 0 && (leaf.load() & others) != 0) {
                    again |= std::uint64_t{1} << bit;
                }
            }
        });
        if (again != 0) {
            groups.set(again);
        }
        if (taken != 0) {
            summary_written.add(gpa_of(summary + word), word_bytes);
        }
        remains = remains || again != 0 ||
                  ((here & ~wanted) != 0 && (groups.load() & here & ~wanted) != 0);
    }
    if (remains) {
        // The caller reports the root's page: it has cleared a bit there.
        GuestWord<std::uint64_t>(top_marks() + index / 64).set(std::uint64_t{1} << (index % 64));
    }
    return pages;
}

} // namespace pvdirty
