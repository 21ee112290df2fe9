// SPDX-License-Identifier: MIT
/** The memory of a stopped VM: a directory that the plug-in's x-test-dump wrote, or a plain file.
 */
#ifndef PVDIRTY_CLI_DUMP_HPP
#define PVDIRTY_CLI_DUMP_HPP

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <tl/expected.hpp>

#include "cli/file.hpp"

namespace pvdirty::cli {

/** A RAM block. */
struct Block {
    std::string name;
    std::uint64_t size = 0; /**< in bytes, not more than the file has */
    File file;
};

/** Pages that a device wrote, as the host saw it. */
struct Oracle {
    std::string block;              /**< name of the block it speaks of */
    std::vector<std::uint8_t> bits; /**< 1 bit for each page, LSB first */

    /** Pages that the oracle does not know of count as not written. */
    [[nodiscard]] bool wrote(const std::string& name, std::uint64_t page) const noexcept {
        return name == block && page / 8 < bits.size() && (bits[page / 8] >> (page % 8) & 1) != 0;
    }
};

struct Dump {
    std::vector<Block> blocks;
    Oracle oracle; /**< empty when the dump has none */
};

/**
 * Opens every block of a dump.
 * @returns one line that names what is wrong when it fails
 */
tl::expected<Dump, std::string> open_dump(const std::filesystem::path& path);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_DUMP_HPP
