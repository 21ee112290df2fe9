// SPDX-License-Identifier: MIT
/** A log as a guest lays it out, and the guest core's view of it. */
#ifndef PVDIRTY_TESTS_GUEST_GUEST_LOG_HPP
#define PVDIRTY_TESTS_GUEST_GUEST_LOG_HPP

#include <cstdint>
#include <vector>

#include "guest/core.hpp"
#include "guest/ram.hpp"

namespace pvdirty::test {

/** One section: a window (PFN >> PVDIRTY_WINDOW_SHIFT) and the pages it describes. */
struct SectionSpec {
    std::uint64_t window = 0;
    std::uint32_t npages = 0;
};

/** Lays a log out in RAM: control page, root, table, summaries; then marks and counters. */
class GuestLog {
public:
    /** Bytes of RAM that a log with these sections needs. */
    static std::uint64_t bytes(const std::vector<SectionSpec>& sections);

    /** Sections ascend. The RAM must be zero from addr on. */
    GuestLog(Ram& ram, std::uint64_t addr, std::vector<SectionSpec> sections);

    [[nodiscard]] std::uint64_t addr() const noexcept { return addr_; }
    [[nodiscard]] std::uint32_t pages() const noexcept {
        return static_cast<std::uint32_t>(PVDIRTY_LOG_PAGES(sections_.size()));
    }
    [[nodiscard]] const std::vector<SectionSpec>& sections() const noexcept { return sections_; }
    [[nodiscard]] bool covers(std::uint64_t pfn) const noexcept;

    /** Parts of the log, as the guest writes them. */
    [[nodiscard]] pvdirty_log& control() const noexcept;
    [[nodiscard]] pvdirty_top& top() const noexcept;
    [[nodiscard]] pvdirty_section& section(std::size_t index) const noexcept;
    [[nodiscard]] pvdirty_summary& summary(std::size_t index) const noexcept;
    [[nodiscard]] std::uint64_t* marks(std::size_t index) const noexcept;
    [[nodiscard]] std::uint8_t* counts(std::size_t index) const noexcept;
    /** The counter of a page that a section covers. */
    [[nodiscard]] std::uint8_t& count(std::uint64_t pfn) const noexcept;

    /** What the guest core works on; as concurrent as the core is. */
    [[nodiscard]] pvd_log* core() noexcept { return &core_; }

private:
    Ram& ram_;
    std::uint64_t addr_;
    std::vector<SectionSpec> sections_;
    Ram windows_; // a sparse array of pvd_window
    pvd_log core_{};
};

/** RAM and a log in it, with so many bytes of RAM behind it. */
struct Guest {
    static constexpr std::uint64_t ram_gpa = std::uint64_t{1} << 32;

    explicit Guest(const std::vector<SectionSpec>& sections, std::uint64_t slack = 0)
        : ram(ram_gpa, GuestLog::bytes(sections) + slack), log(ram, ram_gpa, sections) {}

    Ram ram;
    GuestLog log;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_GUEST_LOG_HPP
