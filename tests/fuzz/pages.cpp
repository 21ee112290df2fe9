// SPDX-License-Identifier: MIT
#include "fuzz/pages.hpp"

#include <algorithm>
#include <bit>

#include "fuzz/require.hpp"

namespace pvdirty::fuzz {

Pages without(const Pages& all, const Pages& gone) {
    Pages rest;
    auto next = gone.begin();
    for (auto [first, mask] : all) {
        while (next != gone.end() && next->first < first) {
            ++next;
        }
        if (next != gone.end() && next->first == first) {
            mask &= ~next->second;
        }
        if (mask != 0) {
            rest.emplace_back(first, mask);
        }
    }
    return rest;
}

void PageCollector::operator()(std::uint64_t first_pfn, std::uint64_t mask) {
    PVDIRTY_REQUIRE(mask != 0 && first_pfn % 64 == 0);
    // No page twice, so no more calls than the sections have words. Not in order: a group whose
    // counters a scan finds at its second look comes late.
    PVDIRTY_REQUIRE(seen_.insert(first_pfn).second);
    // A section has each page: its last one and its first one do.
    PVDIRTY_REQUIRE(covers_(first_pfn + 63 - std::countl_zero(mask)));
    PVDIRTY_REQUIRE(covers_(first_pfn + std::countr_zero(mask)));
    pages_.emplace_back(first_pfn, mask);
    hook_();
}

void PageCollector::require_sound(std::uint64_t count, PageRange range) const {
    std::uint64_t pages = 0;
    for (const auto& [first, mask] : pages_) {
        PVDIRTY_REQUIRE(first + std::countr_zero(mask) >= range.first);
        PVDIRTY_REQUIRE(first + 63 - std::countl_zero(mask) <= range.last);
        pages += static_cast<std::uint64_t>(std::popcount(mask));
    }
    PVDIRTY_REQUIRE(pages == count);
}

void require_holds(const Ram& ram, std::size_t sections) {
    std::vector<Area> held = ram.held();
    PVDIRTY_REQUIRE(held.size() == (sections == 0 ? 0 : 1 + 2 * sections));
    std::sort(held.begin(), held.end(), [](const Area& a, const Area& b) { return a.gpa < b.gpa; });
    for (std::size_t i = 1; i < held.size(); i++) {
        PVDIRTY_REQUIRE(held[i].gpa - held[i - 1].gpa >= held[i - 1].len);
    }
}

} // namespace pvdirty::fuzz
