// SPDX-License-Identifier: MIT
/** Files of guest memory, read in pieces: a mapping would fill the holes of a memfd. */
#ifndef PVDIRTY_CLI_FILE_HPP
#define PVDIRTY_CLI_FILE_HPP

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include <tl/expected.hpp>

namespace pvdirty::cli {

/** An open file, read-only. */
class File {
public:
    /** @returns one line that names the file and the reason when it fails */
    static tl::expected<File, std::string> open(const std::filesystem::path& path);

    File(File&& other) noexcept;
    File& operator=(File&& other) noexcept;
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File();

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    /** Fills the whole buffer from an offset; a file that ends before is an error. */
    [[nodiscard]] tl::expected<void, std::string> read(std::uint64_t offset,
                                                       std::span<std::byte> buffer) const;
    /** Where the next byte that is not in a hole lies, at or after offset; size() if none. */
    [[nodiscard]] std::uint64_t next_data(std::uint64_t offset) const noexcept;

private:
    File(int fd, std::uint64_t size, std::string name) noexcept
        : fd_(fd), size_(size), name_(std::move(name)) {}

    int fd_;
    std::uint64_t size_;
    std::string name_;
};

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_FILE_HPP
