// SPDX-License-Identifier: MIT
/** Devices of every kind, with something to save, and whole migrations of them. */
#ifndef PVDIRTY_TESTS_DEVICE_KINDS_HPP
#define PVDIRTY_TESTS_DEVICE_KINDS_HPP

#include <memory>
#include <string>
#include <vector>

#include "device/device.hpp"
#include "device/region_device.hpp"
#include "device/states_device.hpp"

namespace pvdirty::test {

struct DeviceKind {
    std::string name;
    std::unique_ptr<DeviceModel> (*make)();
    DeviceContent content;
    bool runs_pre_copy = true; // gives data while it runs

    /** What a device has that was loaded with the content. */
    [[nodiscard]] std::vector<Bytes> loaded() const;
};

/** Trapped and mapped regions, and drivers of migration states. */
const std::vector<DeviceKind>& device_kinds();

using Done = tl::expected<void, std::string>;

/** What went wrong, or "". */
template <class T>
std::string why(const tl::expected<T, std::string>& result) {
    return result ? std::string() : result.error();
}

/** Opens what must be there. */
std::unique_ptr<DeviceState> open(DeviceModel& device);

/** A save from setup to the end, with `rounds` iterations. */
Done save_all(DeviceState& state, MemoryStream& stream, const Bytes& config = {1, 2, 3},
              unsigned rounds = 3);
/** All parts of a stream, until the state is whole. */
Done load_all(DeviceState& state, MemoryStream& stream);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_KINDS_HPP
