// SPDX-License-Identifier: MIT
#include "guest/guest_log.hpp"

#include <algorithm>
#include <utility>

namespace pvdirty::test {

namespace {

std::uint64_t control_bytes(const std::vector<SectionSpec>& sections) {
    return PVDIRTY_LOG_PAGES(sections.size()) << PVDIRTY_PAGE_SHIFT;
}

} // namespace

std::uint64_t GuestLog::bytes(const std::vector<SectionSpec>& sections) {
    std::uint64_t bytes = control_bytes(sections);
    for (const SectionSpec& section : sections) {
        bytes += PVDIRTY_MARKS_BYTES(section.npages) + PVDIRTY_COUNTS_BYTES(section.npages);
    }
    return bytes;
}

GuestLog::GuestLog(Ram& ram, std::uint64_t addr, std::vector<SectionSpec> sections)
    : ram_(ram), addr_(addr), sections_(std::move(sections)),
      windows_(0, (sections_.back().window + 1) * sizeof(pvd_window)) {
    control().signature = PVDIRTY_LOG_SIGNATURE;
    control().version = PVDIRTY_VERSION;
    control().nsections = static_cast<std::uint32_t>(sections_.size());

    std::uint64_t next = addr + control_bytes(sections_);
    for (std::size_t i = 0; i < sections_.size(); i++) {
        const SectionSpec& spec = sections_[i];
        pvdirty_section& entry = section(i);
        entry.base_pfn = spec.window << PVDIRTY_WINDOW_SHIFT;
        entry.npages = spec.npages;
        entry.marks = next;
        next += PVDIRTY_MARKS_BYTES(spec.npages);
        entry.counts = next;
        next += PVDIRTY_COUNTS_BYTES(spec.npages);

        pvd_window& window = windows_.at<pvd_window>(0)[spec.window];
        window.marks = reinterpret_cast<__le64*>(marks(i));
        window.counts = counts(i);
        window.summary = &summary(i);
        window.npages = spec.npages;
        pvd_window_set_slot(&window, &top(), static_cast<u32>(i));
    }
    core_ = {&control(), &top(), windows_.at<pvd_window>(0), sections_.back().window + 1};
}

bool GuestLog::covers(std::uint64_t pfn) const noexcept {
    return std::any_of(sections_.begin(), sections_.end(), [pfn](const SectionSpec& spec) {
        return pfn >> PVDIRTY_WINDOW_SHIFT == spec.window &&
               pfn % PVDIRTY_WINDOW_PAGES < spec.npages;
    });
}

pvdirty_log& GuestLog::control() const noexcept {
    return *ram_.at<pvdirty_log>(addr_);
}

pvdirty_top& GuestLog::top() const noexcept {
    return *ram_.at<pvdirty_top>(addr_ + PVDIRTY_LOG_TOP);
}

pvdirty_section& GuestLog::section(std::size_t index) const noexcept {
    return ram_.at<pvdirty_section>(addr_ + PVDIRTY_LOG_TABLE)[index];
}

pvdirty_summary& GuestLog::summary(std::size_t index) const noexcept {
    return ram_.at<pvdirty_summary>(addr_ + PVDIRTY_LOG_SUMMARIES(sections_.size()))[index];
}

std::uint64_t* GuestLog::marks(std::size_t index) const noexcept {
    return ram_.at<std::uint64_t>(section(index).marks);
}

std::uint8_t* GuestLog::counts(std::size_t index) const noexcept {
    return ram_.at<std::uint8_t>(section(index).counts);
}

std::uint8_t& GuestLog::count(std::uint64_t pfn) const noexcept {
    return core_.windows[pfn >> PVDIRTY_WINDOW_SHIFT].counts[pfn % PVDIRTY_WINDOW_PAGES];
}

} // namespace pvdirty::test
