// SPDX-License-Identifier: MIT
/** A VM of any size as far as a harvest sees it: its log, filled as wanted, and a dirty bitmap. */
#ifndef PVDIRTY_TESTS_BENCH_VM_HPP
#define PVDIRTY_TESTS_BENCH_VM_HPP

#include <cstdint>
#include <span>
#include <vector>

#include "guest/guest_log.hpp"
#include "pvdirty/log.hpp"

namespace pvdirty::bench {

enum class Tree { marks, counts };

/** What the tree says: nothing, 0.1 % of the pages at random, the first GiB, every page. */
enum class State { empty, sparse, gib, full };

/** Guest RAM of which only the log exists, and which asks nothing when it is written. */
class LogRam final : public GuestMemory {
public:
    explicit LogRam(test::Ram& ram) noexcept : ram_(ram) {}

    HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept override {
        return ram_.hold(gpa, len);
    }
    void release(HeldRam ram) noexcept override { ram_.release(ram); }
    void written(std::uint64_t /*gpa*/, std::uint64_t /*len*/) noexcept override { calls_++; }
    [[nodiscard]] std::uint64_t calls() const noexcept { return calls_; }

private:
    test::Ram& ram_;
    std::uint64_t calls_ = 0;
};

/** Pages first_pfn + bit n of the mask: 64 pages of which some are in the tree. */
struct Word {
    std::uint64_t first_pfn;
    std::uint64_t mask;
};

class Vm {
public:
    /** @param gib guest RAM, from GPA 0 */
    explicit Vm(std::uint64_t gib);

    /** Chooses what fill() sets, and clears the tree. */
    void choose(Tree tree, State state);
    /** Sets it in all three levels, like the guest core would. */
    void fill();
    /** The same through the guest core, page by page; slow. */
    void fill_by_core();
    /** A copy of all levels of the log, to compare ways of filling it. */
    [[nodiscard]] std::vector<std::uint64_t> snapshot() const;

    [[nodiscard]] std::uint64_t pages() const noexcept { return gib_ << PVDIRTY_WINDOW_SHIFT; }
    [[nodiscard]] std::uint64_t chosen_pages() const noexcept { return chosen_pages_; }
    /** The words that are not 0, if they are few; ascending. */
    [[nodiscard]] const std::vector<Word>& words() const noexcept { return words_; }
    /** Sections that are full from end to end. */
    [[nodiscard]] std::uint64_t full_sections() const noexcept { return full_sections_; }

    /** Words of 64 marks, and of eight counters. */
    [[nodiscard]] std::uint64_t* marks(std::uint64_t section) const noexcept {
        return guest_.log.marks(section);
    }
    [[nodiscard]] std::uint64_t* counts(std::uint64_t section) const noexcept {
        return reinterpret_cast<std::uint64_t*>(guest_.log.counts(section));
    }
    [[nodiscard]] std::uint64_t sections() const noexcept { return gib_; }

    /** The VMM's dirty bitmap. */
    [[nodiscard]] std::span<std::uint64_t> bitmap() noexcept { return bitmap_; }
    /** Does the bitmap hold the pages that were chosen, and no other? Clears it. */
    [[nodiscard]] bool take_bitmap();

    [[nodiscard]] Log& log() noexcept { return log_; }
    [[nodiscard]] test::Guest& guest() noexcept { return guest_; }
    [[nodiscard]] LogRam& memory() noexcept { return memory_; }

private:
    void set_page(std::uint64_t pfn);
    void fill_sections(std::uint64_t sections, bool set);

    std::uint64_t gib_;
    test::Guest guest_;
    LogRam memory_;
    Log log_;
    std::vector<std::uint64_t> bitmap_;
    Tree tree_ = Tree::marks;
    std::uint64_t full_sections_ = 0;
    std::uint64_t chosen_pages_ = 0;
    std::vector<Word> words_;
};

} // namespace pvdirty::bench

#endif // PVDIRTY_TESTS_BENCH_VM_HPP
