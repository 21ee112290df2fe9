// SPDX-License-Identifier: MIT
/*
 * The migration region of Linux 5.8 to 5.17, as include/uapi/linux/vfio.h documented it then
 * (a8a24f3f6e38): registers at its start, which are never mapped here, and data behind them.
 */
#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "device_state/protocol.hpp"
#include "device_state/record.hpp"
#include "device_state/region_info.hpp"
#include "device_state/uapi.hpp"

namespace pvdirty {

namespace {

/* An area of the region that is mapped for as long as this lives. */
class Mapping {
public:
    Mapping(const DeviceCalls& calls, RegionArea area, std::uint8_t* address) noexcept
        : calls_(&calls), area_(area), address_(address) {}
    Mapping(Mapping&& other) noexcept
        : calls_(other.calls_), area_(other.area_),
          address_(std::exchange(other.address_, nullptr)) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    Mapping& operator=(Mapping&&) = delete;
    ~Mapping() {
        if (address_ != nullptr) {
            calls_->munmap(address_, area_.size);
        }
    }

    [[nodiscard]] std::uint64_t begin() const noexcept { return area_.offset; }
    [[nodiscard]] std::uint64_t end() const noexcept { return area_.offset + area_.size; }
    [[nodiscard]] std::uint8_t* at(std::uint64_t offset) const noexcept {
        return address_ + (offset - area_.offset);
    }

private:
    const DeviceCalls* calls_;
    RegionArea area_;
    std::uint8_t* address_;
};

/* A part of the data that is mapped as a whole, or not at all. */
struct Piece {
    std::uint64_t offset = 0; // of the region
    std::size_t len = 0;
    std::uint8_t* address = nullptr; // nullptr: trapped
};

class RegionProtocol final : public DeviceStateProtocol {
public:
    RegionProtocol(int fd, DeviceCalls calls, RegionInfo info)
        : DeviceStateProtocol(fd, std::move(calls)), info_(std::move(info)) {
        for (const RegionArea& area : info_.areas) {
            // What cannot be mapped is read and written: that always works.
            if (void* address = calls_.mmap(fd, area.size, info_.offset + area.offset)) {
                mappings_.emplace_back(calls_, area, static_cast<std::uint8_t*>(address));
            }
        }
    }

    [[nodiscard]] DeviceProtocol kind() const noexcept override { return DeviceProtocol::region; }

    Result<DeviceActivity> activity() override;
    Result<void> begin_pre_copy(DeviceActivity activity) override;
    Result<DevicePending> pending(bool stopped) override;
    Result<std::uint64_t> save_data(DeviceStreamWriter& out, bool stopped) override;
    Result<void> quiesce() override { return {}; }
    Result<void> stop() override;
    Result<void> begin_stop_copy() override;
    Result<void> end_stop_copy() override;
    Result<void> begin_load() override;
    Result<void> load_data(DeviceStreamReader& in, std::uint64_t len) override;
    Result<void> end_load() override;
    Result<void> run(DeviceActivity to) override;

private:
    void end_session() override { saving_ = false; }
    Result<void> leave(DeviceActivity to) override;
    template <class T>
    Result<T> get(std::size_t offset, const char* name);
    template <class T>
    Result<void> set(std::size_t offset, T value, const char* name);
    Result<std::uint32_t> state();
    Result<void> set_state(std::uint32_t value);
    Result<std::uint64_t> pending_bytes();
    Result<std::uint64_t> data_offset();
    [[nodiscard]] Piece piece(std::uint64_t offset, std::uint64_t len) const noexcept;
    template <class Transfer>
    Result<void> each_piece(std::uint64_t offset, std::uint64_t len, Transfer transfer);

    RegionInfo info_;
    std::vector<Mapping> mappings_; // ascending
    bool saving_ = false;
};

/* Registers are read and written as a whole, in one access. */
template <class T>
Result<T> RegionProtocol::get(std::size_t offset, const char* name) {
    T value{};
    std::int64_t n = -EINTR;
    while (n == -EINTR) {
        n = calls_.pread(device_.number(), &value, sizeof(value), info_.offset + offset);
    }
    if (n == sizeof(value)) {
        return value;
    }
    return failed(std::string("reading ") + name, n < 0 ? n : -EIO);
}

template <class T>
Result<void> RegionProtocol::set(std::size_t offset, T value, const char* name) {
    std::int64_t n = -EINTR;
    while (n == -EINTR) {
        n = calls_.pwrite(device_.number(), &value, sizeof(value), info_.offset + offset);
    }
    if (n == sizeof(value)) {
        return {};
    }
    return failed(std::string("writing ") + name, n < 0 ? n : -EIO);
}

Result<std::uint32_t> RegionProtocol::state() {
    return get<std::uint32_t>(offsetof(uapi::MigrationInfo, device_state), "device_state");
}

/* The bits above are kept. A write that fails leaves any state: the caller settles that. */
Result<void> RegionProtocol::set_state(std::uint32_t value) {
    return state().and_then([&](std::uint32_t now) -> Result<void> {
        if ((now & uapi::region_state_mask) == uapi::region_error) {
            return tl::unexpected(std::string("device_state says that the device has failed"));
        }
        return set(offsetof(uapi::MigrationInfo, device_state),
                   (now & ~uapi::region_state_mask) | value, "device_state");
    });
}

Result<std::uint64_t> RegionProtocol::pending_bytes() {
    return get<std::uint64_t>(offsetof(uapi::MigrationInfo, pending_bytes), "pending_bytes");
}

/* Where data is or goes: the device decides, anew for each transaction. */
Result<std::uint64_t> RegionProtocol::data_offset() {
    auto offset = get<std::uint64_t>(offsetof(uapi::MigrationInfo, data_offset), "data_offset");
    if (offset && (*offset < sizeof(uapi::MigrationInfo) || *offset > info_.size)) {
        return tl::unexpected("the device's data_offset " + std::to_string(*offset) +
                              " is not in the data of its region, which has " +
                              std::to_string(info_.size) + " bytes");
    }
    return offset;
}

Piece RegionProtocol::piece(std::uint64_t offset, std::uint64_t len) const noexcept {
    std::uint8_t* address = nullptr;
    for (const Mapping& mapping : mappings_) {
        if (offset >= mapping.end()) {
            continue;
        }
        if (offset >= mapping.begin()) {
            address = mapping.at(offset);
            len = std::min(len, mapping.end() - offset);
        } else {
            len = std::min(len, mapping.begin() - offset);
        }
        break;
    }
    return {offset, static_cast<std::size_t>(std::min<std::uint64_t>(len, device_chunk_bytes)),
            address};
}

template <class Transfer>
Result<void> RegionProtocol::each_piece(std::uint64_t offset, std::uint64_t len,
                                        Transfer transfer) {
    while (len != 0) {
        const Piece next = piece(offset, len);
        if (auto transferred = transfer(next); !transferred) {
            return transferred;
        }
        offset += next.len;
        len -= next.len;
    }
    return {};
}

Result<DeviceActivity> RegionProtocol::activity() {
    return state().and_then([](std::uint32_t now) -> Result<DeviceActivity> {
        now &= uapi::region_state_mask;
        if (now != uapi::region_running && now != uapi::region_stopped) {
            return tl::unexpected("the device is in the state " + std::to_string(now) +
                                  ", neither running nor stopped");
        }
        return now == uapi::region_running ? DeviceActivity::running : DeviceActivity::stopped;
    });
}

Result<void> RegionProtocol::begin_pre_copy(DeviceActivity /*activity*/) {
    saving_ = true;
    return set_state(uapi::region_running | uapi::region_saving);
}

Result<DevicePending> RegionProtocol::pending(bool stopped) {
    if (!saving_) {
        return DevicePending{};
    }
    return pending_bytes().map([stopped](std::uint64_t bytes) {
        return stopped ? DevicePending{0, bytes} : DevicePending{bytes, std::nullopt};
    });
}

Result<std::uint64_t> RegionProtocol::save_data(DeviceStreamWriter& out, bool stopped) {
    // The order is the protocol: pending_bytes ends the transaction before and begins this one,
    // data_offset has the device fill its buffer, data_size is valid from then on.
    auto pending = pending_bytes();
    if (!pending || *pending == 0) {
        return pending;
    }
    auto offset = data_offset();
    if (!offset) {
        return offset;
    }
    auto size = get<std::uint64_t>(offsetof(uapi::MigrationInfo, data_size), "data_size");
    if (!size) {
        return size;
    }
    if (*size == 0 && stopped) {
        return tl::unexpected("the device says that " + std::to_string(*pending) +
                              " bytes are pending, and gives none");
    }
    if (*size > info_.size - *offset) {
        return tl::unexpected("the device's data, " + std::to_string(*size) + " bytes at " +
                              std::to_string(*offset) + ", is not within its region, which has " +
                              std::to_string(info_.size) + " bytes");
    }
    if (*size == 0) {
        return 0;
    }
    // One record for one transaction: the destination's device has to get it as one.
    auto sent = out.data(*size).and_then([&] {
        return each_piece(*offset, *size, [&](const Piece& piece) -> Result<void> {
            if (piece.address != nullptr) {
                return out.payload({piece.address, piece.len});
            }
            const auto bytes = buffer(piece.len);
            return device_.pread(bytes, info_.offset + piece.offset, "reading device data")
                .and_then([&] { return out.payload(bytes); });
        });
    });
    return sent.map([&] { return *size; });
}

Result<void> RegionProtocol::stop() {
    return set_state(saving_ ? uapi::region_saving : uapi::region_stopped);
}

Result<void> RegionProtocol::begin_stop_copy() {
    if (saving_) {
        return {}; // since stop()
    }
    saving_ = true;
    return set_state(uapi::region_saving);
}

Result<void> RegionProtocol::end_stop_copy() {
    saving_ = false;
    return set_state(uapi::region_stopped);
}

Result<void> RegionProtocol::begin_load() {
    return set_state(uapi::region_resuming);
}

Result<void> RegionProtocol::load_data(DeviceStreamReader& in, std::uint64_t len) {
    const auto offset = data_offset();
    if (!offset) {
        return tl::unexpected(offset.error());
    }
    if (len > info_.size - *offset) {
        return tl::unexpected("the source's device gave " + std::to_string(len) +
                              " bytes at once, this one takes " +
                              std::to_string(info_.size - *offset));
    }
    auto written = each_piece(*offset, len, [&](const Piece& piece) -> Result<void> {
        if (piece.address != nullptr) {
            return in.payload({piece.address, piece.len});
        }
        const auto bytes = buffer(piece.len);
        return in.payload(bytes).and_then([&] {
            return device_.pwrite(bytes, info_.offset + piece.offset, "writing device data");
        });
    });
    return written.and_then(
        [&] { return set(offsetof(uapi::MigrationInfo, data_size), len, "data_size"); });
}

/* The device has taken all at the last data_size, and leaves this state only to run. */
Result<void> RegionProtocol::end_load() {
    return state().and_then([](std::uint32_t now) -> Result<void> {
        if ((now & uapi::region_state_mask) != uapi::region_resuming) {
            return tl::unexpected("the device is in the state " +
                                  std::to_string(now & uapi::region_state_mask) +
                                  " after its data, not resuming");
        }
        return {};
    });
}

Result<void> RegionProtocol::run(DeviceActivity /*to*/) {
    return set_state(uapi::region_running);
}

Result<void> RegionProtocol::leave(DeviceActivity to) {
    // RESUMING can be given up by a reset only, and pre-copy is left through stop-and-copy.
    return state().and_then([&](std::uint32_t now) -> Result<void> {
        if ((now & uapi::region_resuming) != 0) {
            return tl::unexpected(std::string("the device has taken data"));
        }
        if (to != DeviceActivity::stopped) {
            return set_state(uapi::region_running);
        }
        const bool saves = (now & uapi::region_saving) != 0;
        return (saves ? set_state(uapi::region_saving) : Result<void>{}).and_then([this] {
            return set_state(uapi::region_stopped);
        });
    });
}

} // namespace

Result<std::unique_ptr<DeviceStateProtocol>> open_region(int device_fd, const DeviceCalls& calls) {
    auto info = find_migration_region(DeviceFd(calls, device_fd));
    if (!info) {
        return tl::unexpected(info.error());
    }
    if (!*info) {
        return nullptr;
    }
    return std::make_unique<RegionProtocol>(device_fd, calls, std::move(**info));
}

} // namespace pvdirty
