// SPDX-License-Identifier: MIT
/** Which of a few counters are not 0, as a mask. */
#ifndef PVDIRTY_LOG_COUNTERS_HPP
#define PVDIRTY_LOG_COUNTERS_HPP

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace pvdirty {

/** Bit i: byte i of the eight counters is not 0. For any machine. */
constexpr std::uint64_t nonzero_of_8(std::uint64_t counters) noexcept {
    constexpr std::uint64_t low7 = 0x7f7f7f7f7f7f7f7f;
    constexpr std::uint64_t gather = 0x0102040810204080; // bit 0 of byte i to bit 56 + i
    const std::uint64_t high = (((counters & low7) + low7) | counters) & ~low7;
    return ((high >> 7) * gather) >> 56;
}

/** Bit i: byte i of sixteen counters is not 0, those in low first. */
inline std::uint64_t nonzero_of_16(std::uint64_t low, std::uint64_t high) noexcept {
#if defined(__SSE2__) // every x86-64 has it
    const __m128i counters =
        _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
    const int zero = _mm_movemask_epi8(_mm_cmpeq_epi8(counters, _mm_setzero_si128()));
    return static_cast<std::uint64_t>(zero) ^ 0xffff;
#else
    return nonzero_of_8(low) | nonzero_of_8(high) << 8;
#endif
}

} // namespace pvdirty

#endif // PVDIRTY_LOG_COUNTERS_HPP
