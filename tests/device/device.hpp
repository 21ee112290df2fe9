// SPDX-License-Identifier: MIT
/** What the models of devices have in common, for tests that are the same for both. */
#ifndef PVDIRTY_TESTS_DEVICE_DEVICE_HPP
#define PVDIRTY_TESTS_DEVICE_DEVICE_HPP

#include <cstdint>
#include <string>
#include <vector>

#include "device/faults.hpp"
#include "device/stream.hpp"
#include "pvdirty/device_state.hpp"

namespace pvdirty::test {

/** What a device has to save: pieces, in this order. */
struct DeviceContent {
    std::vector<Bytes> pre_copy;  // while it runs
    std::vector<Bytes> stop_copy; // once it is stopped

    [[nodiscard]] std::vector<Bytes> all() const {
        std::vector<Bytes> pieces = pre_copy;
        pieces.insert(pieces.end(), stop_copy.begin(), stop_copy.end());
        return pieces;
    }
};

/** The pieces as one. */
inline Bytes joined(const std::vector<Bytes>& pieces) {
    Bytes bytes;
    for (const Bytes& piece : pieces) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
    }
    return bytes;
}

class DeviceModel {
public:
    static constexpr int device_fd = 7;

    DeviceModel() = default;
    DeviceModel(const DeviceModel&) = delete;
    DeviceModel& operator=(const DeviceModel&) = delete;
    virtual ~DeviceModel() = default;

    virtual DeviceCalls calls() = 0;
    /** What it will give when it is saved. */
    virtual void fill(DeviceContent content) = 0;
    /** What it was given, in the units that it can tell apart. */
    [[nodiscard]] virtual std::vector<Bytes> taken() const = 0;
    /** Makes DMA. */
    [[nodiscard]] virtual bool runs() const = 0;
    /** Neither runs nor does anything for a save, nor has a fault. */
    [[nodiscard]] virtual bool rests() const = 0;
    /** Stops it, behind the library's back. */
    virtual void pause() = 0;
    /** fds and mappings that are not given back. */
    [[nodiscard]] virtual std::size_t held() const = 0;

    Faults faults;
    unsigned resets = 0;
    unsigned starts = 0; // times that it began to run
    /** What the library did that the protocol forbids; must stay empty. */
    std::vector<std::string> violations;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_DEVICE_HPP
