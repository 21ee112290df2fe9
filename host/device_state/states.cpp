// SPDX-License-Identifier: MIT
/*
 * The migration states of Linux 5.18 and later: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, and a data fd
 * for each session; with pre-copy since 6.2. Ways through states that a device does not have are
 * the kernel's matter, and no such state is asked for here.
 */
#include <cerrno>
#include <utility>
#include <vector>

#include <linux/vfio.h>

#include "device_state/protocol.hpp"
#include "device_state/record.hpp"
#include "tracking/vfio_arguments.hpp"

namespace pvdirty {

namespace {

/* @returns -errno, or 0 and what the kernel made of the payload */
template <class Payload>
int feature(const DeviceFd& device, std::uint32_t flags, Payload& payload) {
    auto arguments = vfio::feature(flags, payload);
    const int result = device.ioctl(VFIO_DEVICE_FEATURE, arguments.data());
    if (result >= 0) {
        payload = arguments.tail();
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
    case VFIO_DEVICE_STATE_RUNNING_P2P:
        return "RUNNING_P2P";
    case VFIO_DEVICE_STATE_PRE_COPY:
        return "PRE_COPY";
    case VFIO_DEVICE_STATE_PRE_COPY_P2P:
        return "PRE_COPY_P2P";
    default:
        return std::to_string(state);
    }
}

class StatesProtocol final : public DeviceStateProtocol {
public:
    StatesProtocol(int fd, DeviceCalls calls, std::uint64_t flags)
        : DeviceStateProtocol(fd, std::move(calls)),
          pre_copy_((flags & VFIO_MIGRATION_PRE_COPY) != 0),
          p2p_((flags & VFIO_MIGRATION_P2P) != 0) {}
    StatesProtocol(const StatesProtocol&) = delete;
    StatesProtocol& operator=(const StatesProtocol&) = delete;
    ~StatesProtocol() override { end_session(); }

    [[nodiscard]] DeviceProtocol kind() const noexcept override { return DeviceProtocol::states; }

    Result<DeviceActivity> activity() override;
    Result<void> begin_pre_copy(DeviceActivity activity) override;
    Result<DevicePending> pending(bool stopped) override;
    Result<std::uint64_t> save_data(DeviceStreamWriter& out, bool stopped) override;
    Result<void> quiesce() override;
    Result<void> stop() override;
    Result<void> begin_stop_copy() override;
    Result<void> end_stop_copy() override;
    Result<void> begin_load() override;
    Result<void> load_data(DeviceStreamReader& in, std::uint64_t len) override;
    Result<void> end_load() override;
    Result<void> run(DeviceActivity to) override;

private:
    void end_session() override;
    Result<void> leave(DeviceActivity to) override;
    Result<std::uint32_t> state();
    Result<void> set_state(std::uint32_t value, bool begins_session);
    [[nodiscard]] std::uint32_t state_of(DeviceActivity activity) const noexcept;

    bool pre_copy_;
    bool p2p_;         // has the P2P quiescent states
    int data_fd_ = -1; // of the session
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
        end_session();
        data_fd_ = state.data_fd;
    }
    return {};
}

void StatesProtocol::end_session() {
    if (data_fd_ >= 0) {
        calls_.close(std::exchange(data_fd_, -1));
    }
}

/* Outside of a session. */
std::uint32_t StatesProtocol::state_of(DeviceActivity activity) const noexcept {
    if (activity == DeviceActivity::stopped) {
        return VFIO_DEVICE_STATE_STOP;
    }
    return activity == DeviceActivity::quiesced && p2p_ ? VFIO_DEVICE_STATE_RUNNING_P2P
                                                        : VFIO_DEVICE_STATE_RUNNING;
}

Result<DeviceActivity> StatesProtocol::activity() {
    return state().and_then([](std::uint32_t now) -> Result<DeviceActivity> {
        switch (now) {
        case VFIO_DEVICE_STATE_RUNNING:
            return DeviceActivity::running;
        case VFIO_DEVICE_STATE_RUNNING_P2P:
            return DeviceActivity::quiesced;
        case VFIO_DEVICE_STATE_STOP:
            return DeviceActivity::stopped;
        default:
            return tl::unexpected("the device is in the migration state " + name(now) +
                                  ", neither RUNNING nor STOP");
        }
    });
}

Result<void> StatesProtocol::begin_pre_copy(DeviceActivity activity) {
    if (!pre_copy_) {
        return {};
    }
    return set_state(activity == DeviceActivity::quiesced ? VFIO_DEVICE_STATE_PRE_COPY_P2P
                                                          : VFIO_DEVICE_STATE_PRE_COPY,
                     true);
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

Result<void> StatesProtocol::quiesce() {
    if (!p2p_) {
        return {};
    }
    return set_state(data_fd_ >= 0 ? VFIO_DEVICE_STATE_PRE_COPY_P2P : VFIO_DEVICE_STATE_RUNNING_P2P,
                     false);
}

Result<void> StatesProtocol::stop() {
    // In a session, PRE_COPY to STOP would end it. That to STOP_COPY keeps its fd.
    return set_state(data_fd_ >= 0 ? VFIO_DEVICE_STATE_STOP_COPY : VFIO_DEVICE_STATE_STOP, false);
}

Result<void> StatesProtocol::begin_stop_copy() {
    return data_fd_ >= 0 ? Result<void>{} : set_state(VFIO_DEVICE_STATE_STOP_COPY, true);
}

Result<void> StatesProtocol::end_stop_copy() {
    return set_state(VFIO_DEVICE_STATE_STOP, false).map([this] { end_session(); });
}

Result<void> StatesProtocol::begin_load() {
    return set_state(VFIO_DEVICE_STATE_RESUMING, true);
}

Result<void> StatesProtocol::load_data(DeviceStreamReader& in, std::uint64_t len) {
    const auto bytes = buffer(static_cast<std::size_t>(len));
    return in.payload(bytes).and_then(
        [&] { return DeviceFd(calls_, data_fd_).write(bytes, "writing device data"); });
}

Result<void> StatesProtocol::end_load() {
    return set_state(VFIO_DEVICE_STATE_STOP, false).map([this] { end_session(); });
}

Result<void> StatesProtocol::run(DeviceActivity to) {
    return set_state(state_of(to), false);
}

Result<void> StatesProtocol::leave(DeviceActivity to) {
    return state().and_then([&](std::uint32_t now) -> Result<void> {
        // RESUMING can be given up by a reset only: leaving it would load what has come.
        if (now == VFIO_DEVICE_STATE_ERROR || now == VFIO_DEVICE_STATE_RESUMING) {
            return tl::unexpected("the device is in the migration state " + name(now));
        }
        return set_state(state_of(to), false);
    });
}

} // namespace

Result<std::unique_ptr<DeviceStateProtocol>> open_states(int device_fd, const DeviceCalls& calls) {
    vfio_device_feature_migration migration{};
    const int result = feature(DeviceFd(calls, device_fd),
                               VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION, migration);
    // What drivers say of a feature, or of an ioctl, that they do not know.
    if (result == -ENOTTY || result == -EOPNOTSUPP || result == -EINVAL) {
        return nullptr;
    }
    if (result < 0) {
        return failed("VFIO_DEVICE_FEATURE_MIGRATION", result);
    }
    if ((migration.flags & VFIO_MIGRATION_STOP_COPY) == 0) {
        return tl::unexpected(std::string("the device has migration states without STOP_COPY"));
    }
    return std::make_unique<StatesProtocol>(device_fd, calls, migration.flags);
}

} // namespace pvdirty
