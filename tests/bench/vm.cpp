// SPDX-License-Identifier: MIT
#include "bench/vm.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <utility>

namespace pvdirty::bench {

namespace {

constexpr std::uint64_t window = PVDIRTY_WINDOW_PAGES;

std::vector<test::SectionSpec> sections_of(std::uint64_t gib) {
    std::vector<test::SectionSpec> sections;
    for (std::uint64_t i = 0; i < gib; i++) {
        sections.push_back({i, PVDIRTY_WINDOW_PAGES});
    }
    return sections;
}

} // namespace

Vm::Vm(std::uint64_t gib)
    : gib_(gib), guest_(sections_of(gib)), memory_(guest_.ram),
      log_(std::move(*Log::attach(memory_, guest_.log.addr(), guest_.log.pages()))),
      bitmap_(pages() / 64) {}

void Vm::choose(Tree tree, State state) {
    fill_sections(full_sections_, false);
    for (const Word& word : words_) {
        const std::uint64_t section = word.first_pfn / window;
        const std::uint64_t page = word.first_pfn % window;
        marks(section)[page / 64] = 0;
        std::memset(guest_.log.counts(section) + page, 0, 64);
    }
    for (std::uint64_t i = 0; i < gib_; i++) {
        guest_.log.summary(i) = {};
    }
    guest_.log.top() = {};

    tree_ = tree;
    words_.clear();
    full_sections_ = state == State::full ? gib_ : state == State::gib ? 1 : 0;
    chosen_pages_ = full_sections_ * window;
    if (state != State::sparse) {
        return;
    }
    std::mt19937_64 random(gib_); // the same pages in every run
    std::vector<std::uint64_t> chosen(pages() / 1000);
    std::generate(chosen.begin(), chosen.end(), [&] { return random() % pages(); });
    std::sort(chosen.begin(), chosen.end());
    for (const std::uint64_t pfn : chosen) {
        if (words_.empty() || words_.back().first_pfn != pfn / 64 * 64) {
            words_.push_back({pfn / 64 * 64, 0});
        }
        words_.back().mask |= std::uint64_t{1} << (pfn % 64);
    }
    for (const Word& word : words_) {
        chosen_pages_ += static_cast<std::uint64_t>(std::popcount(word.mask));
    }
}

void Vm::fill() {
    fill_sections(full_sections_, true);
    for (const Word& word : words_) {
        for (std::uint64_t mask = word.mask; mask != 0; mask &= mask - 1) {
            set_page(word.first_pfn + static_cast<unsigned>(std::countr_zero(mask)));
        }
    }
}

void Vm::set_page(std::uint64_t pfn) {
    const std::uint64_t section = pfn / window;
    const std::uint64_t page = pfn % window;
    const std::uint64_t group = page / PVDIRTY_GROUP_PAGES;
    const std::uint64_t group_bit = std::uint64_t{1} << (group % 64);
    const std::uint64_t section_bit = std::uint64_t{1} << (section % 64);
    if (tree_ == Tree::marks) {
        marks(section)[page / 64] |= std::uint64_t{1} << (page % 64);
        guest_.log.summary(section).marks[group / 64] |= group_bit;
        guest_.log.top().marks[section / 64] |= section_bit;
    } else {
        guest_.log.counts(section)[page] = 1;
        guest_.log.summary(section).counts[group / 64] |= group_bit;
        guest_.log.top().counts[section / 64] |= section_bit;
    }
}

void Vm::fill_sections(std::uint64_t sections, bool set) {
    const int ones = set ? 0xff : 0;
    for (std::uint64_t i = 0; i < sections; i++) {
        pvdirty_summary& summary = guest_.log.summary(i);
        pvdirty_top& top = guest_.log.top();
        const std::uint64_t bit = set ? std::uint64_t{1} << (i % 64) : 0;
        if (tree_ == Tree::marks) {
            std::memset(marks(i), ones, PVDIRTY_MARKS_BYTES(window));
            std::memset(summary.marks, ones, sizeof(summary.marks));
            top.marks[i / 64] |= bit;
        } else {
            std::memset(counts(i), set ? 1 : 0, PVDIRTY_COUNTS_BYTES(window));
            std::memset(summary.counts, ones, sizeof(summary.counts));
            top.counts[i / 64] |= bit;
        }
    }
}

void Vm::fill_by_core() {
    const auto add = [this](std::uint64_t first, std::uint64_t last) {
        if (tree_ == Tree::marks) {
            pvd_mark(guest_.log.core(), first, last);
        } else {
            pvd_hold(guest_.log.core(), first, last);
        }
    };
    if (full_sections_ != 0) {
        add(0, full_sections_ * window - 1);
    }
    for (const Word& word : words_) {
        for (std::uint64_t mask = word.mask; mask != 0; mask &= mask - 1) {
            const std::uint64_t pfn =
                word.first_pfn + static_cast<unsigned>(std::countr_zero(mask));
            add(pfn, pfn);
        }
    }
}

std::vector<std::uint64_t> Vm::snapshot() const {
    const auto* first = guest_.ram.at<std::uint64_t>(guest_.ram.gpa());
    return {first, first + guest_.ram.size() / sizeof(std::uint64_t)};
}

bool Vm::take_bitmap() {
    const auto full = bitmap_.begin() + static_cast<std::ptrdiff_t>(full_sections_ * window / 64);
    bool right = std::all_of(bitmap_.begin(), full,
                             [](std::uint64_t word) { return word == ~std::uint64_t{0}; });
    for (const Word& word : words_) {
        right = right && std::exchange(bitmap_[word.first_pfn / 64], 0) == word.mask;
    }
    right = right && std::all_of(full, bitmap_.end(), [](std::uint64_t word) { return word == 0; });
    std::fill(bitmap_.begin(), bitmap_.end(), 0);
    return right;
}

} // namespace pvdirty::bench
