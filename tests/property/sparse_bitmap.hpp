// SPDX-License-Identifier: MIT
/** A bitmap of any number of pages, of which only what is touched costs memory. */
#ifndef PVDIRTY_TESTS_PROPERTY_SPARSE_BITMAP_HPP
#define PVDIRTY_TESTS_PROPERTY_SPARSE_BITMAP_HPP

#include <cstdint>
#include <new>
#include <span>

#include <sys/mman.h>

#include "guest/page_set.hpp"
#include "pvdirty/dirty_bitmap.hpp"

namespace pvdirty::test {

/** Zeroed words. */
class SparseWords {
public:
    explicit SparseWords(std::uint64_t count)
        : count_(count), at_(mmap(nullptr, count * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
        if (at_ == MAP_FAILED) {
            throw std::bad_alloc();
        }
    }
    SparseWords(const SparseWords&) = delete;
    SparseWords& operator=(const SparseWords&) = delete;
    ~SparseWords() { munmap(at_, count_ * sizeof(std::uint64_t)); }

    [[nodiscard]] std::span<std::uint64_t> span() const noexcept {
        return {static_cast<std::uint64_t*>(at_), count_};
    }

private:
    std::uint64_t count_;
    void* at_;
};

/** A bitmap that owns its words, and tells what is set by a way of its own. */
class SparseBitmap {
public:
    SparseBitmap(IovaRange range, std::uint64_t page_size)
        : words_(DirtyBitmap::words_for(range, page_size)),
          view_(DirtyBitmap::over(range, page_size, words_.span()).value()) {}

    [[nodiscard]] const DirtyBitmap& view() const noexcept { return view_; }
    [[nodiscard]] std::span<std::uint64_t> words() const noexcept { return words_.span(); }

    void set(std::uint64_t page) const { words()[page / 64] |= std::uint64_t{1} << page % 64; }
    /** Numbers of the pages that are set, also of those past the end. */
    [[nodiscard]] PageSet pages() const {
        Collector collector;
        std::uint64_t first = 0;
        for (const std::uint64_t word : words()) {
            if (word != 0) {
                collector(first, word);
            }
            first += 64;
        }
        return collector.pages();
    }
    /** Their bytes. */
    [[nodiscard]] PageSet bytes() const {
        std::vector<PageRange> bytes;
        const PageSet set = pages();
        for (const PageRange& run : set.ranges()) {
            bytes.push_back(
                {view_.range().first + run.first * view_.page_size(),
                 view_.range().first + run.last * view_.page_size() + (view_.page_size() - 1)});
        }
        return PageSet(bytes);
    }
    /** Numbers of those pages that have some of these bytes. */
    [[nodiscard]] PageSet pages_with(const PageSet& bytes) const {
        std::vector<PageRange> pages;
        const IovaRange here = view_.range();
        const PageSet inside = bytes & PageSet({{here.first, here.last}});
        for (const PageRange& run : inside.ranges()) {
            pages.push_back({(run.first - here.first) / view_.page_size(),
                             (run.last - here.first) / view_.page_size()});
        }
        return PageSet(pages);
    }

private:
    SparseWords words_;
    DirtyBitmap view_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_SPARSE_BITMAP_HPP
