// SPDX-License-Identifier: MIT
/** Pages of 4 KiB by their number (PFN), ranges of them, and where a harvest puts them. */
#ifndef PVDIRTY_PAGES_HPP
#define PVDIRTY_PAGES_HPP

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>

#include "pvdirty_abi.h"

namespace pvdirty {

/** Guest-physical addresses and PFNs; both are below these limits for every real page. */
inline constexpr std::uint64_t gpa_limit = std::uint64_t{1} << 52;
inline constexpr std::uint64_t pfn_limit = gpa_limit >> PVDIRTY_PAGE_SHIFT;

/** PFNs first..last, both included, first <= last. */
struct PageRange {
    std::uint64_t first = 0;
    std::uint64_t last = UINT64_MAX;

    friend bool operator==(const PageRange&, const PageRange&) = default;
};

inline constexpr PageRange all_pages{};

/**
 * Pages touched by the bytes [gpa, gpa + len).
 * @returns nothing for an empty range; a range that would pass the end of the address space
 *          ends there
 */
constexpr std::optional<PageRange> pages_of(std::uint64_t gpa, std::uint64_t len) noexcept {
    if (len == 0) {
        return std::nullopt;
    }
    const std::uint64_t end = len - 1 > UINT64_MAX - gpa ? UINT64_MAX : gpa + (len - 1);
    return PageRange{gpa >> PVDIRTY_PAGE_SHIFT, end >> PVDIRTY_PAGE_SHIFT};
}

/**
 * Where pages go: 64 of them per call, the first one a multiple of 64, bit n of the mask being
 * page first + n. A reference to a callable, which must outlive it and must not throw.
 */
class PageSink {
public:
    using Function = void (*)(void* opaque, std::uint64_t first_pfn, std::uint64_t mask);

    /** Drops the pages. */
    constexpr PageSink() noexcept = default;
    constexpr PageSink(Function function, void* opaque) noexcept
        : function_(function), opaque_(opaque) {}
    template <class Callable>
    requires(!std::same_as<std::remove_cv_t<Callable>, PageSink> &&
             std::invocable<Callable&, std::uint64_t,
                            std::uint64_t>) explicit PageSink(Callable& callable) noexcept
        : function_([](void* opaque, std::uint64_t first, std::uint64_t mask) {
              (*static_cast<Callable*>(opaque))(first, mask);
          }),
          opaque_(std::addressof(callable)) {}

    void operator()(std::uint64_t first_pfn, std::uint64_t mask) const {
        if (function_ != nullptr) {
            function_(opaque_, first_pfn, mask);
        }
    }

private:
    Function function_ = nullptr;
    void* opaque_ = nullptr;
};

} // namespace pvdirty

#endif // PVDIRTY_PAGES_HPP
