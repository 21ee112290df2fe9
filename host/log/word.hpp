// SPDX-License-Identifier: MIT
/**
 * The only way this library touches the log: little-endian words in memory that the guest writes
 * at the same time. Each access is one atomic instruction that cannot be made to retry.
 */
#ifndef PVDIRTY_LOG_WORD_HPP
#define PVDIRTY_LOG_WORD_HPP

#include <atomic>
#include <bit>
#include <concepts>
#include <cstdint>

// The tests watch each access by way of these two.
#ifndef PVDIRTY_ATOMIC_REF
#define PVDIRTY_ATOMIC_REF std::atomic_ref
#endif
#ifndef PVDIRTY_FULL_FENCE
#define PVDIRTY_FULL_FENCE() std::atomic_thread_fence(std::memory_order_seq_cst)
#endif

namespace pvdirty {

/** Converts between host order and the wire's order. */
template <std::unsigned_integral T>
constexpr T little_endian(T value) noexcept {
    if constexpr (std::endian::native == std::endian::big) {
        T swapped = 0;
        for (unsigned i = 0; i < sizeof(T); i++) {
            swapped = static_cast<T>(swapped << 8) | static_cast<T>((value >> (8 * i)) & 0xff);
        }
        return swapped;
    }
    return value;
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PVDIRTY_THREAD_SANITIZER
#endif
#elif defined(__SANITIZE_THREAD__)
#define PVDIRTY_THREAD_SANITIZER
#endif

/** Full barrier: stores before it are visible before any load after it. */
inline void full_fence() noexcept {
#if defined(PVDIRTY_THREAD_SANITIZER)
    // The thread sanitizer knows no fences; an exchange is a full barrier where it runs (x86).
    std::atomic<int> barrier{0};
    barrier.exchange(1, std::memory_order_seq_cst);
#else
    PVDIRTY_FULL_FENCE();
#endif
}

/** A reference to one little-endian word of guest RAM, naturally aligned. */
template <std::unsigned_integral T>
class GuestWord {
public:
    explicit GuestWord(T* word) noexcept : word_(*word) {}

    /** Loads after it are ordered after it. */
    [[nodiscard]] T load() const noexcept {
        return little_endian(word_.load(std::memory_order_acquire));
    }
    /** Stores before it are ordered before it. */
    void store(T value) noexcept { word_.store(little_endian(value), std::memory_order_release); }
    void set(T bits) noexcept { word_.fetch_or(little_endian(bits), std::memory_order_seq_cst); }
    void clear(T bits) noexcept {
        word_.fetch_and(little_endian(static_cast<T>(~bits)), std::memory_order_seq_cst);
    }
    /** Stores a value and returns what was there. */
    T exchange(T value) noexcept {
        return little_endian(word_.exchange(little_endian(value), std::memory_order_seq_cst));
    }
    /**
     * Clears the bits of the mask that are set, and returns them. A word that has none is not
     * written. When the word is shared with others, exactly the bits that were read are cleared:
     * one that is set in between stays for the next time. (An and that returned the old value
     * would be a loop on x86 that a hostile guest could prolong.)
     */
    T take(T mask) noexcept {
        const T found = load() & mask;
        if (found == 0) {
            return 0;
        }
        if (mask == static_cast<T>(~T{0})) {
            return exchange(0);
        }
        clear(found);
        return found;
    }

private:
    PVDIRTY_ATOMIC_REF<T> word_;
};

/** Bits first..last of a word, 0 <= first <= last <= 63. */
constexpr std::uint64_t bit_span(unsigned first, unsigned last) noexcept {
    return (~std::uint64_t{0} << first) & (~std::uint64_t{0} >> (63 - last));
}

/**
 * Those bits of word `index` of a bitmap that stand for first..last.
 * @returns 0 when the word lies outside
 */
constexpr std::uint64_t bits_in_word(std::uint64_t index, std::uint64_t first,
                                     std::uint64_t last) noexcept {
    const std::uint64_t low = index * 64;
    if (last < low || first > low + 63) {
        return 0;
    }
    return bit_span(first > low ? static_cast<unsigned>(first - low) : 0,
                    last < low + 63 ? static_cast<unsigned>(last - low) : 63);
}

/**
 * Counts the bits of a few words. Stock x86-64 has no instruction for it; steps that all words
 * share cost less than std::popcount() of each.
 */
class BitCount {
public:
    /** As many words may be added: each byte of the sum grows by 8 at most. */
    static constexpr unsigned max_words = 31;

    void add(std::uint64_t word) noexcept {
        word -= (word >> 1) & 0x5555555555555555;
        word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333);
        bytes_ += (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
    }
    [[nodiscard]] std::uint64_t sum() const noexcept {
        constexpr std::uint64_t even = 0x00ff00ff00ff00ff;
        return (((bytes_ & even) + ((bytes_ >> 8) & even)) * 0x0001000100010001) >> 48;
    }

private:
    std::uint64_t bytes_ = 0;
};

/** Calls function(bit) for each bit that is set, from the lowest. */
template <class Function>
void for_each_bit(std::uint64_t word, Function function) {
    for (; word != 0; word &= word - 1) {
        function(static_cast<unsigned>(std::countr_zero(word)));
    }
}

} // namespace pvdirty

#endif // PVDIRTY_LOG_WORD_HPP
