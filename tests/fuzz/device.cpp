// SPDX-License-Identifier: MIT
/*
 * Fuzz target: the stream of a VFIO device's own state: a good one that was spoiled, or arbitrary
 * bytes, loaded into a model of a device that may fail at any access.
 */
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "device/kinds.hpp"
#include "device_state/record.hpp"
#include "fuzz/choices.hpp"
#include "fuzz/require.hpp"

namespace pvdirty::fuzz {

namespace {

using test::Bytes;
using test::DeviceKind;
using test::DeviceModel;
using test::MemoryStream;

/* What a device of this kind sends, in parts of any number. */
Bytes save(const DeviceKind& kind, InputChoices& choices) {
    const auto device = kind.make();
    device->fill(kind.content);
    const auto state = test::open(*device);
    MemoryStream stream;
    const auto rounds = static_cast<unsigned>(choices.below(4));
    PVDIRTY_REQUIRE(test::save_all(*state, stream, {1, 2, 3}, rounds));
    return stream.bytes();
}

/* Where a header is, by the lengths of the good stream. */
std::size_t any_header(const Bytes& bytes, InputChoices& choices) {
    std::vector<std::size_t> headers;
    for (std::size_t at = 0; at < bytes.size() - record_header_bytes;) {
        headers.push_back(at);
        std::size_t len = 0;
        for (std::size_t i = 16; i < record_header_bytes; i++) {
            len = len << 8 | bytes[at + i];
        }
        at += record_header_bytes + len;
    }
    return choices.of(headers);
}

/* Bytes changed, left out, or put in; half of them in a header, which is where they matter. */
void spoil(Bytes& bytes, InputChoices& choices) {
    const Bytes good = bytes;
    for (std::uint64_t i = choices.below(4); i > 0 && !bytes.empty(); i--) {
        std::size_t at = choices.below(2) == 0
                             ? choices.below(bytes.size())
                             : any_header(good, choices) + choices.below(record_header_bytes);
        at = std::min(at, bytes.size() - 1);
        const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        switch (choices.below(4)) {
        case 0:
            bytes.resize(at);
            break;
        case 1:
            bytes.erase(place);
            break;
        case 2: {
            const Bytes more = choices.bytes(choices.below(30));
            bytes.insert(place, more.begin(), more.end());
            break;
        }
        default:
            bytes[at] = static_cast<std::uint8_t>(choices.below(256));
        }
    }
}

/* Loads until the end or an error, which is one line. */
void load(DeviceModel& device, Bytes bytes, InputChoices& choices) {
    // Small enough that a good stream may be too much, too.
    auto state = std::move(*DeviceState::open(DeviceModel::device_fd, device.calls(), {40000}));
    const bool faulty = choices.chance(3);
    if (faulty) {
        device.faults.plan(test::Fault::fails, choices.below(60), choices.below(2) != 0);
    }
    MemoryStream stream(std::move(bytes));
    for (;;) {
        const auto whole = state->load(stream.source());
        PVDIRTY_REQUIRE(!device.runs() || faulty);
        if (!whole) {
            PVDIRTY_REQUIRE(!whole.error().empty());
            PVDIRTY_REQUIRE(whole.error().find('\n') == std::string::npos);
            PVDIRTY_REQUIRE(device.rests() || faulty);
            PVDIRTY_REQUIRE(state->config().empty());
            break;
        }
        PVDIRTY_REQUIRE(test::joined(device.taken()).size() <= 40000);
        if (*whole) {
            break;
        }
    }
    device.faults.none();
    PVDIRTY_REQUIRE(state->cleanup() && !device.runs());
    state.reset();
    PVDIRTY_REQUIRE(device.held() == 0);
    PVDIRTY_REQUIRE(device.violations.empty());
}

void migrate(InputChoices& choices) {
    const std::vector<DeviceKind>& kinds = test::device_kinds();
    const DeviceKind& kind = kinds[choices.below(kinds.size())];
    const DeviceKind& other = choices.chance(4) ? kinds[choices.below(kinds.size())] : kind;
    const auto device = kind.make();
    Bytes bytes;
    if (choices.chance(3)) {
        bytes = choices.bytes(choices.below(200));
    } else {
        bytes = save(other, choices);
        spoil(bytes, choices);
    }
    load(*device, std::move(bytes), choices);
}

} // namespace

} // namespace pvdirty::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    pvdirty::fuzz::InputChoices choices(data, size);
    pvdirty::fuzz::migrate(choices);
    return 0;
}
