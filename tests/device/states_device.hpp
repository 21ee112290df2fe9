// SPDX-License-Identifier: MIT
/** A device with migration states and data fds, as the kernel has them since 5.18. */
#ifndef PVDIRTY_TESTS_DEVICE_STATES_DEVICE_HPP
#define PVDIRTY_TESTS_DEVICE_STATES_DEVICE_HPP

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include <linux/vfio.h>

#include "device/device.hpp"

namespace pvdirty::test {

/** What differs between drivers. */
struct StatesTraits {
    bool pre_copy = true;
    bool p2p = true;
    bool says_nomsg = true;         // at the end of what there is in pre-copy; else 0, like mtty
    bool knows_size = true;         // VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
    std::uint64_t max_io = 1 << 16; // bytes of one read or write
};

/**
 * Changes of state take the kernel's way (vfio_mig_get_next_state()), and a fault stops them at a
 * step of it. What is loaded is checked as a whole on leaving RESUMING.
 */
class StatesDevice final : public DeviceModel {
public:
    enum State : std::uint32_t {
        error = VFIO_DEVICE_STATE_ERROR,
        stopped = VFIO_DEVICE_STATE_STOP,
        running = VFIO_DEVICE_STATE_RUNNING,
        stop_copy = VFIO_DEVICE_STATE_STOP_COPY,
        resuming = VFIO_DEVICE_STATE_RESUMING,
        running_p2p = VFIO_DEVICE_STATE_RUNNING_P2P,
        pre_copy = VFIO_DEVICE_STATE_PRE_COPY,
        pre_copy_p2p = VFIO_DEVICE_STATE_PRE_COPY_P2P,
        num_states,
    };

    explicit StatesDevice(StatesTraits traits) : traits_(traits) { starts = 1; }

    DeviceCalls calls() override;
    void fill(DeviceContent content) override { content_ = std::move(content); }
    /** One piece: what the device took on leaving RESUMING. */
    [[nodiscard]] std::vector<Bytes> taken() const override { return {taken_}; }
    [[nodiscard]] bool runs() const override {
        return state == running || state == running_p2p || state == pre_copy ||
               state == pre_copy_p2p;
    }
    [[nodiscard]] bool rests() const override { return state == stopped; }
    /** Could be kept from DMA to other devices, and is not. */
    [[nodiscard]] bool begins_p2p() const {
        return traits_.p2p && (state == running || state == pre_copy);
    }
    void pause() override { state = stopped; }
    [[nodiscard]] std::size_t held() const override { return open_.size(); }

    /** The next state on the way, by the kernel's rules; nothing: there is no way. */
    [[nodiscard]] std::optional<State> next_state(State from, State to) const;

    State state = running;
    bool gives_no_fd = false;
    bool never_ends = false; // its data

private:
    int ioctl(int fd, unsigned long request, void* argument);
    int feature(void* argument, Fault fault);
    int set_state(State target, int& fd, Fault fault);
    int step(State to, int& fd);
    int precopy_info(int fd, void* argument) const;
    std::int64_t read(int fd, std::uint8_t* out, std::size_t len);
    std::int64_t write(int fd, const std::uint8_t* in, std::size_t len);
    [[nodiscard]] bool has_state(State state) const;
    [[nodiscard]] bool has_arc(State from, State to) const;

    StatesTraits traits_;
    DeviceContent content_;
    std::set<int> open_;
    int next_fd_ = 100;
    int session_ = -1; // its fd; others are disabled
    Bytes data_;       // of the session
    std::size_t position_ = 0;
    Bytes taken_;
};

/** What a device's driver checks: a stream that is not whole has another length than it says. */
DeviceContent checked_content(std::vector<Bytes> pre_copy, std::vector<Bytes> stop_copy);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_STATES_DEVICE_HPP
