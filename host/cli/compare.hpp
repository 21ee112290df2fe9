// SPDX-License-Identifier: MIT
/** Compares the memory of two stopped VMs, every byte of it. */
#ifndef PVDIRTY_CLI_COMPARE_HPP
#define PVDIRTY_CLI_COMPARE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tl/expected.hpp>

#include "cli/dump.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty::cli {

/** The first row of 16 bytes that differs in a page. */
struct Sample {
    std::uint64_t page = 0;
    std::size_t offset = 0; /**< in the page, a multiple of 16 */
    std::vector<std::byte> a;
    std::vector<std::byte> b; /**< as long as a */
};

/** What became of one block. Pages are numbered within it. */
struct BlockResult {
    std::string name;
    std::uint64_t size = 0; /**< the larger one, in bytes */
    std::uint64_t bytes_compared = 0;
    std::uint64_t pages_total = 0;
    std::uint64_t pages_lost = 0;
    std::uint64_t pages_lost_outside_oracle = 0;
    std::vector<PageRange> ranges; /**< pages that differ, ascending */
    std::vector<Sample> samples;
    std::string problem; /**< missing, or another size; "" if neither */
};

struct Comparison {
    std::vector<BlockResult> blocks;

    [[nodiscard]] std::uint64_t bytes_compared() const noexcept;
    [[nodiscard]] std::uint64_t pages_total() const noexcept;
    [[nodiscard]] std::uint64_t pages_lost() const noexcept;
    [[nodiscard]] std::uint64_t pages_lost_outside_oracle() const noexcept;
    [[nodiscard]] bool equal() const noexcept;
};

/**
 * Compares every block that is named in either dump. A page that only one of them has is lost.
 * The oracle is that of a.
 * @param max_samples pages of which to keep a sample, over all blocks
 * @returns one line that names the file when one cannot be read
 */
tl::expected<Comparison, std::string> compare(const Dump& a, const Dump& b,
                                              std::size_t max_samples);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_COMPARE_HPP
