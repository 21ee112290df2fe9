// SPDX-License-Identifier: MIT
#include "bench/subjects.hpp"

#include <atomic>
#include <bit>
#include <utility>

#include <benchmark/benchmark.h>

namespace pvdirty::bench {

namespace {

constexpr std::uint64_t marks_words = PVDIRTY_WINDOW_PAGES / 64;
constexpr std::uint64_t counts_words = PVDIRTY_WINDOW_PAGES / 8;

void add_group(void* bitmap, std::uint64_t first_pfn, const GroupMasks& masks) {
    std::uint64_t* words = static_cast<std::uint64_t*>(bitmap) + first_pfn / 64;
    for (const std::uint64_t mask : masks) {
        *words++ |= mask;
    }
}

std::uint64_t take(std::uint64_t& word) {
    return std::atomic_ref(word).exchange(0, std::memory_order_seq_cst);
}

std::uint64_t look(std::uint64_t& word) {
    return std::atomic_ref(word).load(std::memory_order_relaxed);
}

/* function(0), function(1) ... function(7), without a loop. */
template <class Function>
void eight_times(Function function) {
    [&]<std::size_t... i>(std::index_sequence<i...>) {
        (function(i), ...);
    }
    (std::make_index_sequence<8>());
}

/* function(word) for each of the words that are not 0, if they are few. */
template <class Function>
void for_each_word(const Vm& vm, Function function) {
    const std::vector<Word>& words = vm.words();
    std::size_t i = 0;
    for (; i + 8 <= words.size(); i += 8) {
        eight_times([&](std::size_t n) { function(words[i + n]); });
    }
    for (; i < words.size(); i++) {
        function(words[i]);
    }
}

/* Bit i: byte i is not 0. */
std::uint64_t bytes_in_use(std::uint64_t word) {
    constexpr std::uint64_t low = 0x7f7f7f7f7f7f7f7f;
    return (((((word & low) + low) | word) & ~low) >> 7) * 0x0102040810204080 >> 56;
}

} // namespace

std::uint64_t harvest(Vm& vm) {
    return vm.log().harvest(PageSink(add_group, vm.bitmap().data()));
}

std::uint64_t scan(Vm& vm) {
    return vm.log().scan(PageSink(add_group, vm.bitmap().data()));
}

void harvest_limit(Vm& vm) {
    std::uint64_t* to = vm.bitmap().data();
    for (std::uint64_t section = 0; section < vm.full_sections(); section++) {
        std::uint64_t* from = vm.marks(section);
        for (std::uint64_t i = 0; i < marks_words; i += 8) {
            eight_times([&](std::size_t n) { to[i + n] |= take(from[i + n]); });
        }
        to += marks_words;
    }
    for_each_word(vm, [&](const Word& word) {
        std::uint64_t* from = vm.marks(word.first_pfn / PVDIRTY_WINDOW_PAGES);
        to[word.first_pfn / 64] |= take(from[word.first_pfn % PVDIRTY_WINDOW_PAGES / 64]);
    });
}

void scan_limit(Vm& vm) {
    std::uint64_t* to = vm.bitmap().data();
    for (std::uint64_t section = 0; section < vm.full_sections(); section++) {
        std::uint64_t* from = vm.counts(section);
        for (std::uint64_t i = 0; i < counts_words; i += 8) {
            std::uint64_t all = ~std::uint64_t{0};
            eight_times([&](std::size_t n) { all &= look(from[i + n]); });
            benchmark::DoNotOptimize(all);
            *to++ |= ~std::uint64_t{0};
        }
    }
    for_each_word(vm, [&](const Word& word) {
        std::uint64_t* from = vm.counts(word.first_pfn / PVDIRTY_WINDOW_PAGES) +
                              word.first_pfn % PVDIRTY_WINDOW_PAGES / 8;
        for (std::uint64_t mask = word.mask; mask != 0;) {
            const auto n = static_cast<unsigned>(std::countr_zero(mask)) / 8;
            benchmark::DoNotOptimize(look(from[n]));
            mask &= ~(std::uint64_t{0xff} << (8 * n));
        }
        to[word.first_pfn / 64] |= word.mask;
    });
}

void harvest_flat(Vm& vm) {
    std::uint64_t* to = vm.bitmap().data();
    for (std::uint64_t section = 0; section < vm.sections(); section++) {
        std::uint64_t* from = vm.marks(section);
        for (std::uint64_t i = 0; i < marks_words; i++) {
            if (look(from[i]) != 0) {
                to[i] |= take(from[i]);
            }
        }
        to += marks_words;
    }
}

void scan_flat(Vm& vm) {
    std::uint64_t* to = vm.bitmap().data();
    for (std::uint64_t section = 0; section < vm.sections(); section++) {
        std::uint64_t* from = vm.counts(section);
        for (std::uint64_t i = 0; i < counts_words; i += 8) {
            std::uint64_t mask = 0;
            for (unsigned n = 0; n < 8; n++) {
                const std::uint64_t counters = look(from[i + n]);
                if (counters != 0) {
                    mask |= bytes_in_use(counters) << (8 * n);
                }
            }
            if (mask != 0) {
                *to |= mask;
            }
            to++;
        }
    }
}

} // namespace pvdirty::bench
