// SPDX-License-Identifier: MIT
#include "device/kinds.hpp"

#include <stdexcept>

namespace pvdirty::test {

namespace {

Bytes piece(std::size_t len, std::uint8_t seed) {
    Bytes bytes(len);
    for (std::size_t i = 0; i < len; i++) {
        bytes[i] = static_cast<std::uint8_t>(seed + i * 7 + i / 251);
    }
    return bytes;
}

std::vector<Bytes> pre_copy_pieces() {
    return {piece(8, 1), piece(0x1800, 2)};
}

std::vector<Bytes> stop_copy_pieces() {
    return {piece(0x2345, 3), piece(1, 4), piece(24, 5)};
}

DeviceContent plain() {
    return {pre_copy_pieces(), stop_copy_pieces()};
}

DeviceContent checked() {
    return checked_content(pre_copy_pieces(), stop_copy_pieces());
}

template <class Device, class Arguments>
std::unique_ptr<DeviceModel> with(Arguments arguments) {
    return std::make_unique<Device>(std::move(arguments));
}

} // namespace

const std::vector<DeviceKind>& device_kinds() {
    static const std::vector<DeviceKind> kinds = {
        {"a trapped region",
         [] {
             return with<RegionDevice>(RegionLayout{.areas = {}, .offsets = {32, 0x1000, 40}});
         },
         plain()},
        {"a trapped region that is read by parts",
         [] {
             return with<RegionDevice>(
                 RegionLayout{.areas = {}, .offsets = {0x800}, .max_read = 0x700});
         },
         plain()},
        {"a region that is mapped as a whole",
         [] {
             return with<RegionDevice>(
                 RegionLayout{.mappable = true, .areas = {}, .offsets = {0x1000, 0x1a00}});
         },
         plain()},
        {"a region with three areas and gaps",
         [] {
             return with<RegionDevice>(
                 RegionLayout{.size = 0x8000,
                              .mappable = true,
                              .areas = {{0x4000, 0x1000}, {0x1000, 0x1000}, {0x3000, 0x1000}},
                              .offsets = {0x1000, 0x1ff0, 0x3000, 0x800, 0x4fff, 0x2fff}});
         },
         plain()},
        {"migration states", [] { return with<StatesDevice>(StatesTraits{}); }, checked()},
        {"migration states by small parts",
         [] { return with<StatesDevice>(StatesTraits{.p2p = false, .max_io = 0x3ff}); }, checked()},
        {"migration states like mtty's",
         [] { return with<StatesDevice>(StatesTraits{.says_nomsg = false}); }, checked()},
        {"migration states without pre-copy",
         [] { return with<StatesDevice>(StatesTraits{.pre_copy = false, .knows_size = false}); },
         checked_content({}, stop_copy_pieces()), false},
    };
    return kinds;
}

std::vector<Bytes> DeviceKind::loaded() const {
    const auto device = make();
    return dynamic_cast<const RegionDevice*>(device.get()) != nullptr
               ? content.all()
               : std::vector<Bytes>{joined(content.all())};
}

std::unique_ptr<DeviceState> open(DeviceModel& device) {
    auto state = DeviceState::open(DeviceModel::device_fd, device.calls());
    if (!state) {
        throw std::runtime_error(state.error());
    }
    return std::move(*state);
}

Done save_all(DeviceState& state, MemoryStream& stream, const Bytes& config, unsigned rounds) {
    const ByteSink sink = stream.sink();
    if (auto begun = state.save_setup(sink); !begun) {
        return begun;
    }
    for (unsigned i = 0; i < rounds; i++) {
        if (const auto pending = state.save_pending(); !pending) {
            return tl::unexpected(pending.error());
        }
        if (const auto sent = state.save_iterate(sink); !sent) {
            return tl::unexpected(sent.error());
        }
    }
    return state.stop().and_then([&] { return state.save_complete(sink, config); });
}

Done load_all(DeviceState& state, MemoryStream& stream) {
    const ByteSource source = stream.source();
    for (;;) {
        const auto whole = state.load(source);
        if (!whole) {
            return tl::unexpected(whole.error());
        }
        if (*whole) {
            return {};
        }
    }
}

} // namespace pvdirty::test
