// SPDX-License-Identifier: MIT
/** A device for device_migration.cpp. */
#ifndef PVDIRTY_EXAMPLE_DEVICE_HPP
#define PVDIRTY_EXAMPLE_DEVICE_HPP

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <linux/vfio.h>

#include "pvdirty/device_state.hpp"

/** Counters, and the migration states of <linux/vfio.h>. */
class Device {
public:
    explicit Device(std::uint32_t state) : state_(state) {}

    /** As a guest has it do something. */
    void works() { counters_[at_++ % counters_.size()]++; }
    [[nodiscard]] bool runs() const { return state_ == VFIO_DEVICE_STATE_RUNNING; }
    [[nodiscard]] bool equals(const Device& other) const { return counters_ == other.counters_; }

    /** What the kernel does with a device's fd. For a real device: pvdirty::system_calls(). */
    pvdirty::DeviceCalls calls() {
        pvdirty::DeviceCalls calls = pvdirty::system_calls();
        calls.ioctl = [this](int, unsigned long request, void* arg) { return ioctl(request, arg); };
        calls.read = [this](int, void* out, std::size_t len) -> std::int64_t {
            len = std::min(len, data_.size());
            if (len == 0) {
                return state_ == VFIO_DEVICE_STATE_STOP_COPY ? 0 : -ENOMSG;
            }
            std::memcpy(out, data_.data(), len);
            data_.erase(data_.begin(), data_.begin() + static_cast<std::ptrdiff_t>(len));
            return static_cast<std::int64_t>(len);
        };
        calls.write = [this](int, const void* in, std::size_t len) {
            const auto* bytes = static_cast<const std::uint8_t*>(in);
            data_.insert(data_.end(), bytes, bytes + len);
            return static_cast<std::int64_t>(len);
        };
        calls.close = [](int) {};
        return calls;
    }

private:
    int ioctl(unsigned long request, void* arg) {
        if (request == VFIO_DEVICE_RESET) {
            state_ = VFIO_DEVICE_STATE_RUNNING;
            return 0;
        }
        if (request == VFIO_MIG_GET_PRECOPY_INFO) {
            static_cast<vfio_precopy_info*>(arg)->initial_bytes = data_.size();
            return 0;
        }
        auto* feature = static_cast<vfio_device_feature*>(arg);
        switch (request == VFIO_DEVICE_FEATURE ? feature->flags : 0) {
        case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION:
            reinterpret_cast<vfio_device_feature_migration*>(feature->data)->flags =
                VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
            return 0;
        case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
            reinterpret_cast<vfio_device_feature_mig_state*>(feature->data)->device_state = state_;
            return 0;
        case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
            set_state(reinterpret_cast<vfio_device_feature_mig_state*>(feature->data));
            return 0;
        default:
            return -ENOTTY;
        }
    }

    void set_state(vfio_device_feature_mig_state* change) {
        const bool begins = change->device_state == VFIO_DEVICE_STATE_PRE_COPY ||
                            change->device_state == VFIO_DEVICE_STATE_RESUMING;
        if (state_ == VFIO_DEVICE_STATE_RESUMING) { // the last that has come
            std::copy(data_.end() - sizeof(counters_), data_.end(), counters_.begin());
        }
        if (begins) {
            data_.clear();
        }
        if (change->device_state == VFIO_DEVICE_STATE_PRE_COPY ||
            change->device_state == VFIO_DEVICE_STATE_STOP_COPY) {
            data_.insert(data_.end(), counters_.begin(), counters_.end());
        }
        state_ = change->device_state;
        change->data_fd = begins ? 8 : -1;
    }

    std::uint32_t state_;
    std::array<std::uint8_t, 100> counters_{};
    std::size_t at_ = 0;
    std::vector<std::uint8_t> data_; // of the session
};

#endif // PVDIRTY_EXAMPLE_DEVICE_HPP
