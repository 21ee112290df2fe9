// SPDX-License-Identifier: MIT
/** What DeviceState needs of the kernel's protocols, and how they reach a device. */
#ifndef PVDIRTY_DEVICE_STATE_PROTOCOL_HPP
#define PVDIRTY_DEVICE_STATE_PROTOCOL_HPP

#include <memory>
#include <string>

#include "pvdirty/device_state.hpp"

namespace pvdirty {

template <class T>
using Result = tl::expected<T, std::string>;

/** Bytes that are held at once on their way, whatever a device or a stream says. */
inline constexpr std::size_t device_chunk_bytes = std::size_t{1} << 20;

/** "what failed: why", from -errno. */
tl::unexpected<std::string> failed(const std::string& what, std::int64_t minus_errno);

/**
 * One protocol on one device. No function recovers from an error of its own: settle() does, and
 * whoever calls decides how.
 */
class DeviceStateProtocol {
public:
    DeviceStateProtocol() = default;
    DeviceStateProtocol(const DeviceStateProtocol&) = delete;
    DeviceStateProtocol& operator=(const DeviceStateProtocol&) = delete;
    virtual ~DeviceStateProtocol() = default;

    [[nodiscard]] virtual DeviceProtocol kind() const noexcept = 0;

    /** Is the device running now? An error if it is in any state but running and stopped. */
    virtual Result<bool> running() = 0;

    /** Running, to running and gathering. */
    virtual Result<void> begin_pre_copy() = 0;
    virtual Result<DevicePending> pending(bool stopped) = 0;
    /**
     * One piece of the device's data as one record, if there is any. Stopped: 0 is the end.
     */
    virtual Result<std::uint64_t> save_data(DeviceStreamWriter& out, bool stopped) = 0;
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

    /** From stopped, or from what end_load() left. */
    virtual Result<void> run() = 0;

    /**
     * Gives up what was begun, by a reset if nothing else does.
     * @param run where to: running, or stopped
     * @param reset it must be reset: what it has is not to be used
     */
    virtual Result<void> settle(bool run, bool reset) = 0;
    [[nodiscard]] bool was_reset() const noexcept { return was_reset_; }

protected:
    bool was_reset_ = false;
};

/** @returns nullptr: the device does not have this protocol */
Result<std::unique_ptr<DeviceStateProtocol>> open_states(int device_fd, const DeviceCalls& calls);
Result<std::unique_ptr<DeviceStateProtocol>> open_region(int device_fd, const DeviceCalls& calls);

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_PROTOCOL_HPP
