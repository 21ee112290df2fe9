// SPDX-License-Identifier: MIT
#include "guest/page_set.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace pvdirty::test {

namespace {

constexpr PageRange bits(std::uint64_t first_pfn, unsigned low, unsigned length) noexcept {
    return {first_pfn + low, first_pfn + low + length - 1};
}

} // namespace

PageSet::PageSet(std::vector<PageRange> ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const PageRange& a, const PageRange& b) { return a.first < b.first; });
    for (const PageRange& range : ranges) {
        if (!ranges_.empty() &&
            (ranges_.back().last == UINT64_MAX || range.first <= ranges_.back().last + 1)) {
            ranges_.back().last = std::max(ranges_.back().last, range.last);
        } else {
            ranges_.push_back(range);
        }
    }
}

PageSet PageSet::covered(const std::vector<SectionSpec>& sections) {
    std::vector<PageRange> ranges;
    for (const SectionSpec& section : sections) {
        const std::uint64_t base = section.window << PVDIRTY_WINDOW_SHIFT;
        ranges.push_back({base, base + section.npages - 1});
    }
    return PageSet(std::move(ranges));
}

std::uint64_t PageSet::size() const noexcept {
    std::uint64_t pages = 0;
    for (const PageRange& range : ranges_) {
        pages += range.last - range.first + 1;
    }
    return pages;
}

bool PageSet::contains(std::uint64_t pfn) const noexcept {
    return std::any_of(ranges_.begin(), ranges_.end(), [pfn](const PageRange& range) {
        return range.first <= pfn && pfn <= range.last;
    });
}

PageSet PageSet::operator&(const PageSet& other) const {
    std::vector<PageRange> both;
    for (const PageRange& a : ranges_) {
        for (const PageRange& b : other.ranges_) {
            const PageRange common{std::max(a.first, b.first), std::min(a.last, b.last)};
            if (common.first <= common.last) {
                both.push_back(common);
            }
        }
    }
    return PageSet(std::move(both));
}

PageSet PageSet::operator|(const PageSet& other) const {
    std::vector<PageRange> all = ranges_;
    all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
    return PageSet(std::move(all));
}

PageSet PageSet::operator-(const PageSet& other) const {
    std::vector<PageRange> outside;
    std::uint64_t next = 0;
    bool full = false;
    for (const PageRange& range : other.ranges_) {
        if (range.first > next) {
            outside.push_back({next, range.first - 1});
        }
        full = range.last == UINT64_MAX;
        next = range.last + 1;
    }
    if (!full) {
        outside.push_back({next, UINT64_MAX});
    }
    return *this & PageSet(std::move(outside));
}

std::ostream& operator<<(std::ostream& out, const PageSet& set) {
    out << "{";
    for (const PageRange& range : set.ranges_) {
        out << " " << range.first << "-" << range.last;
    }
    return out << " }";
}

void Collector::operator()(std::uint64_t first_pfn, std::uint64_t mask) {
    ok_ = ok_ && mask != 0 && first_pfn % 64 == 0;
    count_ += static_cast<std::uint64_t>(std::popcount(mask));
    while (mask != 0) {
        const auto low = static_cast<unsigned>(std::countr_zero(mask));
        const auto length = static_cast<unsigned>(std::countr_one(mask >> low));
        const PageRange range = bits(first_pfn, low, length);
        mask &= length == 64 ? 0 : ~(((std::uint64_t{1} << length) - 1) << low);
        if (ranges_.empty()) {
            ranges_.push_back(range);
            continue;
        }
        PageRange& last = ranges_.back();
        ok_ = ok_ && range.first > last.last;
        if (range.first == last.last + 1) {
            last.last = range.last;
        } else {
            ranges_.push_back(range);
        }
    }
}

} // namespace pvdirty::test
