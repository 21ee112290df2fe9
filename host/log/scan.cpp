// SPDX-License-Identifier: MIT
/*
 * Reading the in-flight counters. The guest never clears a summary bit over counters; the host
 * prunes it when all counters below have gone back to 0. Partner: pvd_hold() in guest/core/log.c
 * raises the counter and then looks at the summary and the root, we clear the upper level and then
 * look at the lower one again. With a full barrier on both sides, one of us sees the other: we find
 * the counter and put the bit back, or the guest finds the bit cleared and sets it.
 */
#include "log/counters.hpp"
#include "log/word.hpp"
#include "log/written.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty {

namespace {

constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);
constexpr std::uint64_t cache_line = 64;

/* The pages of a group that are in flight, and how many they are. */
struct InFlight {
    GroupMasks masks{};
    std::uint64_t pages = 0;
};

/* Groups in use lie where the hardware does not expect the next load. */
void prefetch_group(const std::byte* counts, std::uint64_t group) noexcept {
    const std::byte* first = counts + group * PVDIRTY_GROUP_PAGES;
    for (std::uint64_t offset = 0; offset < PVDIRTY_GROUP_PAGES; offset += cache_line) {
        __builtin_prefetch(first + offset);
    }
}

/* Looks at a group's counters, as far as they are below npages. */
InFlight read_group(std::byte* counts, std::uint64_t group, std::uint64_t npages) noexcept {
    auto* words = reinterpret_cast<std::uint64_t*>(counts + group * PVDIRTY_GROUP_PAGES);
    std::uint64_t index = group * (PVDIRTY_GROUP_PAGES / 64);
    InFlight found;
    BitCount pages;

    for (std::uint64_t& mask : found.masks) {
        for (unsigned bit = 0; bit < 64; bit += 16) {
            const std::uint64_t low = GuestWord<std::uint64_t>(words++).load();
            const std::uint64_t high = GuestWord<std::uint64_t>(words++).load();
            mask |= nonzero_of_16(low, high) << bit;
        }
        mask &= bits_in_word(index, 0, npages - 1);
        pages.add(mask);
        index++;
    }
    found.pages = pages.sum();
    return found;
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
        full_fence(); // root cleared, then summaries read again; partner: pvd_count_above()
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
        const InFlight found = read_group(counts, group, section.npages);
        if (found.pages != 0) {
            sink(first, found.masks);
        }
        return found.pages;
    };
    for (std::uint64_t word = 0; word <= last_group / 64; word++) {
        GuestWord<std::uint64_t> groups(summary + word);
        const std::uint64_t looked = groups.load() & bits_in_word(word, 0, last_group);
        std::uint64_t empty = 0;

        for_each_bit(looked, [&](unsigned bit) {
            if (const std::uint64_t later = looked & (~std::uint64_t{1} << bit); later != 0) {
                prefetch_group(counts, word * 64 + static_cast<unsigned>(std::countr_zero(later)));
            }
            const std::uint64_t found = report(word * 64 + bit);
            pages += found;
            empty |= found == 0 ? std::uint64_t{1} << bit : 0;
        });
        if (empty == 0) {
            continue;
        }
        groups.clear(empty);
        full_fence(); // summary cleared, then counters read again; partner: pvd_count_up()
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
