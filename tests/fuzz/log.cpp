// SPDX-License-Identifier: MIT
/*
 * Fuzz target: the log's tables and contents. A quiet guest's log is read by a plain model too,
 * page by page, and both must say the same.
 */
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "fuzz/guest.hpp"
#include "fuzz/model.hpp"
#include "fuzz/pages.hpp"
#include "fuzz/require.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty::fuzz {

namespace {

/* RAM before a library call, to compare with it afterwards. */
class Before {
public:
    explicit Before(Machine& machine) : machine_(machine) {
        if (machine.quiet()) {
            machine.ram.remember();
        }
        machine.ram.take_written();
    }

    /** The bytes that changed are those that were reported as written, and no table's. */
    void require_all_written() const {
        const std::vector<Area> written = machine_.ram.take_written();
        if (!machine_.quiet()) {
            return;
        }
        for (const std::uint64_t gpa : machine_.ram.changed()) {
            PVDIRTY_REQUIRE(std::any_of(written.begin(), written.end(), [gpa](const Area& area) {
                const PageRange pages = *pages_of(area.gpa, area.len);
                const std::uint64_t page = gpa >> PVDIRTY_PAGE_SHIFT;
                return pages.first <= page && page <= pages.last;
            }));
        }
    }

private:
    Machine& machine_;
};

PageRange choose_range(Machine& machine) {
    if (machine.choices.below(2) == 0) {
        return all_pages;
    }
    const std::uint64_t a = machine.guest.any_pfn();
    const std::uint64_t b = machine.guest.any_pfn();
    return {std::min(a, b), std::max(a, b)};
}

void harvest(Machine& machine, Log& log, const std::optional<Model>& model) {
    const PageRange range = choose_range(machine);
    const Before before(machine);
    const Pages expected = model ? model->marks(range) : Pages();
    const Pages rest = model ? model->marks(all_pages) : Pages();
    PageCollector pages([&](std::uint64_t pfn) { return log.in_flight(pfn).has_value(); },
                        [&] { machine.disturb(); });

    const std::uint64_t count = log.harvest(PageSink(pages), range);
    pages.require_sound(count, range);
    before.require_all_written();
    if (model) {
        PVDIRTY_REQUIRE(pages.pages() == expected);
        // Taken once, and what lies outside the range can still be found.
        PVDIRTY_REQUIRE(model->marks(range).empty());
        PVDIRTY_REQUIRE(model->marks(all_pages) == without(rest, expected));
    }
}

void scan(Machine& machine, Log& log, const std::optional<Model>& model) {
    const Before before(machine);
    const Pages expected = model ? model->in_flight() : Pages();
    PageCollector pages([&](std::uint64_t pfn) { return log.in_flight(pfn).has_value(); },
                        [&] { machine.disturb(); });

    const std::uint64_t count = log.scan(PageSink(pages));
    pages.require_sound(count, all_pages);
    before.require_all_written();
    if (model) {
        PVDIRTY_REQUIRE(pages.pages() == expected);
        PVDIRTY_REQUIRE(model->in_flight() == expected); // a prune hides none
    }
}

void look_at_page(Machine& machine, const Log& log, const std::optional<Model>& model) {
    const std::uint64_t pfn = machine.guest.any_pfn();
    const std::optional<bool> in_flight = log.in_flight(pfn);
    if (model) {
        PVDIRTY_REQUIRE(in_flight == model->in_flight(pfn));
    }
}

void look_at_control(Machine& machine, Log& log) {
    const bool on = machine.choices.below(2) == 0;
    const Before before(machine);
    log.publish(on);
    before.require_all_written();
    if (machine.quiet()) {
        PVDIRTY_REQUIRE(log.published() == on);
    }
    static_cast<void>(log.gaps() + log.incomplete() + log.devices()[0]);
    PVDIRTY_REQUIRE(log.uses(log.addr(), 1));
}

void operate(Machine& machine, Log& log, const std::optional<Model>& model) {
    switch (machine.choices.below(6)) {
    case 0:
        harvest(machine, log, model);
        break;
    case 1:
        scan(machine, log, model);
        break;
    case 2:
        look_at_page(machine, log, model);
        break;
    case 3:
        look_at_control(machine, log);
        break;
    default:
        machine.guest.act();
    }
}

void run(Machine& machine) {
    const Layout& layout = machine.guest.layout();
    const bool elsewhere = machine.choices.chance(16);
    const std::uint64_t addr = elsewhere ? machine.guest.any_gpa() : layout.addr;
    const auto pages = static_cast<std::uint32_t>(elsewhere ? machine.choices.any() : layout.pages);

    const auto max_sections = static_cast<std::uint32_t>(
        machine.choices.chance(8) ? machine.choices.below(8) : PVDIRTY_MAX_SECTIONS);
    for (std::uint64_t i = machine.choices.below(8); i > 0; i--) {
        machine.guest.act();
    }
    machine.start_cpu();
    const std::optional<Model> model =
        machine.quiet() ? Model::read(machine.ram, addr, pages, max_sections) : std::nullopt;
    auto log = Log::attach(machine.ram, addr, pages, max_sections);
    PVDIRTY_REQUIRE(machine.ram.take_hold_calls() <= 1 + 2 * PVDIRTY_MAX_SECTIONS);
    PVDIRTY_REQUIRE(machine.ram.take_written().empty());
    if (machine.quiet()) {
        PVDIRTY_REQUIRE(log.has_value() == model.has_value());
    }
    if (!log) {
        PVDIRTY_REQUIRE(log.error() > PVDIRTY_OK && log.error() <= PVDIRTY_E_SECTION_ADDR);
        PVDIRTY_REQUIRE(machine.ram.held().empty());
        return;
    }
    PVDIRTY_REQUIRE(log->addr() == addr && log->pages() == pages &&
                    log->sections() <= max_sections);
    require_holds(machine.ram, log->sections());
    while (!machine.choices.empty()) {
        operate(machine, *log, model);
    }
}

} // namespace

} // namespace pvdirty::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    pvdirty::fuzz::InputChoices choices(data, size);
    pvdirty::fuzz::Machine machine(choices);
    pvdirty::fuzz::run(machine);
    PVDIRTY_REQUIRE(machine.ram.held().empty());
    return 0;
}
