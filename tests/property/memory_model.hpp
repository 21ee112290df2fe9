// SPDX-License-Identifier: MIT
/** Memory as a migration sees it: what each page is now, what was sent of it, what is to be sent.
 */
#ifndef PVDIRTY_TESTS_PROPERTY_MEMORY_MODEL_HPP
#define PVDIRTY_TESTS_PROPERTY_MEMORY_MODEL_HPP

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "guest/page_set.hpp"
#include "guest/ram.hpp"

namespace pvdirty::test {

/** Pages that devices write: each has a number that grows with every write. */
class MemoryModel {
public:
    /** All pages that the sections cover, and a few behind each. */
    explicit MemoryModel(const std::vector<SectionSpec>& sections);

    void write(std::uint64_t pfn);
    /** A driver mapped these pages. */
    void hold(PageRange pages);

    /** What is there now; for send_old(). */
    void keep_old() { old_ = now_; }
    void all_dirty() { dirty_.assign(dirty_.size(), true); }
    void none_dirty() { dirty_.assign(dirty_.size(), false); }
    /**
     * The pages of a report are dirty.
     * @returns whether one of them had been sent and written since
     */
    bool report(std::uint64_t first_pfn, std::uint64_t mask);
    /** Sends what these pages were at keep_old(). */
    void send_old(std::uint64_t first_pfn, std::uint64_t mask);
    /** Sends so many dirty pages, going round. */
    void send(std::size_t pages);
    void send_all() { send(now_.size()); }

    /** Pages that are not at the destination what they are here. */
    [[nodiscard]] PageSet lost() const;
    /** Was a page reported that no driver ever mapped? */
    [[nodiscard]] bool reported_unheld() const noexcept { return reported_unheld_; }

private:
    struct Block {
        PageRange pages;
        std::size_t index = 0; // of its first page
    };
    [[nodiscard]] std::size_t index_of(std::uint64_t pfn) const;
    template <class Function>
    void each(std::uint64_t first_pfn, std::uint64_t mask, Function function);

    std::vector<Block> blocks_;
    std::vector<unsigned> now_;
    std::vector<unsigned> old_;
    std::vector<unsigned> sent_;
    std::vector<bool> dirty_;
    std::vector<bool> held_;
    std::size_t cursor_ = 0;
    bool reported_unheld_ = false;
};

/** The log's own memory, byte by byte, with the dirty log of a VMM. */
class LogCopy {
public:
    explicit LogCopy(Ram& ram);

    void all_dirty();
    /** The guest wrote there, in the log or elsewhere. */
    void guest_wrote(const void* where);
    /** The library said what it wrote; believe: or it is not sent. */
    void host_wrote(bool believe);
    void send();
    [[nodiscard]] bool same() const;

private:
    [[nodiscard]] const std::byte* begin() const noexcept { return ram_.at<std::byte>(ram_.gpa()); }

    Ram& ram_;
    std::vector<std::byte> sent_;
    std::set<std::uint64_t> dirty_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_MEMORY_MODEL_HPP
