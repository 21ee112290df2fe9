// SPDX-License-Identifier: MIT
/** A guest that lays out logs, well or badly, and writes to them at any moment. */
#ifndef PVDIRTY_TESTS_FUZZ_GUEST_HPP
#define PVDIRTY_TESTS_FUZZ_GUEST_HPP

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "fuzz/choices.hpp"
#include "fuzz/ram.hpp"

namespace pvdirty::fuzz {

/** Some of: RAM beside ROM, an unaligned end, 4 GiB, the end of the address space, a skewed view.
 */
std::vector<RegionSpec> choose_regions(Choices& choices);

/** What the guest wrote last as its log; any of it may be wrong. */
struct Layout {
    struct Section {
        std::uint64_t base_pfn = 0;
        std::uint64_t npages = 0;
        std::uint64_t marks = 0;
        std::uint64_t counts = 0;
    };
    std::uint64_t addr = 0;
    std::uint64_t pages = 0;
    std::vector<Section> sections;
};

class Guest {
public:
    Guest(Ram& ram, Choices& choices) : ram_(ram), choices_(choices) {}
    /** The same guest on another CPU, with decisions of its own. */
    Guest(const Guest& other, Choices& choices)
        : ram_(other.ram_), choices_(choices), layout_(other.layout_) {}

    /** Writes a log, mostly a good one. */
    void lay_out();
    [[nodiscard]] const Layout& layout() const noexcept { return layout_; }

    /** Sets a mark or raises a counter, at all levels. */
    void record_page();
    /** One write, mostly to the log. */
    void poke();
    /** Changes an entry of the section table. */
    void poke_table();
    /** Any of its writes. */
    void act();

    /** A GPA that means something, or none. */
    std::uint64_t any_gpa();
    /** A page near to one that a section describes, or any. */
    std::uint64_t any_pfn();

private:
    std::uint64_t any_value();
    std::uint64_t any_npages();
    [[nodiscard]] std::uint64_t summary(std::size_t section) const noexcept;
    Layout::Section choose_section(std::uint64_t window, std::uint64_t& next);
    void write_section(std::size_t index);
    void poke_control();

    Ram& ram_;
    Choices& choices_;
    Layout layout_;
};

/** The guest on a CPU of its own, for so many writes at most, until this object goes. */
class GuestThread {
public:
    GuestThread(const Guest& guest, std::uint64_t seed, unsigned writes);
    GuestThread(const GuestThread&) = delete;
    GuestThread& operator=(const GuestThread&) = delete;
    ~GuestThread();

private:
    SeededChoices choices_;
    Guest guest_;
    std::atomic<bool> running_{false};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

/** True in the build whose guest has a thread of its own. */
#if defined(__has_feature) && __has_feature(thread_sanitizer)
inline constexpr bool guest_has_thread = true;
#else
inline constexpr bool guest_has_thread = false;
#endif

/**
 * A guest in RAM, and its unrest: how it writes while the library is at work. A quiet one leaves
 * that alone, so that the result of each call can be predicted.
 */
class Machine {
public:
    explicit Machine(InputChoices& input);

    InputChoices& choices;
    Ram ram;
    Guest guest;

    [[nodiscard]] bool quiet() const noexcept { return quiet_; }
    /** Called inside library calls: now and then the guest writes. */
    void disturb();
    /** The same while a log is read: most likely to what is being read. */
    void disturb_attach();
    /** Lets the guest's CPU run beside the host from now on, in the build that has it. */
    void start_cpu();

private:
    bool quiet_;
    std::optional<GuestThread> cpu_;
};

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_GUEST_HPP
