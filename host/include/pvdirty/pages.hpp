// SPDX-License-Identifier: MIT
/** Pages of 4 KiB by their number (PFN), ranges of them, and where a harvest puts them. */
#ifndef PVDIRTY_PAGES_HPP
#define PVDIRTY_PAGES_HPP

#include <array>
#include <concepts>
#include <cstddef>
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

/** Which of a group's PVDIRTY_GROUP_PAGES pages: bit n of word i is page 64 * i + n. */
using GroupMasks = std::array<std::uint64_t, PVDIRTY_GROUP_PAGES / 64>;

/**
 * Where pages go: either 64 of them per call, the first one a multiple of 64, bit n of the mask
 * being page first + n; or a whole group per call, which costs less where there are many. No call
 * is without a page. A reference to a callable, which must outlive it and must not throw.
 */
class PageSink {
public:
    using Function = void (*)(void* opaque, std::uint64_t first_pfn, std::uint64_t mask);
    using GroupFunction = void (*)(void* opaque, std::uint64_t first_pfn, const GroupMasks& masks);

    /** Drops the pages. */
    constexpr PageSink() noexcept = default;
    constexpr PageSink(Function function, void* opaque) noexcept
        : function_(function), opaque_(opaque) {}
    constexpr PageSink(GroupFunction function, void* opaque) noexcept
        : group_function_(function), opaque_(opaque) {}
    template <class Callable>
    requires(!std::same_as<std::remove_cv_t<Callable>, PageSink> &&
             std::invocable<Callable&, std::uint64_t,
                            std::uint64_t>) explicit PageSink(Callable& callable) noexcept
        : function_([](void* opaque, std::uint64_t first, std::uint64_t mask) {
              (*static_cast<Callable*>(opaque))(first, mask);
          }),
          opaque_(std::addressof(callable)) {}
    template <class Callable>
    requires(!std::same_as<std::remove_cv_t<Callable>, PageSink> &&
             std::invocable<Callable&, std::uint64_t,
                            const GroupMasks&>) explicit PageSink(Callable& callable) noexcept
        : group_function_([](void* opaque, std::uint64_t first, const GroupMasks& masks) {
              (*static_cast<Callable*>(opaque))(first, masks);
          }),
          opaque_(std::addressof(callable)) {}

    /** Hands over a group, in the form that the callable takes. */
    void operator()(std::uint64_t first_pfn, const GroupMasks& masks) const {
        if (group_function_ != nullptr) {
            group_function_(opaque_, first_pfn, masks);
        } else if (function_ != nullptr) {
            for (std::size_t i = 0; i < masks.size(); i++) {
                if (masks[i] != 0) {
                    function_(opaque_, first_pfn + i * 64, masks[i]);
                }
            }
        }
    }

private:
    Function function_ = nullptr;
    GroupFunction group_function_ = nullptr;
    void* opaque_ = nullptr;
};

} // namespace pvdirty

#endif // PVDIRTY_PAGES_HPP
