// SPDX-License-Identifier: MIT
/** The log in guest RAM, as the host reads it. */
#ifndef PVDIRTY_LOG_HPP
#define PVDIRTY_LOG_HPP

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <tl/expected.hpp>

#include "pvdirty/memory.hpp"
#include "pvdirty/pages.hpp"
#include "pvdirty_abi.h"

namespace pvdirty {

/** pvdirty_log.devices, each word read once. */
using DeviceTable = std::array<std::uint32_t, PVDIRTY_MAX_DEVICES>;

/**
 * A registered log. The guest goes on writing to it at any moment, and may do so with malice: the
 * section table is checked and copied once, each later value is loaded once and masked, and
 * nothing but guest RAM that is held here is ever touched. What a hostile guest can spoil is its
 * own marks, and with them its own RAM on the destination.
 *
 * Threads: one host thread at a time; any number of guest CPUs at the same time.
 */
class Log {
public:
    /**
     * Reads and checks the log at a guest-physical address. Writes nothing to guest RAM.
     * @param memory outlives the log
     * @param addr GPA of the control page, a multiple of 4 KiB
     * @param pages size of the log in pages of 4 KiB, at least PVDIRTY_LOG_PAGES()
     * @param max_sections more are refused; above PVDIRTY_MAX_SECTIONS it means that
     */
    static tl::expected<Log, pvdirty_error>
    attach(GuestMemory& memory, std::uint64_t addr, std::uint32_t pages,
           std::uint32_t max_sections = PVDIRTY_MAX_SECTIONS);

    [[nodiscard]] std::uint64_t addr() const noexcept { return control_.gpa(); }
    [[nodiscard]] std::uint64_t pages() const noexcept {
        return control_.size() >> PVDIRTY_PAGE_SHIFT;
    }
    [[nodiscard]] std::size_t sections() const noexcept { return sections_.size(); }
    /** Does any part of the log (areas of the sections too) lie in these bytes? */
    [[nodiscard]] bool uses(std::uint64_t gpa, std::uint64_t len) const noexcept;

    /**
     * Writes the logging word and fences: RAM read after this call sees every device write whose
     * release read the old word.
     */
    void publish(bool on) noexcept;
    /** What the logging word says now. */
    [[nodiscard]] bool published() const noexcept;

    /**
     * Pages in flight: those whose counter is not 0. Removes summary bits over counters that have
     * gone back to 0, so that the next scan is cheaper.
     * @returns number of pages
     */
    std::uint64_t scan(PageSink sink) noexcept;

    /**
     * Takes all marks of the pages in range and clears them. After it returns, the pages may be
     * read. Marks outside the range stay, those that share a word with it too.
     * @returns number of pages
     */
    std::uint64_t harvest(PageSink sink, PageRange range = all_pages) noexcept;

    /** Is the page's counter not 0? Nothing when no section has the page. */
    [[nodiscard]] std::optional<bool> in_flight(std::uint64_t pfn) const noexcept;

    /** pvdirty_log.incomplete and .gaps as the guest has them now. */
    [[nodiscard]] std::uint32_t incomplete() const noexcept;
    [[nodiscard]] std::uint32_t gaps() const noexcept;
    [[nodiscard]] DeviceTable devices() const noexcept;

private:
    /** A checked copy of one entry of the section table, with its areas held. */
    struct Section {
        std::uint64_t base_pfn;
        std::uint32_t npages;
        RamHold marks;
        RamHold counts;
    };

    Log(GuestMemory& memory, RamHold control) noexcept;
    pvdirty_error read_sections(std::uint32_t nsections);
    [[nodiscard]] bool areas_overlap() const;

    std::uint64_t harvest_section(std::size_t index, PageSink sink, PageRange range) noexcept;
    std::uint64_t scan_section(std::size_t index, PageSink sink) noexcept;
    [[nodiscard]] bool summary_holds_counts(std::size_t index) const noexcept;

    [[nodiscard]] std::uint64_t* top_marks() const noexcept;
    [[nodiscard]] std::uint64_t* top_counts() const noexcept;
    [[nodiscard]] std::uint64_t* summary_marks(std::size_t index) const noexcept;
    [[nodiscard]] std::uint64_t* summary_counts(std::size_t index) const noexcept;
    /** GPA of an address inside the control area. */
    [[nodiscard]] std::uint64_t gpa_of(const std::uint64_t* word) const noexcept;

    GuestMemory* memory_;
    RamHold control_;
    std::vector<Section> sections_;
};

} // namespace pvdirty

#endif // PVDIRTY_LOG_HPP
