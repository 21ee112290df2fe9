// SPDX-License-Identifier: MIT
/* The record that lets a destination refuse before the RAM is sent. */
#include "pvdirty/stream.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "log/word.hpp"

namespace pvdirty {

namespace {

constexpr std::uint32_t record_magic = 0x53445650; // "PVDS"
constexpr std::uint16_t record_version = 2;

/* Layout of the record, little-endian. */
struct Record {
    std::uint32_t magic;
    std::uint16_t version;
    std::uint16_t length;
    std::uint32_t features; // in use by the guest, of all ports
    std::uint32_t ports;
    std::uint16_t wire_version; // that the ports showed the guest
    std::array<std::uint8_t, 14> reserved;
};
static_assert(sizeof(Record) == stream_state_len && offsetof(Record, reserved) == 18);

std::string hex(std::uint32_t value) {
    std::array<char, 11> text{};
    std::snprintf(text.data(), text.size(), "0x%x", value);
    return text.data();
}

tl::unexpected<std::string> refuse(const std::string& why) {
    return tl::unexpected("the stream's pvdirty record " + why);
}

} // namespace

void save_stream(const Domain& domain, std::span<std::uint8_t, stream_state_len> out) noexcept {
    Record record{};
    for (const Port& port : domain.ports()) {
        record.features |= port.capability().features_in_use();
    }
    record.magic = little_endian(record_magic);
    record.version = little_endian(record_version);
    record.length = little_endian(static_cast<std::uint16_t>(sizeof(record)));
    record.features = little_endian(record.features);
    record.ports = little_endian(static_cast<std::uint32_t>(domain.ports().size()));
    record.wire_version = little_endian<std::uint16_t>(PVDIRTY_VERSION);
    std::memcpy(out.data(), &record, sizeof(record));
}

tl::expected<void, std::string> check_stream(const Domain& domain,
                                             std::span<const std::uint8_t> in) {
    Record record{};
    if (in.size() != sizeof(record)) {
        return refuse("has " + std::to_string(in.size()) + " bytes, not " +
                      std::to_string(sizeof(record)));
    }
    std::memcpy(&record, in.data(), sizeof(record));
    if (little_endian(record.magic) != record_magic) {
        return refuse("has no signature");
    }
    if (const unsigned version = little_endian(record.version); version != record_version) {
        return refuse("has version " + std::to_string(version) + ", this host reads " +
                      std::to_string(record_version));
    }
    if (const unsigned length = little_endian(record.length); length != sizeof(record)) {
        return refuse("says that it has " + std::to_string(length) + " bytes, not " +
                      std::to_string(sizeof(record)));
    }
    if (std::any_of(record.reserved.begin(), record.reserved.end(),
                    [](std::uint8_t byte) { return byte != 0; })) {
        return refuse("has reserved bytes that are set");
    }
    // The guest has looked once, and laid out its log for what it saw.
    if (const unsigned wire = little_endian(record.wire_version); wire != PVDIRTY_VERSION) {
        return tl::unexpected("the source's ports speak wire version " + std::to_string(wire) +
                              ", those here " + std::to_string(PVDIRTY_VERSION));
    }
    const std::uint32_t ports = little_endian(record.ports);
    if (const std::size_t here = domain.ports().size(); ports != here) {
        return tl::unexpected("pvdirty ports of the source: " + std::to_string(ports) +
                              ", of this VM: " + std::to_string(here) +
                              "; start it with the same devices");
    }
    std::uint32_t offered = 0;
    for (const Port& port : domain.ports()) {
        offered |= port.capability().host_features();
    }
    if (const std::uint32_t missing = little_endian(record.features) & ~offered; missing != 0) {
        return tl::unexpected("the guest uses features " + hex(missing) +
                              " that the ports here do not offer; start them with the source's "
                              "touch, bitmap and inflight");
    }
    return {};
}

} // namespace pvdirty
