// SPDX-License-Identifier: MIT
/* Registration of a log, its control page, and where its parts lie. */
#include "pvdirty/log.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>

#include "log/word.hpp"

namespace pvdirty {

namespace {

constexpr std::uint64_t line = 64; // alignment of every area, in bytes

/* One 32-bit word of the control page. */
GuestWord<std::uint32_t> control_word(const RamHold& control, std::size_t offset) noexcept {
    return GuestWord<std::uint32_t>(reinterpret_cast<std::uint32_t*>(control.host() + offset));
}

std::uint64_t* words_at(const RamHold& hold, std::uint64_t offset = 0) noexcept {
    return reinterpret_cast<std::uint64_t*>(hold.host() + offset);
}

/* Holds an area that the guest names; empty when it is not aligned, or not RAM. */
RamHold hold_area(GuestMemory& memory, std::uint64_t gpa, std::uint64_t len) {
    if (gpa % line != 0 || len > gpa_limit || gpa > gpa_limit - len) {
        return {};
    }
    RamHold hold(memory, gpa, len);
    if (reinterpret_cast<std::uintptr_t>(hold.host()) % line != 0) {
        return {};
    }
    return hold;
}

} // namespace

Log::Log(GuestMemory& memory, RamHold control) noexcept
    : memory_(&memory), control_(std::move(control)) {}

tl::expected<Log, pvdirty_error> Log::attach(GuestMemory& memory, std::uint64_t addr,
                                             std::uint32_t pages, std::uint32_t max_sections) {
    if (addr % PVDIRTY_PAGE_SIZE != 0) {
        return tl::unexpected(PVDIRTY_E_LOG_ADDR);
    }
    if (pages < PVDIRTY_LOG_PAGES(1)) {
        return tl::unexpected(PVDIRTY_E_LOG_SIZE);
    }
    Log log(memory, hold_area(memory, addr, std::uint64_t{pages} << PVDIRTY_PAGE_SHIFT));
    if (!log.control_) {
        return tl::unexpected(PVDIRTY_E_LOG_ADDR);
    }
    const auto version =
        GuestWord<std::uint16_t>(
            reinterpret_cast<std::uint16_t*>(log.control_.host() + offsetof(pvdirty_log, version)))
            .load();
    if (control_word(log.control_, offsetof(pvdirty_log, signature)).load() !=
            PVDIRTY_LOG_SIGNATURE ||
        version != PVDIRTY_VERSION) {
        return tl::unexpected(PVDIRTY_E_LOG_HEADER);
    }
    const std::uint32_t nsections =
        control_word(log.control_, offsetof(pvdirty_log, nsections)).load();
    if (nsections == 0 || nsections > std::min(max_sections, PVDIRTY_MAX_SECTIONS)) {
        return tl::unexpected(PVDIRTY_E_SECTION_COUNT);
    }
    if (pages < PVDIRTY_LOG_PAGES(nsections)) {
        return tl::unexpected(PVDIRTY_E_LOG_SIZE);
    }
    if (const pvdirty_error error = log.read_sections(nsections); error != PVDIRTY_OK) {
        return tl::unexpected(error);
    }
    return log;
}

/* Copies the table: what the guest writes there later has no effect. */
pvdirty_error Log::read_sections(std::uint32_t nsections) {
    std::uint64_t next_base = 0;

    sections_.reserve(nsections); // bounded by PVDIRTY_MAX_SECTIONS
    for (std::uint32_t i = 0; i < nsections; i++) {
        std::uint64_t* entry = words_at(control_, PVDIRTY_LOG_TABLE + i * sizeof(pvdirty_section));
        const auto word_at = [entry](std::size_t offset) {
            return GuestWord<std::uint64_t>(entry + offset / sizeof(std::uint64_t)).load();
        };
        const std::uint64_t base = word_at(offsetof(pvdirty_section, base_pfn));
        // npages in the low half, reserved in the high half: a reserved bit makes it too large.
        const std::uint64_t npages = word_at(offsetof(pvdirty_section, npages));
        const std::uint64_t marks = word_at(offsetof(pvdirty_section, marks));
        const std::uint64_t counts = word_at(offsetof(pvdirty_section, counts));

        if (base % PVDIRTY_WINDOW_PAGES != 0 || base < next_base || npages == 0 ||
            npages > PVDIRTY_WINDOW_PAGES || base > pfn_limit - npages) {
            return PVDIRTY_E_SECTION_RANGE;
        }
        next_base = base + PVDIRTY_WINDOW_PAGES;

        Section section{base, static_cast<std::uint32_t>(npages),
                        hold_area(*memory_, marks, PVDIRTY_MARKS_BYTES(npages)),
                        hold_area(*memory_, counts, PVDIRTY_COUNTS_BYTES(npages))};
        if (!section.marks || !section.counts) {
            return PVDIRTY_E_SECTION_ADDR;
        }
        sections_.push_back(std::move(section));
    }
    return areas_overlap() ? PVDIRTY_E_SECTION_ADDR : PVDIRTY_OK;
}

/*
 * Sections that shared an area would multiply what a harvest or a scan visits, up to the limit of
 * sections, for the price of one area. Apart from each other, they cost the guest what they cost
 * us, and the VMM limits their number to what the VM's RAM needs.
 */
bool Log::areas_overlap() const {
    std::vector<const RamHold*> areas{&control_};

    areas.reserve(1 + 2 * sections_.size());
    for (const Section& section : sections_) {
        areas.push_back(&section.marks);
        areas.push_back(&section.counts);
    }
    std::sort(areas.begin(), areas.end(),
              [](const RamHold* a, const RamHold* b) { return a->gpa() < b->gpa(); });
    return std::adjacent_find(areas.begin(), areas.end(), [](const RamHold* a, const RamHold* b) {
               return b->gpa() - a->gpa() < a->size();
           }) != areas.end();
}

bool Log::uses(std::uint64_t gpa, std::uint64_t len) const noexcept {
    return control_.overlaps(gpa, len) ||
           std::any_of(sections_.begin(), sections_.end(), [&](const Section& section) {
               return section.marks.overlaps(gpa, len) || section.counts.overlaps(gpa, len);
           });
}

void Log::publish(bool on) noexcept {
    control_word(control_, offsetof(pvdirty_log, logging)).store(on ? 1 : 0);
    /*
     * Partner: pvd_logging_now() in guest/core/page.h, which orders the device's write before its
     * load of this word. A release that reads the old word has seen its write before this store,
     * so whoever reads RAM after this fence gets the written page.
     */
    full_fence();
    memory_->written(addr() + offsetof(pvdirty_log, logging), sizeof(std::uint32_t));
}

bool Log::published() const noexcept {
    return control_word(control_, offsetof(pvdirty_log, logging)).load() != 0;
}

std::uint32_t Log::incomplete() const noexcept {
    return control_word(control_, offsetof(pvdirty_log, incomplete)).load();
}

std::uint32_t Log::gaps() const noexcept {
    return control_word(control_, offsetof(pvdirty_log, gaps)).load();
}

DeviceTable Log::devices() const noexcept {
    DeviceTable table{};
    std::size_t at = offsetof(pvdirty_log, devices);
    for (std::uint32_t& word : table) {
        word = control_word(control_, at).load();
        at += sizeof(std::uint32_t);
    }
    return table;
}

std::optional<bool> Log::in_flight(std::uint64_t pfn) const noexcept {
    const auto after =
        std::upper_bound(sections_.begin(), sections_.end(), pfn,
                         [](std::uint64_t page, const Section& s) { return page < s.base_pfn; });
    if (after == sections_.begin()) {
        return std::nullopt;
    }
    const Section& section = *std::prev(after);
    const std::uint64_t index = pfn - section.base_pfn;
    if (index >= section.npages) {
        return std::nullopt;
    }
    auto* counter = reinterpret_cast<std::uint8_t*>(section.counts.host() + index);
    return GuestWord<std::uint8_t>(counter).load() != 0;
}

std::uint64_t* Log::top_marks() const noexcept {
    return words_at(control_, PVDIRTY_LOG_TOP + offsetof(pvdirty_top, marks));
}

std::uint64_t* Log::top_counts() const noexcept {
    return words_at(control_, PVDIRTY_LOG_TOP + offsetof(pvdirty_top, counts));
}

std::uint64_t* Log::summary_marks(std::size_t index) const noexcept {
    return words_at(control_, PVDIRTY_LOG_SUMMARIES(sections_.size()) +
                                  index * sizeof(pvdirty_summary) +
                                  offsetof(pvdirty_summary, marks));
}

std::uint64_t* Log::summary_counts(std::size_t index) const noexcept {
    return words_at(control_, PVDIRTY_LOG_SUMMARIES(sections_.size()) +
                                  index * sizeof(pvdirty_summary) +
                                  offsetof(pvdirty_summary, counts));
}

std::uint64_t Log::gpa_of(const std::uint64_t* word) const noexcept {
    return addr() +
           static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(word) - control_.host());
}

} // namespace pvdirty
