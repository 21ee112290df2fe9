// SPDX-License-Identifier: MIT
#include "property/memory_model.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "pvdirty/pages.hpp"

namespace pvdirty::test {

namespace {

constexpr std::uint64_t behind = 3; // pages behind a section that are there too

} // namespace

MemoryModel::MemoryModel(const std::vector<SectionSpec>& sections) {
    std::size_t index = 0;
    for (const SectionSpec& section : sections) {
        const std::uint64_t first = section.window << PVDIRTY_WINDOW_SHIFT;
        blocks_.push_back({{first, first + section.npages + behind - 1}, index});
        index += section.npages + behind;
    }
    now_.resize(index);
    old_.resize(index);
    sent_.resize(index);
    dirty_.resize(index);
    held_.resize(index);
}

std::size_t MemoryModel::index_of(std::uint64_t pfn) const {
    for (const Block& block : blocks_) {
        if (block.pages.first <= pfn && pfn <= block.pages.last) {
            return block.index + (pfn - block.pages.first);
        }
    }
    throw std::out_of_range("a page that is not there");
}

template <class Function>
void MemoryModel::each(std::uint64_t first_pfn, std::uint64_t mask, Function function) {
    for (unsigned bit = 0; bit < 64; bit++) {
        if ((mask >> bit & 1) != 0) {
            function(index_of(first_pfn + bit));
        }
    }
}

void MemoryModel::write(std::uint64_t pfn) {
    now_[index_of(pfn)]++;
}

void MemoryModel::hold(PageRange pages) {
    for (std::uint64_t pfn = pages.first; pfn <= pages.last; pfn++) {
        held_[index_of(pfn)] = true;
    }
}

bool MemoryModel::report(std::uint64_t first_pfn, std::uint64_t mask) {
    bool was_needed = false;
    each(first_pfn, mask, [&](std::size_t page) {
        was_needed = was_needed || (!dirty_[page] && sent_[page] != now_[page]);
        dirty_[page] = true;
        reported_unheld_ = reported_unheld_ || !held_[page];
    });
    return was_needed;
}

void MemoryModel::send_old(std::uint64_t first_pfn, std::uint64_t mask) {
    each(first_pfn, mask, [&](std::size_t page) { sent_[page] = old_[page]; });
}

void MemoryModel::send(std::size_t pages) {
    for (; pages > 0; pages--) {
        if (dirty_[cursor_]) {
            sent_[cursor_] = now_[cursor_];
            dirty_[cursor_] = false;
        }
        cursor_ = (cursor_ + 1) % now_.size();
    }
}

PageSet MemoryModel::lost() const {
    std::vector<PageRange> pages;
    for (const Block& block : blocks_) {
        for (std::uint64_t pfn = block.pages.first; pfn <= block.pages.last; pfn++) {
            if (sent_[index_of(pfn)] != now_[index_of(pfn)]) {
                pages.push_back({pfn, pfn});
            }
        }
    }
    return PageSet(pages);
}

LogCopy::LogCopy(Ram& ram) : ram_(ram), sent_(ram.size()) {}

void LogCopy::all_dirty() {
    for (std::uint64_t gpa = ram_.gpa(); gpa < ram_.gpa() + ram_.size(); gpa += PVDIRTY_PAGE_SIZE) {
        dirty_.insert(gpa >> PVDIRTY_PAGE_SHIFT);
    }
}

void LogCopy::guest_wrote(const void* where) {
    const auto offset =
        reinterpret_cast<std::uintptr_t>(where) - reinterpret_cast<std::uintptr_t>(begin());
    if (offset < sent_.size()) {
        dirty_.insert((ram_.gpa() + offset) >> PVDIRTY_PAGE_SHIFT);
    }
}

void LogCopy::host_wrote(bool believe) {
    const auto written = ram_.take_written();
    if (believe) {
        dirty_.insert(written.begin(), written.end());
    }
}

void LogCopy::send() {
    for (const std::uint64_t page : dirty_) {
        const std::uint64_t gpa = page << PVDIRTY_PAGE_SHIFT;
        std::memcpy(sent_.data() + (gpa - ram_.gpa()), ram_.at<std::byte>(gpa), PVDIRTY_PAGE_SIZE);
    }
    dirty_.clear();
}

bool LogCopy::same() const {
    return std::memcmp(sent_.data(), begin(), sent_.size()) == 0;
}

} // namespace pvdirty::test
