// SPDX-License-Identifier: MIT
#include "cli/compare.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

#include <fmt/format.h>

namespace pvdirty::cli {

namespace {

constexpr std::uint64_t page_size = PVDIRTY_PAGE_SIZE;
constexpr std::uint64_t piece = std::uint64_t{1} << 20; // read at once, in bytes
constexpr std::size_t row = 16;                         // bytes in a sample

std::uint64_t pages_in(std::uint64_t bytes) noexcept {
    return bytes / page_size + (bytes % page_size != 0 ? 1 : 0);
}

/* Collects what differs in one block. */
class Findings {
public:
    Findings(BlockResult& result, const Oracle& oracle, std::size_t& samples_left)
        : result_(result), oracle_(oracle), samples_left_(samples_left) {}

    void lost(std::uint64_t page) {
        result_.pages_lost++;
        result_.pages_lost_outside_oracle += oracle_.wrote(result_.name, page) ? 0 : 1;
        if (!result_.ranges.empty() && result_.ranges.back().last + 1 == page) {
            result_.ranges.back().last = page;
        } else {
            result_.ranges.push_back({page, page});
        }
    }

    void differs(std::uint64_t page, std::span<const std::byte> a, std::span<const std::byte> b) {
        lost(page);
        if (samples_left_ == 0) {
            return;
        }
        samples_left_--;
        const auto at = static_cast<std::size_t>(
            std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
        const std::size_t offset = at - at % row;
        const std::size_t len = std::min(row, a.size() - offset);
        const auto copy = [&](std::span<const std::byte> bytes) {
            const auto part = bytes.subspan(offset, len);
            return std::vector<std::byte>(part.begin(), part.end());
        };
        result_.samples.push_back({page, offset, copy(a), copy(b)});
    }

private:
    BlockResult& result_;
    const Oracle& oracle_;
    std::size_t& samples_left_;
};

/* Compares the first size bytes of two files. */
tl::expected<void, std::string> compare_bytes(const File& a, const File& b, std::uint64_t size,
                                              Findings& findings) {
    std::vector<std::byte> left(piece);
    std::vector<std::byte> right(piece);

    for (std::uint64_t at = 0; at < size; at += piece) {
        // Where both have a hole, both are zero.
        const std::uint64_t data = std::min(a.next_data(at), b.next_data(at));
        at = std::max(at, std::min(data, size) / piece * piece);
        const std::uint64_t len = std::min(piece, size - at);
        const std::span<std::byte> mine(left.data(), len);
        const std::span<std::byte> theirs(right.data(), len);
        if (auto read = a.read(at, mine); !read) {
            return read;
        }
        if (auto read = b.read(at, theirs); !read) {
            return read;
        }
        if (std::memcmp(mine.data(), theirs.data(), len) == 0) {
            continue;
        }
        for (std::uint64_t offset = 0; offset < len; offset += page_size) {
            const std::uint64_t part = std::min(page_size, len - offset);
            const auto x = mine.subspan(offset, part);
            const auto y = theirs.subspan(offset, part);
            if (std::memcmp(x.data(), y.data(), part) != 0) {
                findings.differs((at + offset) / page_size, x, y);
            }
        }
    }
    return {};
}

const Block* find(const Dump& dump, const std::string& name) noexcept {
    const auto found = std::find_if(dump.blocks.begin(), dump.blocks.end(),
                                    [&](const Block& block) { return block.name == name; });
    return found == dump.blocks.end() ? nullptr : &*found;
}

template <class Member>
std::uint64_t sum(const std::vector<BlockResult>& blocks, Member member) noexcept {
    return std::accumulate(
        blocks.begin(), blocks.end(), std::uint64_t{0},
        [member](std::uint64_t total, const BlockResult& block) { return total + block.*member; });
}

} // namespace

std::uint64_t Comparison::bytes_compared() const noexcept {
    return sum(blocks, &BlockResult::bytes_compared);
}

std::uint64_t Comparison::pages_total() const noexcept {
    return sum(blocks, &BlockResult::pages_total);
}

std::uint64_t Comparison::pages_lost() const noexcept {
    return sum(blocks, &BlockResult::pages_lost);
}

std::uint64_t Comparison::pages_lost_outside_oracle() const noexcept {
    return sum(blocks, &BlockResult::pages_lost_outside_oracle);
}

bool Comparison::equal() const noexcept {
    return std::all_of(blocks.begin(), blocks.end(), [](const BlockResult& block) {
        return block.pages_lost == 0 && block.problem.empty();
    });
}

tl::expected<Comparison, std::string> compare(const Dump& a, const Dump& b,
                                              std::size_t max_samples) {
    std::vector<std::string> names;
    for (const Dump* dump : {&a, &b}) {
        for (const Block& block : dump->blocks) {
            if (std::find(names.begin(), names.end(), block.name) == names.end()) {
                names.push_back(block.name);
            }
        }
    }

    Comparison comparison;
    for (const std::string& name : names) {
        const Block* mine = find(a, name);
        const Block* theirs = find(b, name);
        const std::uint64_t my_size = mine != nullptr ? mine->size : 0;
        const std::uint64_t their_size = theirs != nullptr ? theirs->size : 0;
        const std::uint64_t common = std::min(my_size, their_size);
        BlockResult result;
        result.name = name;
        result.size = std::max(my_size, their_size);
        result.bytes_compared = common;
        result.pages_total = pages_in(result.size);
        if (mine == nullptr || theirs == nullptr) {
            result.problem = fmt::format("missing in {}", mine == nullptr ? "A" : "B");
        } else if (my_size != their_size) {
            result.problem = fmt::format("{} bytes in A, {} in B", my_size, their_size);
        }

        Findings findings(result, a.oracle, max_samples);
        if (common != 0) {
            if (auto done = compare_bytes(mine->file, theirs->file, common, findings); !done) {
                return tl::unexpected(fmt::format("block {}: {}", name, done.error()));
            }
        }
        // A page that ends within the common part has been compared, and is lost only once.
        const bool last_lost =
            !result.ranges.empty() && result.ranges.back().last + 1 == pages_in(common);
        std::uint64_t rest = pages_in(common);
        if (common % page_size != 0 && result.size > common && !last_lost) {
            rest--;
        }
        for (; rest < result.pages_total; rest++) {
            findings.lost(rest);
        }
        comparison.blocks.push_back(std::move(result));
    }
    return comparison;
}

} // namespace pvdirty::cli
