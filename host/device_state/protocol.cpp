// SPDX-License-Identifier: MIT
#include "device_state/protocol.hpp"

#include <algorithm>

#include <linux/vfio.h>

namespace pvdirty {

Result<void> DeviceStateProtocol::settle(DeviceActivity to, bool reset) {
    end_session();
    if (!reset && leave(to)) {
        return {};
    }
    if (const int result = device_.ioctl(VFIO_DEVICE_RESET, nullptr); result < 0) {
        return failed("VFIO_DEVICE_RESET", result);
    }
    was_reset_ = true;
    return activity().and_then([&](DeviceActivity now) {
        if (now == to) {
            return Result<void>{};
        }
        return to == DeviceActivity::stopped ? stop() : run(to);
    });
}

std::span<std::uint8_t> DeviceStateProtocol::buffer(std::size_t len) {
    buffer_.resize(std::max(buffer_.size(), len));
    return std::span(buffer_).first(len);
}

} // namespace pvdirty
