// SPDX-License-Identifier: MIT
/** A source that tests command, and bitmaps that own their words. */
#ifndef PVDIRTY_TESTS_UNIT_TRACKING_TEST_SOURCE_HPP
#define PVDIRTY_TESTS_UNIT_TRACKING_TEST_SOURCE_HPP

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "pvdirty/dirty_bitmap.hpp"
#include "pvdirty/dirty_source.hpp"

namespace pvdirty::test {

inline constexpr std::uint64_t kib4 = 4096;

/** Pages first..last of 4 KiB. */
inline IovaRange pages(std::uint64_t first, std::uint64_t last) {
    return {first * kib4, last * kib4 + (kib4 - 1)};
}

using Numbers = std::set<std::uint64_t>;

/** A bitmap of 4 KiB pages, or others. */
struct Bits {
    std::vector<std::uint64_t> words;
    DirtyBitmap view;

    explicit Bits(IovaRange range, std::uint64_t page_size = kib4)
        : words(DirtyBitmap::words_for(range, page_size)),
          view(DirtyBitmap::over(range, page_size, words).value()) {}

    /** Numbers of the pages that are set, counted from the address 0. */
    [[nodiscard]] Numbers set() const {
        Numbers numbers;
        for (std::uint64_t n = 0; n < words.size() * 64; n++) {
            if ((words[n / 64] >> n % 64 & 1) != 0) {
                numbers.insert(view.range().first / view.page_size() + n);
            }
        }
        return numbers;
    }
};

/** Reports the pages that a test put into it; all calls go into a journal. */
class TestSource final : public DirtySource {
public:
    explicit TestSource(std::string name, std::vector<std::string>* journal = nullptr,
                        std::uint64_t page_size = kib4)
        : DirtySource(std::move(name)), journal_(journal), page_size_(page_size) {}

    [[nodiscard]] std::uint64_t page_sizes() const noexcept override { return page_size_; }

    Numbers dirty;          ///< pages of page_size
    std::string cannot_say; ///< answers of reads
    int fail_start = 0;     ///< errno values, or 0
    int fail_stop = 0;
    int fail_read = 0;

private:
    tl::expected<void, SourceError> did(const std::string& what, int fail) {
        if (journal_ != nullptr) {
            journal_->push_back(name() + " " + what);
        }
        if (fail != 0) {
            return error(fail, "cannot " + what);
        }
        return {};
    }
    tl::expected<void, SourceError> do_start() override { return did("start", fail_start); }
    tl::expected<void, SourceError> do_stop() override { return did("stop", fail_stop); }
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override {
        if (auto done = did("read", fail_read); !done) {
            return tl::unexpected(done.error());
        }
        if (!cannot_say.empty()) {
            bitmap.set(range);
        }
        for (auto page = dirty.begin(); page != dirty.end();) {
            const IovaRange bytes{*page * page_size_, *page * page_size_ + (page_size_ - 1)};
            if (range.contains(bytes)) {
                bitmap.set(bytes);
                page = dirty.erase(page);
            } else {
                ++page;
            }
        }
        return Answer{cannot_say};
    }

    std::vector<std::string>* journal_;
    std::uint64_t page_size_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_UNIT_TRACKING_TEST_SOURCE_HPP
