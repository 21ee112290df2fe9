// SPDX-License-Identifier: MIT
/** What DeviceState needs of the kernel's protocols, and how they reach a device. */
#ifndef PVDIRTY_DEVICE_STATE_PROTOCOL_HPP
#define PVDIRTY_DEVICE_STATE_PROTOCOL_HPP

#include <memory>
#include <span>
#include <vector>

#include "device_state/calls.hpp"

namespace pvdirty {

/** Bytes that are held at once on their way, whatever a device or a stream says. */
inline constexpr std::size_t device_chunk_bytes = std::size_t{1} << 20;

/**
 * One protocol on one device. No function recovers from an error of its own: settle() does, and
 * whoever calls decides how.
 */
class DeviceStateProtocol {
public:
    DeviceStateProtocol(int device_fd, DeviceCalls calls)
        : calls_(std::move(calls)), device_(calls_, device_fd) {}
    DeviceStateProtocol(const DeviceStateProtocol&) = delete;
    DeviceStateProtocol& operator=(const DeviceStateProtocol&) = delete;
    virtual ~DeviceStateProtocol() = default;

    [[nodiscard]] virtual DeviceProtocol kind() const noexcept = 0;

    /** An error in any state that is not one of these: a save, a load, an error state. */
    virtual Result<DeviceActivity> activity() = 0;

    /** Running or quiesced, to the same and gathering. */
    virtual Result<void> begin_pre_copy(DeviceActivity activity) = 0;
    virtual Result<DevicePending> pending(bool stopped) = 0;
    /**
     * One piece of the device's data as one record, if there is any. Stopped: 0 is the end.
     */
    virtual Result<std::uint64_t> save_data(DeviceStreamWriter& out, bool stopped) = 0;
    /** From running, in a save or not, to quiesced; without such a state nothing is done. */
    virtual Result<void> quiesce() = 0;
    /** From any state of a save in which it runs to one in which it does not. */
    virtual Result<void> stop() = 0;
    /** From stopped to where the rest is read. */
    virtual Result<void> begin_stop_copy() = 0;
    /** All has been read: stopped, and saving no longer. */
    virtual Result<void> end_stop_copy() = 0;

    /** From running or stopped to where it takes data. */
    virtual Result<void> begin_load() = 0;
    /** One record of data, `len` bytes that the reader still has. */
    virtual Result<void> load_data(DeviceStreamReader& in, std::uint64_t len) = 0;
    /** All has been written: the device must take it as a whole, and stays stopped. */
    virtual Result<void> end_load() = 0;

    /**
     * From stopped or quiesced, or from what end_load() left.
     * @param to running or quiesced; without such a state it runs
     */
    virtual Result<void> run(DeviceActivity to) = 0;

    /**
     * Gives up what was begun, by a reset if nothing else does.
     * @param reset it must be reset: what it has is not to be used
     */
    Result<void> settle(DeviceActivity to, bool reset);
    [[nodiscard]] bool was_reset() const noexcept { return was_reset_; }

protected:
    /** For device data on its way. @param len at most device_chunk_bytes */
    std::span<std::uint8_t> buffer(std::size_t len);

    const DeviceCalls calls_;
    const DeviceFd device_;

private:
    /** Nothing of a save or load that was begun is kept here. */
    virtual void end_session() = 0;
    /** Gives up what was begun, without a reset; an error if only that would do. */
    virtual Result<void> leave(DeviceActivity to) = 0;

    std::vector<std::uint8_t> buffer_;
    bool was_reset_ = false;
};

/** @returns nullptr: the device does not have this protocol */
Result<std::unique_ptr<DeviceStateProtocol>> open_states(int device_fd, const DeviceCalls& calls);
Result<std::unique_ptr<DeviceStateProtocol>> open_region(int device_fd, const DeviceCalls& calls);

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_PROTOCOL_HPP
