// SPDX-License-Identifier: MIT
/*
 * The migration states of Linux 5.18 and later: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, and a data fd
 * for each session; with pre-copy since 6.2.
 */
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <linux/vfio.h>

#include "device_state/calls.hpp"
#include "device_state/record.hpp"

namespace pvdirty {

namespace {

/* With its payload right behind the header, as the kernel wants it. @returns -errno, or 0 */
template <class Payload>
int feature(const DeviceFd& device, std::uint32_t flags, Payload& payload) {
    alignas(8) std::array<std::uint8_t, sizeof(vfio_device_feature) + sizeof(Payload)> bytes{};
    vfio_device_feature header{};
    header.argsz = bytes.size();
    header.flags = flags;
    std::memcpy(bytes.data(), &header, sizeof(header));
    std::memcpy(bytes.data() + sizeof(header), &payload, sizeof(payload));
    const int result = device.ioctl(VFIO_DEVICE_FEATURE, bytes.data());
    if (result >= 0) {
        std::memcpy(&payload, bytes.data() + sizeof(header), sizeof(payload));
    }
    return result;
}

std::string name(std::uint32_t state) {
    switch (state) {
    case VFIO_DEVICE_STATE_ERROR:
        return "ERROR";
    case VFIO_DEVICE_STATE_STOP:
        return "STOP";
    case VFIO_DEVICE_STATE_RUNNING:
        return "RUNNING";
    case VFIO_DEVICE_STATE_STOP_COPY:
        return "STOP_COPY";
    case VFIO_DEVICE_STATE_RESUMING:
        return "RESUMING";
    case VFIO_DEVICE_STATE_PRE_COPY:
        return "PRE_COPY";
    default:
        return std::to_string(state);
    }
}

class StatesProtocol final : public DeviceStateProtocol {
public:
    StatesProtocol(int fd, DeviceCalls calls, std::uint64_t flags)
        : calls_(std::move(calls)), device_(calls_, fd),
          pre_copy_((flags & VFIO_MIGRATION_PRE_COPY) != 0) {}
    StatesProtocol(const StatesProtocol&) = delete;
    StatesProtocol& operator=(const StatesProtocol&) = delete;
    ~StatesProtocol() override { close_data(); }

    [[nodiscard]] DeviceProtocol kind() const noexcept override { return DeviceProtocol::states; }

    Result<bool> running() override;
    Result<void> begin_pre_copy() override;
    Result<DevicePending> pending(bool stopped) override;
    Result<std::uint64_t> save_data(DeviceStreamWriter& out, bool stopped) override;
    Result<void> stop() override;
    Result<void> begin_stop_copy() override;
    Result<void> end_stop_copy() override;
    Result<void> begin_load() override;
    Result<void> load_data(DeviceStreamReader& in, std::uint64_t len) override;
    Result<void> end_load() override;
    Result<void> run() override;
    Result<void> settle(bool run, bool reset) override;

private:
    Result<std::uint32_t> state();
    Result<void> set_state(std::uint32_t value, bool begins_session);
    void close_data();
    std::span<std::uint8_t> buffer(std::uint64_t len);

    DeviceCalls calls_;
    DeviceFd device_;
    bool pre_copy_;
    int data_fd_ = -1; // of the session
    std::vector<std::uint8_t> buffer_;
};

Result<std::uint32_t> StatesProtocol::state() {
    vfio_device_feature_mig_state state{};
    if (const int result =
            feature(device_, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, state);
        result < 0) {
        return failed("getting the device's migration state", result);
    }
    return state.device_state;
}

/*
 * A change that fails may leave any state on its way, the new one included (no fd was free): the
 * caller settles that.
 */
Result<void> StatesProtocol::set_state(std::uint32_t value, bool begins_session) {
    vfio_device_feature_mig_state state{value, -1};
    const std::string what = "setting the device's migration state " + name(value);
    if (const int result =
            feature(device_, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, state);
        result < 0) {
        return failed(what, result);
    }
    if ((state.data_fd >= 0) != begins_session) {
        if (state.data_fd >= 0) {
            calls_.close(state.data_fd);
        }
        return tl::unexpected(what +
                              (begins_session ? " gave no data fd" : " gave another data fd"));
    }
    if (begins_session) {
        close_data();
        data_fd_ = state.data_fd;
    }
    return {};
}

void StatesProtocol::close_data() {
    if (data_fd_ >= 0) {
        calls_.close(std::exchange(data_fd_, -1));
    }
}

std::span<std::uint8_t> StatesProtocol::buffer(std::uint64_t len) {
    buffer_.resize(device_chunk_bytes);
    return std::span(buffer_).first(static_cast<std::size_t>(len));
}

Result<bool> StatesProtocol::running() {
    return state().and_then([](std::uint32_t now) -> Result<bool> {
        if (now != VFIO_DEVICE_STATE_RUNNING && now != VFIO_DEVICE_STATE_STOP) {
            return tl::unexpected("the device is in the migration state " + name(now) +
                                  ", neither RUNNING nor STOP");
        }
        return now == VFIO_DEVICE_STATE_RUNNING;
    });
}

Result<void> StatesProtocol::begin_pre_copy() {
    return pre_copy_ ? set_state(VFIO_DEVICE_STATE_PRE_COPY, true) : Result<void>{};
}

Result<DevicePending> StatesProtocol::pending(bool stopped) {
    DevicePending pending;
    if (data_fd_ >= 0 && !stopped) {
        vfio_precopy_info info{};
        info.argsz = sizeof(info);
        if (const int result = DeviceFd(calls_, data_fd_).ioctl(VFIO_MIG_GET_PRECOPY_INFO, &info);
            result < 0) {
            return failed("VFIO_MIG_GET_PRECOPY_INFO", result);
        }
        pending.pre_copy = info.initial_bytes > UINT64_MAX - info.dirty_bytes
                               ? UINT64_MAX
                               : info.initial_bytes + info.dirty_bytes;
    }
    vfio_device_feature_mig_data_size size{};
    if (feature(device_, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, size) >= 0) {
        pending.stop_copy = size.stop_copy_length;
    }
    return pending;
}

Result<std::uint64_t> StatesProtocol::save_data(DeviceStreamWriter& out, bool stopped) {
    if (data_fd_ < 0) {
        return 0; // no pre-copy
    }
    const auto bytes = buffer(device_chunk_bytes);
    const std::int64_t n = DeviceFd(calls_, data_fd_).read(bytes);
    if (n == 0 || (n == -ENOMSG && !stopped)) {
        return 0; // for now, while it runs; not every driver says ENOMSG then (mtty of 6.12)
    }
    if (n < 0) {
        return failed("reading device data", n);
    }
    if (static_cast<std::uint64_t>(n) > bytes.size()) {
        return tl::unexpected(std::string("reading device data gave more than was asked for"));
    }
    const auto read = bytes.first(static_cast<std::size_t>(n));
    return out.data(read.size()).and_then([&] { return out.payload(read); }).map([&] {
        return std::uint64_t{read.size()};
    });
}

Result<void> StatesProtocol::stop() {
    // In a session, PRE_COPY to STOP would end it. That to STOP_COPY keeps its fd.
    return set_state(data_fd_ >= 0 ? VFIO_DEVICE_STATE_STOP_COPY : VFIO_DEVICE_STATE_STOP, false);
}

Result<void> StatesProtocol::begin_stop_copy() {
    return data_fd_ >= 0 ? Result<void>{} : set_state(VFIO_DEVICE_STATE_STOP_COPY, true);
}

Result<void> StatesProtocol::end_stop_copy() {
    return set_state(VFIO_DEVICE_STATE_STOP, false).map([this] { close_data(); });
}

Result<void> StatesProtocol::begin_load() {
    return set_state(VFIO_DEVICE_STATE_RESUMING, true);
}

Result<void> StatesProtocol::load_data(DeviceStreamReader& in, std::uint64_t len) {
    const auto bytes = buffer(len);
    return in.payload(bytes).and_then(
        [&] { return DeviceFd(calls_, data_fd_).write(bytes, "writing device data"); });
}

Result<void> StatesProtocol::end_load() {
    return set_state(VFIO_DEVICE_STATE_STOP, false).map([this] { close_data(); });
}

Result<void> StatesProtocol::run() {
    return set_state(VFIO_DEVICE_STATE_RUNNING, false);
}

Result<void> StatesProtocol::settle(bool run, bool reset) {
    close_data();
    const std::uint32_t target = run ? VFIO_DEVICE_STATE_RUNNING : VFIO_DEVICE_STATE_STOP;
    if (!reset) {
        // RESUMING can be given up by a reset only: leaving it would load what has come.
        const auto now = state();
        if (now && *now != VFIO_DEVICE_STATE_ERROR && *now != VFIO_DEVICE_STATE_RESUMING &&
            set_state(target, false)) {
            return {};
        }
    }
    if (const int result = device_.ioctl(VFIO_DEVICE_RESET, nullptr); result < 0) {
        return failed("VFIO_DEVICE_RESET", result);
    }
    was_reset_ = true;
    return running().and_then([&](bool runs) -> Result<void> {
        return runs == run ? Result<void>{} : set_state(target, false);
    });
}

} // namespace

Result<std::unique_ptr<DeviceStateProtocol>> open_states(int device_fd, const DeviceCalls& calls) {
    vfio_device_feature_migration migration{};
    if (feature(DeviceFd(calls, device_fd), VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
                migration) < 0) {
        return nullptr;
    }
    if ((migration.flags & VFIO_MIGRATION_STOP_COPY) == 0) {
        return tl::unexpected(std::string("the device has migration states without STOP_COPY"));
    }
    return std::make_unique<StatesProtocol>(device_fd, calls, migration.flags);
}

} // namespace pvdirty
