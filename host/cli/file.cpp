// SPDX-License-Identifier: MIT
#include "cli/file.hpp"

#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pvdirty::cli {

namespace {

std::string last_error() {
    return std::generic_category().message(errno);
}

} // namespace

tl::expected<File, std::string> File::open(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return tl::unexpected(fmt::format("cannot open {}: {}", path.string(), last_error()));
    }
    File file(fd, 0, path.string());
    struct stat status {};
    if (::fstat(fd, &status) != 0) {
        return tl::unexpected(fmt::format("cannot stat {}: {}", path.string(), last_error()));
    }
    if (!S_ISREG(status.st_mode)) {
        return tl::unexpected(fmt::format("{} is not a regular file", path.string()));
    }
    file.size_ = static_cast<std::uint64_t>(status.st_size);
    return file;
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), name_(std::move(other.name_)) {}

File& File::operator=(File&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(name_, other.name_);
    return *this;
}

File::~File() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

tl::expected<void, std::string> File::read(std::uint64_t offset,
                                           std::span<std::byte> buffer) const {
    while (!buffer.empty()) {
        const ssize_t n = ::pread(fd_, buffer.data(), buffer.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return tl::unexpected(fmt::format("cannot read {}: {}", name_, last_error()));
        }
        if (n == 0) {
            return tl::unexpected(fmt::format("{} ends at byte {}", name_, offset));
        }
        offset += static_cast<std::uint64_t>(n);
        buffer = buffer.subspan(static_cast<std::size_t>(n));
    }
    return {};
}

std::uint64_t File::next_data(std::uint64_t offset) const noexcept {
    const off_t found = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
    if (found >= 0) {
        return static_cast<std::uint64_t>(found);
    }
    // ENXIO: only a hole follows. Anything else: the file system cannot tell, so all is data.
    return errno == ENXIO ? size_ : offset;
}

} // namespace pvdirty::cli
