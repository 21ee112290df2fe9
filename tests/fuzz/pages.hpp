// SPDX-License-Identifier: MIT
/** What a harvest reports, and what holds for every report. */
#ifndef PVDIRTY_TESTS_FUZZ_PAGES_HPP
#define PVDIRTY_TESTS_FUZZ_PAGES_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "fuzz/ram.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty::fuzz {

/** Pages as a sink gets them: (first PFN, mask), no mask 0; ascending, while the guest is quiet. */
using Pages = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

/** The pages of one that are not in the other. */
Pages without(const Pages& all, const Pages& gone);

/** Takes one report. */
class PageCollector {
public:
    /**
     * @param covers has a section of the log this page?
     * @param hook called with each word: the guest runs then too
     */
    PageCollector(std::function<bool(std::uint64_t pfn)> covers, std::function<void()> hook)
        : covers_(std::move(covers)), hook_(std::move(hook)) {}

    void operator()(std::uint64_t first_pfn, std::uint64_t mask);

    [[nodiscard]] const Pages& pages() const noexcept { return pages_; }
    /** In the range, and as many pages as said. */
    void require_sound(std::uint64_t count, PageRange range) const;

private:
    std::function<bool(std::uint64_t)> covers_;
    std::function<void()> hook_;
    Pages pages_;
    std::set<std::uint64_t> seen_;
};

/** The areas of so many sections are held and do not overlap; without sections, nothing is. */
void require_holds(const Ram& ram, std::size_t sections);

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_PAGES_HPP
