// SPDX-License-Identifier: MIT
/** A migration stream in memory. */
#ifndef PVDIRTY_TESTS_DEVICE_STREAM_HPP
#define PVDIRTY_TESTS_DEVICE_STREAM_HPP

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "pvdirty/device_state.hpp"

namespace pvdirty::test {

using Bytes = std::vector<std::uint8_t>;

class MemoryStream {
public:
    MemoryStream() = default;
    explicit MemoryStream(Bytes bytes) : bytes_(std::move(bytes)) {}

    /** Takes nothing more once it has so many bytes. */
    void limit(std::size_t bytes) { limit_ = bytes; }
    [[nodiscard]] const Bytes& bytes() const { return bytes_; }
    [[nodiscard]] bool at_end() const { return position_ == bytes_.size(); }

    [[nodiscard]] ByteSink sink() {
        return [this](std::span<const std::uint8_t> in) {
            if (in.size() > limit_ - std::min(limit_, bytes_.size())) {
                return false;
            }
            bytes_.insert(bytes_.end(), in.begin(), in.end());
            return true;
        };
    }
    [[nodiscard]] ByteSource source() {
        return [this](std::span<std::uint8_t> out) {
            if (out.size() > bytes_.size() - position_) {
                return false;
            }
            std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(position_), out.size(),
                        out.begin());
            position_ += out.size();
            return true;
        };
    }

private:
    Bytes bytes_;
    std::size_t position_ = 0;
    std::size_t limit_ = SIZE_MAX;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_STREAM_HPP
