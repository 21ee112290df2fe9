// SPDX-License-Identifier: MIT
/** Sets of pages as sorted ranges: what a model says, and what a harvest reported. */
#ifndef PVDIRTY_TESTS_GUEST_PAGE_SET_HPP
#define PVDIRTY_TESTS_GUEST_PAGE_SET_HPP

#include <cstdint>
#include <ostream>
#include <vector>

#include "guest/guest_log.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty::test {

class PageSet {
public:
    PageSet() = default;
    /** The union of ranges in any order. */
    explicit PageSet(std::vector<PageRange> ranges);
    /** All pages that the sections cover. */
    static PageSet covered(const std::vector<SectionSpec>& sections);

    [[nodiscard]] const std::vector<PageRange>& ranges() const noexcept { return ranges_; }
    [[nodiscard]] bool empty() const noexcept { return ranges_.empty(); }
    [[nodiscard]] std::uint64_t size() const noexcept;
    [[nodiscard]] bool contains(std::uint64_t pfn) const noexcept;
    [[nodiscard]] PageSet operator&(const PageSet& other) const;
    [[nodiscard]] PageSet operator|(const PageSet& other) const;
    [[nodiscard]] PageSet operator-(const PageSet& other) const;

    friend bool operator==(const PageSet&, const PageSet&) = default;
    friend std::ostream& operator<<(std::ostream& out, const PageSet& set);

private:
    std::vector<PageRange> ranges_; // ascending, never touching
};

/** Takes what a harvest or a scan reports; ascending and without repetition, or it is not ok. */
class Collector {
public:
    void operator()(std::uint64_t first_pfn, std::uint64_t mask);

    [[nodiscard]] bool ok() const noexcept { return ok_; }
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] PageSet pages() const { return PageSet(ranges_); }

private:
    std::vector<PageRange> ranges_;
    std::uint64_t count_ = 0;
    bool ok_ = true;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_PAGE_SET_HPP
