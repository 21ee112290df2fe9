// SPDX-License-Identifier: MIT
/** Words of a bitmap, and runs of bits in it. */
#ifndef PVDIRTY_TRACKING_BITS_HPP
#define PVDIRTY_TRACKING_BITS_HPP

#include <bit>
#include <cstdint>

#include "log/word.hpp"

namespace pvdirty {

/** Calls function(index, mask) for each word that has some of the bits first..last, ascending. */
template <class Function>
void for_bit_words(std::uint64_t first, std::uint64_t last, Function function) {
    for (std::uint64_t index = first / 64; index <= last / 64; index++) {
        function(index, bit_span(index == first / 64 ? first % 64 : 0,
                                 index == last / 64 ? last % 64 : 63));
    }
}

/**
 * Calls function(first, last) for each run of bits that are set among first..last, ascending; runs
 * that follow each other across words are one.
 */
template <class Function>
void for_bit_runs(const std::uint64_t* words, std::uint64_t first, std::uint64_t last,
                  Function function) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0; // of the run that is open; equal to begin: none is
    for_bit_words(first, last, [&](std::uint64_t index, std::uint64_t mask) {
        for (std::uint64_t word = words[index] & mask; word != 0;) {
            const auto low = static_cast<unsigned>(std::countr_zero(word));
            const auto high = low + static_cast<unsigned>(std::countr_one(word >> low)) - 1;
            if (index * 64 + low != end) {
                if (begin != end) {
                    function(begin, end - 1);
                }
                begin = index * 64 + low;
            }
            end = index * 64 + high + 1;
            word &= ~bit_span(low, high);
        }
    });
    if (begin != end) {
        function(begin, end - 1);
    }
}

} // namespace pvdirty

#endif // PVDIRTY_TRACKING_BITS_HPP
