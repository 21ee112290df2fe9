// SPDX-License-Identifier: MIT
/*
 * Reading the in-flight counters. The guest never clears a summary bit over counters; the host
 * prunes it when all counters below have gone back to 0. Partner: pvd_hold() in guest/core/log.c
 * raises the counter and then looks at the summary and the root, we clear the upper level and then
 * look at the lower one again. With a full barrier on both sides, one of us sees the other: we find
 * the counter and put the bit back, or the guest finds the bit cleared and sets it.
 */
#include <array>
#include <bit>

#include "log/word.hpp"
#include "log/written.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty {

namespace {

constexpr unsigned masks_per_group = PVDIRTY_GROUP_PAGES / 64;
constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);

/* Bit i: byte i of eight counters is not 0. */
constexpr std::uint64_t nonzero_bytes(std::uint64_t counters) noexcept {
    constexpr std::uint64_t low7 = 0x7f7f7f7f7f7f7f7f;
    constexpr std::uint64_t gather = 0x0102040810204080;
    const std::uint64_t high = (((counters & low7) + low7) | counters) & ~low7;
    return ((high >> 7) * gather) >> 56;
}

static_assert(nonzero_bytes(0) == 0 && nonzero_bytes(0x8000000000000001) == 0x81);
static_assert(nonzero_bytes(0x00ff000100800000) == 0x54);

using GroupMasks = std::array<std::uint64_t, masks_per_group>;

/* Which of a group's pages, as far as they are below npages, have a counter that is not 0. */
GroupMasks read_group(std::byte* counts, std::uint64_t group, std::uint64_t npages) noexcept {
    auto* words = reinterpret_cast<std::uint64_t*>(counts + group * PVDIRTY_GROUP_PAGES);
    GroupMasks masks{};

    for (unsigned i = 0; i < masks_per_group; i++) {
        for (unsigned byte = 0; byte < 8; byte++) {
            const std::uint64_t counters = GuestWord<std::uint64_t>(words + i * 8 + byte).load();
            if (counters != 0) {
                masks[i] |= nonzero_bytes(counters) << (byte * 8);
            }
        }
        masks[i] &= bits_in_word(group * masks_per_group + i, 0, npages - 1);
    }
    return masks;
}

/* Reports a group's pages and returns how many there are. */
std::uint64_t emit(const GroupMasks& masks, std::uint64_t first_pfn, PageSink sink) noexcept {
    std::uint64_t pages = 0;
    for (unsigned i = 0; i < masks_per_group; i++) {
        if (masks[i] != 0) {
            sink(first_pfn + i * 64, masks[i]);
            pages += static_cast<std::uint64_t>(std::popcount(masks[i]));
        }
    }
    return pages;
}

} // namespace

std::uint64_t Log::scan(PageSink sink) noexcept {
    const std::uint64_t last_section = sections_.size() - 1;
    Written top(*memory_);
    std::uint64_t pages = 0;

    for (std::uint64_t word = 0; word <= last_section / 64; word++) {
        GuestWord<std::uint64_t> root(top_counts() + word);
        std::uint64_t empty = 0;

        for_each_bit(root.load() & bits_in_word(word, 0, last_section), [&](unsigned bit) {
            pages += scan_section(word * 64 + bit, sink);
            if (!summary_holds_counts(word * 64 + bit)) {
                empty |= std::uint64_t{1} << bit;
            }
        });
        if (empty == 0) {
            continue;
        }
        root.clear(empty);
        full_fence(); // root cleared, then summaries read again; partner: set_bit_at(top->counts)
        for_each_bit(empty, [&](unsigned bit) {
            if (summary_holds_counts(word * 64 + bit)) {
                root.set(std::uint64_t{1} << bit);
            }
        });
        top.add(gpa_of(top_counts() + word), word_bytes);
    }
    return pages;
}

std::uint64_t Log::scan_section(std::size_t index, PageSink sink) noexcept {
    const Section& section = sections_[index];
    std::byte* counts = section.counts.host();
    std::uint64_t* summary = summary_counts(index);
    const std::uint64_t last_group = (section.npages - 1) >> PVDIRTY_GROUP_SHIFT;
    Written written(*memory_);
    std::uint64_t pages = 0;

    const auto report = [&](std::uint64_t group) {
        const std::uint64_t first = section.base_pfn + (group << PVDIRTY_GROUP_SHIFT);
        return emit(read_group(counts, group, section.npages), first, sink);
    };
    for (std::uint64_t word = 0; word <= last_group / 64; word++) {
        GuestWord<std::uint64_t> groups(summary + word);
        std::uint64_t empty = 0;

        for_each_bit(groups.load() & bits_in_word(word, 0, last_group), [&](unsigned bit) {
            const std::uint64_t found = report(word * 64 + bit);
            pages += found;
            empty |= found == 0 ? std::uint64_t{1} << bit : 0;
        });
        if (empty == 0) {
            continue;
        }
        groups.clear(empty);
        full_fence(); // summary cleared, then counters read again; partner: count_up()
        for_each_bit(empty, [&](unsigned bit) {
            const std::uint64_t found = report(word * 64 + bit);
            pages += found;
            if (found != 0) {
                groups.set(std::uint64_t{1} << bit);
            }
        });
        written.add(gpa_of(summary + word), word_bytes);
    }
    return pages;
}

bool Log::summary_holds_counts(std::size_t index) const noexcept {
    const std::uint64_t last_group = (sections_[index].npages - 1) >> PVDIRTY_GROUP_SHIFT;
    std::uint64_t found = 0;
    for (std::uint64_t word = 0; word <= last_group / 64; word++) {
        found |= GuestWord<std::uint64_t>(summary_counts(index) + word).load() &
                 bits_in_word(word, 0, last_group);
    }
    return found != 0;
}

} // namespace pvdirty
