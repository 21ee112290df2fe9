// SPDX-License-Identifier: MIT
#include "fuzz/guest.hpp"

#include <algorithm>
#include <cstddef>

#include "fuzz/require.hpp"
#include "pvdirty/pages.hpp"
#include "pvdirty_abi.h"

/* A small quarantine: each input's RAM would fill it. */
extern "C" const char* __asan_default_options() { // NOLINT(bugprone-reserved-identifier)
    return "quarantine_size_mb=16";
}

namespace {

std::atomic<bool> race_reported{false};

} // namespace

/* libFuzzer's handler of a signal is none of ours. */
extern "C" const char* __tsan_default_options() { // NOLINT(bugprone-reserved-identifier)
    return "report_signal_unsafe=0";
}

/* Called by the thread sanitizer, which cannot end the process while two threads race. */
extern "C" void __tsan_on_report(void*) { // NOLINT(bugprone-reserved-identifier)
    race_reported.store(true);
}

namespace pvdirty::fuzz {

namespace {

constexpr std::uint64_t page = PVDIRTY_PAGE_SIZE;
constexpr std::uint64_t four_gib = std::uint64_t{1} << 32;

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t to) noexcept {
    return (value + to - 1) / to * to;
}

} // namespace

std::vector<RegionSpec> choose_regions(Choices& choices) {
    const std::vector<RegionSpec> all = {
        {{0x18000, page}, false},                     // ROM behind RAM
        {{0x20000, 0x4fc8}},                          // ends in the middle of a line
        {{four_gib - 3 * page, 6 * page}},            // crosses 4 GiB
        {{gpa_limit - 5 * page, 6 * page}},           // crosses the end of what is accepted
        {{0x100000, 4 * page}, true, 8},              // views not aligned
        {{0x10000000, 80 * page}},                    // room for a whole window's counters
        {{UINT64_MAX - 2 * page + 1, 2 * page - 64}}, // near to where addresses wrap
    };
    const std::uint64_t mask = choices.below(std::uint64_t{1} << all.size());
    std::vector<RegionSpec> regions = {{{0, 0x18000}}};
    for (std::size_t i = 0; i < all.size(); i++) {
        if ((mask >> i & 1) != 0) {
            regions.push_back(all[i]);
        }
    }
    return regions;
}

std::uint64_t Guest::any_value() {
    switch (choices_.below(4)) {
    case 0:
        return 0;
    case 1:
        return std::uint64_t{1} << choices_.below(64);
    case 2:
        return choices_.below(256);
    default:
        return choices_.any();
    }
}

std::uint64_t Guest::any_gpa() {
    const Area& region = ram_.region(choices_.below(ram_.regions()));
    switch (choices_.below(5)) {
    case 0:
        return region.gpa + choices_.below(region.len);
    case 1:
        return region.gpa + choices_.below(region.len) / page * page;
    case 2:
        return region.gpa + region.len - 64 * choices_.below(32);
    case 3:
        return layout_.addr + 64 * choices_.below(256);
    default:
        return choices_.any();
    }
}

std::uint64_t Guest::any_pfn() {
    if (layout_.sections.empty() || choices_.chance(8)) {
        return choices_.any();
    }
    const Layout::Section& section = choices_.of(layout_.sections);
    return section.base_pfn + choices_.below(std::min<std::uint64_t>(section.npages, 1U << 20) + 2);
}

std::uint64_t Guest::any_npages() {
    static const std::vector<std::uint64_t> sizes = {
        512, 1, 63, 64, 511, 513, 1000, 4096, 40000, PVDIRTY_WINDOW_PAGES, 0, 300000};
    return choices_.of(sizes);
}

Layout::Section Guest::choose_section(std::uint64_t window, std::uint64_t& next) {
    Layout::Section section;

    section.base_pfn = window << PVDIRTY_WINDOW_SHIFT;
    section.npages = any_npages();
    section.marks = next;
    next = align_up(next + PVDIRTY_MARKS_BYTES(section.npages), 64);
    section.counts = next;
    next = align_up(next + PVDIRTY_COUNTS_BYTES(section.npages), 64);
    switch (choices_.below(16)) {
    case 1:
        section.marks = any_gpa();
        break;
    case 2:
        section.counts = any_gpa();
        break;
    case 3:
        section.base_pfn = any_value();
        break;
    case 4:
        section.npages = any_value();
        break;
    default:
        break;
    }
    return section;
}

void Guest::write_section(std::size_t index) {
    const Layout::Section& section = layout_.sections[index];
    const std::uint64_t at =
        layout_.addr + PVDIRTY_LOG_TABLE + index * sizeof(struct pvdirty_section);

    ram_.poke(at + offsetof(pvdirty_section, base_pfn), section.base_pfn, 8);
    ram_.poke(at + offsetof(pvdirty_section, npages), section.npages, 8); // reserved too
    ram_.poke(at + offsetof(pvdirty_section, marks), section.marks, 8);
    ram_.poke(at + offsetof(pvdirty_section, counts), section.counts, 8);
}

void Guest::lay_out() {
    const std::uint64_t sections = 1 + choices_.below(choices_.chance(16) ? 200 : 4);
    const Area& region = ram_.region(choices_.below(ram_.regions()));

    layout_.addr = choices_.chance(16) ? any_gpa() : align_up(region.gpa, page);
    layout_.pages = PVDIRTY_LOG_PAGES(sections) + choices_.below(2);
    std::uint64_t next = layout_.addr + layout_.pages * page;
    if (choices_.chance(4)) {
        next = align_up(any_gpa(), 64);
    }
    layout_.sections.clear();
    std::uint64_t window = choices_.below(5);
    for (std::uint64_t i = 0; i < sections; i++) {
        layout_.sections.push_back(choose_section(window, next));
        window += 1 + (choices_.chance(8) ? choices_.below(1U << 16) : 0);
        write_section(i);
    }
    ram_.poke(layout_.addr + offsetof(pvdirty_log, signature), PVDIRTY_LOG_SIGNATURE, 4);
    ram_.poke(layout_.addr + offsetof(pvdirty_log, version), PVDIRTY_VERSION, 4);
    ram_.poke(layout_.addr + offsetof(pvdirty_log, nsections), sections, 4);
}

std::uint64_t Guest::summary(std::size_t section) const noexcept {
    return layout_.addr + PVDIRTY_LOG_SUMMARIES(layout_.sections.size()) +
           section * sizeof(struct pvdirty_summary);
}

void Guest::record_page() {
    if (layout_.sections.empty()) {
        return;
    }
    const std::size_t index = choices_.below(layout_.sections.size());
    const Layout::Section& section = layout_.sections[index];
    const std::uint64_t i = choices_.below(section.npages % PVDIRTY_WINDOW_PAGES + 1);
    const std::uint64_t group = i >> PVDIRTY_GROUP_SHIFT;
    const bool mark = choices_.below(2) == 0;
    const std::uint64_t summary_at = summary(index) + (mark ? offsetof(pvdirty_summary, marks)
                                                            : offsetof(pvdirty_summary, counts));
    const std::uint64_t top_at =
        layout_.addr + PVDIRTY_LOG_TOP +
        (mark ? offsetof(pvdirty_top, marks) : offsetof(pvdirty_top, counts));

    if (mark) {
        ram_.set(section.marks + i / 64 * 8,
                 choices_.below(2) == 0 ? std::uint64_t{1} << i % 64 : choices_.any());
    } else {
        ram_.poke(section.counts + i, choices_.below(256), 1);
    }
    ram_.set(summary_at + group / 64 * 8, std::uint64_t{1} << group % 64);
    ram_.set(top_at + index / 64 * 8, std::uint64_t{1} << index % 64);
}

void Guest::poke_control() {
    const std::uint64_t at = layout_.addr;
    switch (choices_.below(6)) {
    case 0:
        ram_.poke(at + offsetof(pvdirty_log, incomplete), any_value(), 4);
        break;
    case 1:
        ram_.poke(at + offsetof(pvdirty_log, gaps), any_value(), 4);
        break;
    case 2:
        ram_.poke(at + offsetof(pvdirty_log, logging), any_value(), 4);
        break;
    case 3:
        ram_.poke(at + offsetof(pvdirty_log, nsections), any_value(), 4);
        break;
    case 4:
        ram_.poke(at + offsetof(pvdirty_log, devices) + 4 * choices_.below(PVDIRTY_MAX_DEVICES),
                  PVDIRTY_DEV(choices_.below(4), choices_.below(4), choices_.below(16)), 4);
        break;
    default:
        ram_.poke(at + 4 * choices_.below(page / 4), any_value(), 4);
    }
}

void Guest::poke_table() {
    if (layout_.sections.empty()) {
        return;
    }
    const std::uint64_t entry = choices_.below(layout_.sections.size());
    const std::uint64_t at =
        layout_.addr + PVDIRTY_LOG_TABLE + entry * sizeof(struct pvdirty_section);
    switch (choices_.below(4)) {
    case 0:
        ram_.poke(at + offsetof(pvdirty_section, npages), any_npages(), 8);
        break;
    case 1:
        ram_.poke(at + offsetof(pvdirty_section, marks), any_gpa(), 8);
        break;
    case 2:
        ram_.poke(at + offsetof(pvdirty_section, counts), any_gpa(), 8);
        break;
    default:
        ram_.poke(at + choices_.below(4) * 8, any_value(), 8);
    }
}

void Guest::poke() {
    const std::uint64_t words = page / 8;
    switch (choices_.below(6)) {
    case 0:
        poke_control();
        break;
    case 1:
        poke_table();
        break;
    case 2:
        ram_.set(layout_.addr + PVDIRTY_LOG_TOP + 8 * choices_.below(words), any_value());
        break;
    case 3:
        ram_.set(summary(0) + 8 * choices_.below(words), any_value());
        break;
    case 4:
        if (!layout_.sections.empty()) {
            const Layout::Section& section = choices_.of(layout_.sections);
            const std::uint64_t area = choices_.below(2) == 0 ? section.marks : section.counts;
            ram_.poke(area + 8 * choices_.below(words), any_value(), 8);
        }
        break;
    default:
        ram_.poke(any_gpa(), any_value(), choices_.below(2) == 0 ? 4 : 8);
    }
}

void Guest::act() {
    if (choices_.below(2) == 0) {
        record_page();
    } else {
        poke();
    }
}

GuestThread::GuestThread(const Guest& guest, std::uint64_t seed, unsigned writes)
    : choices_(seed), guest_(guest, choices_), thread_([this, writes] {
          running_.store(true);
          running_.notify_one();
          for (unsigned i = 0; i < writes && !stop_.load(std::memory_order_relaxed); i++) {
              guest_.act();
          }
      }) {
    running_.wait(false);
}

GuestThread::~GuestThread() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
    PVDIRTY_REQUIRE(!race_reported.load());
}

Machine::Machine(InputChoices& input)
    : choices(input), ram(choose_regions(input)), guest(ram, input), quiet_(input.below(2) == 0) {
    guest.lay_out();
    ram.on_hold([this] { disturb_attach(); });
    ram.on_written([this] { disturb(); });
}

void Machine::disturb() {
    if (!quiet_ && !choices.empty() && choices.below(4) == 0) {
        guest.act();
    }
}

void Machine::disturb_attach() {
    if (!quiet_ && !choices.empty() && choices.below(2) == 0) {
        guest.poke_table();
    }
}

void Machine::start_cpu() {
    if (guest_has_thread && !quiet_) {
        cpu_.emplace(guest, choices.any(), 64 * static_cast<unsigned>(1 + choices.below(16)));
    }
}

} // namespace pvdirty::fuzz
