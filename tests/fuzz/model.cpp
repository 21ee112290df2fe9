// SPDX-License-Identifier: MIT
#include "fuzz/model.hpp"

#include <algorithm>
#include <cstddef>

#include "pvdirty_abi.h"

namespace pvdirty::fuzz {

namespace {

/* In one region of writable RAM, below the limit, aligned for the guest and in the host's view. */
bool acceptable(const Ram& ram, const Area& area) {
    return area.gpa % 64 == 0 && area.len <= gpa_limit && area.gpa <= gpa_limit - area.len &&
           ram.view(area.gpa, area.len) != nullptr &&
           reinterpret_cast<std::uintptr_t>(ram.view(area.gpa, area.len)) % 64 == 0;
}

bool disjoint(std::vector<Area> areas) {
    std::sort(areas.begin(), areas.end(),
              [](const Area& a, const Area& b) { return a.gpa < b.gpa; });
    for (std::size_t i = 1; i < areas.size(); i++) {
        if (areas[i - 1].gpa + areas[i - 1].len > areas[i].gpa) {
            return false;
        }
    }
    return true;
}

void add_page(Pages& pages, std::uint64_t pfn) {
    if (pages.empty() || pages.back().first != pfn / 64 * 64) {
        pages.emplace_back(pfn / 64 * 64, 0);
    }
    pages.back().second |= std::uint64_t{1} << pfn % 64;
}

} // namespace

std::optional<Model> Model::read(const Ram& ram, std::uint64_t addr, std::uint32_t pages,
                                 std::uint32_t max_sections) {
    const Area control{addr, std::uint64_t{pages} << PVDIRTY_PAGE_SHIFT};
    if (pages < 3 || addr % PVDIRTY_PAGE_SIZE != 0 || !acceptable(ram, control)) {
        return std::nullopt;
    }
    const std::uint64_t version = ram.peek(addr + offsetof(pvdirty_log, version), 4) & 0xffff;
    const std::uint64_t nsections = ram.peek(addr + offsetof(pvdirty_log, nsections), 4);
    if (ram.peek(addr + offsetof(pvdirty_log, signature), 4) != PVDIRTY_LOG_SIGNATURE ||
        version != PVDIRTY_VERSION || nsections == 0 || nsections > max_sections ||
        pages < PVDIRTY_LOG_PAGES(nsections)) {
        return std::nullopt;
    }
    Model model(ram, addr);
    std::vector<Area> areas{control};
    std::uint64_t lowest = 0;
    for (std::uint64_t i = 0; i < nsections; i++) {
        const std::uint64_t at = addr + PVDIRTY_LOG_TABLE + i * sizeof(struct pvdirty_section);
        const Section section{ram.peek(at + offsetof(pvdirty_section, base_pfn), 8),
                              ram.peek(at + offsetof(pvdirty_section, npages), 4),
                              ram.peek(at + offsetof(pvdirty_section, marks), 8),
                              ram.peek(at + offsetof(pvdirty_section, counts), 8)};
        if (ram.peek(at + offsetof(pvdirty_section, reserved), 4) != 0 || section.npages == 0 ||
            section.npages > PVDIRTY_WINDOW_PAGES || section.base_pfn < lowest ||
            section.base_pfn % PVDIRTY_WINDOW_PAGES != 0 ||
            section.base_pfn + section.npages > pfn_limit) {
            return std::nullopt;
        }
        lowest = section.base_pfn + 1;
        areas.push_back({section.marks, PVDIRTY_MARKS_BYTES(section.npages)});
        areas.push_back({section.counts, PVDIRTY_COUNTS_BYTES(section.npages)});
        if (!acceptable(ram, areas[areas.size() - 2]) || !acceptable(ram, areas.back())) {
            return std::nullopt;
        }
        model.sections_.push_back(section);
    }
    return disjoint(areas) ? std::optional(model) : std::nullopt;
}

bool Model::bit(std::uint64_t gpa, std::uint64_t index) const {
    return (ram_->peek(gpa + index / 8, 1) >> index % 8 & 1) != 0;
}

template <class Function>
void Model::for_each_group(std::uint64_t top, std::uint64_t summary, Function function) const {
    for (std::size_t i = 0; i < sections_.size(); i++) {
        if (!bit(addr_ + PVDIRTY_LOG_TOP + top, i)) {
            continue;
        }
        const std::uint64_t groups = addr_ + PVDIRTY_LOG_SUMMARIES(sections_.size()) +
                                     i * sizeof(struct pvdirty_summary) + summary;
        for (std::uint64_t group = 0; group < PVDIRTY_GROUPS(sections_[i].npages); group++) {
            if (bit(groups, group)) {
                function(sections_[i], group);
            }
        }
    }
}

Pages Model::marks(PageRange range) const {
    Pages pages;
    for_each_group(offsetof(pvdirty_top, marks), offsetof(pvdirty_summary, marks),
                   [&](const Section& section, std::uint64_t group) {
                       const std::uint64_t first = group << PVDIRTY_GROUP_SHIFT;
                       const std::uint64_t end =
                           std::min(first + PVDIRTY_GROUP_PAGES, section.npages);
                       for (std::uint64_t i = first; i < end; i++) {
                           const std::uint64_t pfn = section.base_pfn + i;
                           if (pfn >= range.first && pfn <= range.last && bit(section.marks, i)) {
                               add_page(pages, pfn);
                           }
                       }
                   });
    return pages;
}

Pages Model::in_flight() const {
    Pages pages;
    for_each_group(offsetof(pvdirty_top, counts), offsetof(pvdirty_summary, counts),
                   [&](const Section& section, std::uint64_t group) {
                       const std::uint64_t first = group << PVDIRTY_GROUP_SHIFT;
                       const std::uint64_t end =
                           std::min(first + PVDIRTY_GROUP_PAGES, section.npages);
                       for (std::uint64_t i = first; i < end; i++) {
                           if (ram_->peek(section.counts + i, 1) != 0) {
                               add_page(pages, section.base_pfn + i);
                           }
                       }
                   });
    return pages;
}

std::optional<bool> Model::in_flight(std::uint64_t pfn) const {
    for (const Section& section : sections_) {
        if (pfn >= section.base_pfn && pfn - section.base_pfn < section.npages) {
            return ram_->peek(section.counts + (pfn - section.base_pfn), 1) != 0;
        }
    }
    return std::nullopt;
}

} // namespace pvdirty::fuzz
