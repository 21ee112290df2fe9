// SPDX-License-Identifier: MIT
#include "device_state/record.hpp"

#include <array>
#include <concepts>

namespace pvdirty {

namespace {

template <std::unsigned_integral T>
void put(std::uint8_t* out, T value) noexcept {
    for (std::size_t i = 0; i < sizeof(T); i++) {
        out[i] = static_cast<std::uint8_t>(value >> (8 * (sizeof(T) - 1 - i)));
    }
}

template <std::unsigned_integral T>
T get(const std::uint8_t* in) noexcept {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); i++) {
        value = value << 8 | in[i];
    }
    return static_cast<T>(value);
}

const char* name(RecordFlag flag) noexcept {
    switch (flag) {
    case RecordFlag::setup:
        return "setup";
    case RecordFlag::config:
        return "config";
    case RecordFlag::data:
        return "data";
    case RecordFlag::end_of_state:
        return "end of state";
    case RecordFlag::end:
        return "end";
    }
    return nullptr;
}

const char* name(std::uint32_t protocol) noexcept {
    switch (static_cast<DeviceProtocol>(protocol)) {
    case DeviceProtocol::region:
        return "a migration region";
    case DeviceProtocol::states:
        return "migration states";
    }
    return "an unknown protocol";
}

/* What is wrong with a record, and which one. */
tl::unexpected<std::string> refuse(std::uint64_t sequence, const std::string& why) {
    return tl::unexpected("the stream's record " + std::to_string(sequence) + " " + why);
}

} // namespace

Result<void> DeviceStreamWriter::header(RecordFlag flag, std::uint64_t len) {
    std::array<std::uint8_t, record_header_bytes> bytes{};
    put(bytes.data(), static_cast<std::uint64_t>(flag));
    put(bytes.data() + 8, sequence_++);
    put(bytes.data() + 16, len);
    return payload(bytes);
}

Result<void> DeviceStreamWriter::payload(std::span<const std::uint8_t> bytes) {
    if (!(*out_)(bytes)) {
        return tl::unexpected(std::string("the stream takes no more device state"));
    }
    return {};
}

Result<void> DeviceStreamWriter::setup(DeviceProtocol protocol) {
    std::array<std::uint8_t, setup_payload_bytes> bytes{};
    put(bytes.data(), device_stream_version);
    put(bytes.data() + 4, static_cast<std::uint32_t>(protocol));
    return header(RecordFlag::setup, bytes.size()).and_then([&] { return payload(bytes); });
}

Result<void> DeviceStreamWriter::config(std::span<const std::uint8_t> bytes) {
    return header(RecordFlag::config, bytes.size()).and_then([&] { return payload(bytes); });
}

Result<void> DeviceStreamWriter::data(std::uint64_t len) {
    data_records_++;
    data_bytes_ += len;
    return header(RecordFlag::data, len);
}

Result<void> DeviceStreamWriter::end_of_state() {
    return header(RecordFlag::end_of_state, 0);
}

Result<void> DeviceStreamWriter::end() {
    std::array<std::uint8_t, end_payload_bytes> bytes{};
    put(bytes.data(), data_records_);
    put(bytes.data() + 8, data_bytes_);
    return header(RecordFlag::end, bytes.size()).and_then([&] { return payload(bytes); });
}

Result<void> DeviceStreamReader::payload(std::span<std::uint8_t> bytes) {
    if (!(*in_)(bytes)) {
        return tl::unexpected("the stream ends within its record " + std::to_string(sequence_));
    }
    return {};
}

Result<DeviceStreamReader::Record> DeviceStreamReader::next() {
    std::array<std::uint8_t, record_header_bytes> bytes{};
    if (!(*in_)(bytes)) {
        return tl::unexpected("the stream ends before its record " + std::to_string(sequence_));
    }
    const auto flag = static_cast<RecordFlag>(get<std::uint64_t>(bytes.data()));
    const auto sequence = get<std::uint64_t>(bytes.data() + 8);
    const auto len = get<std::uint64_t>(bytes.data() + 16);
    if (name(flag) == nullptr) {
        return refuse(sequence_, "has no flag of device state");
    }
    if (sequence != sequence_) {
        return refuse(sequence_, "says that it is record " + std::to_string(sequence));
    }
    auto checked = may_come(flag, len);
    if (checked && flag == RecordFlag::setup) {
        checked = check_setup();
    } else if (checked && flag == RecordFlag::end) {
        checked = check_end();
    }
    if (!checked) {
        return tl::unexpected(checked.error());
    }
    begun_ = true;
    first_ = flag == RecordFlag::end_of_state;
    if (flag == RecordFlag::config) {
        last_call_ = true;
    } else if (flag == RecordFlag::data) {
        data_records_++;
        data_bytes_ += len;
    }
    sequence_++;
    return Record{flag, len};
}

/* Whether the flag is due, and its length within bounds. */
Result<void> DeviceStreamReader::may_come(RecordFlag flag, std::uint64_t len) const {
    if (begun_ == (flag == RecordFlag::setup)) {
        return refuse(sequence_, begun_ ? "is a second setup" : "is not the setup");
    }
    std::uint64_t least = 0;
    std::uint64_t most = 0;
    switch (flag) {
    case RecordFlag::setup:
        least = most = setup_payload_bytes;
        break;
    case RecordFlag::config:
        if (!first_ || last_call_) {
            return refuse(sequence_, "is a config that is not the first of the last part");
        }
        least = 1;
        most = max_device_config_bytes;
        break;
    case RecordFlag::data:
        least = 1;
        most = limits_.data_bytes - data_bytes_;
        if (protocol_ == DeviceProtocol::states && most > device_chunk_bytes) {
            most = device_chunk_bytes;
        }
        break;
    case RecordFlag::end_of_state:
        if (last_call_) {
            return refuse(sequence_, "is the end of a part, and not of the stream");
        }
        break;
    case RecordFlag::end:
        least = most = end_payload_bytes;
        break;
    }
    if (len < least || len > most) {
        return refuse(sequence_, std::string("(") + name(flag) + ") has " + std::to_string(len) +
                                     " bytes, not " + std::to_string(least) +
                                     (least == most ? "" : " to " + std::to_string(most)));
    }
    return {};
}

Result<void> DeviceStreamReader::check_setup() {
    std::array<std::uint8_t, setup_payload_bytes> bytes{};
    if (auto taken = payload(bytes); !taken) {
        return taken;
    }
    if (const auto version = get<std::uint32_t>(bytes.data()); version != device_stream_version) {
        return tl::unexpected("the stream of device state has version " + std::to_string(version) +
                              ", this host reads " + std::to_string(device_stream_version));
    }
    if (const auto protocol = get<std::uint32_t>(bytes.data() + 4);
        protocol != static_cast<std::uint32_t>(protocol_)) {
        return tl::unexpected(std::string("the source's device has ") + name(protocol) +
                              ", this one has " + name(static_cast<std::uint32_t>(protocol_)));
    }
    return {};
}

Result<void> DeviceStreamReader::check_end() {
    std::array<std::uint8_t, end_payload_bytes> bytes{};
    if (auto taken = payload(bytes); !taken) {
        return taken;
    }
    const auto records = get<std::uint64_t>(bytes.data());
    const auto data = get<std::uint64_t>(bytes.data() + 8);
    if (records != data_records_ || data != data_bytes_) {
        return refuse(sequence_, "(end) speaks of " + std::to_string(data) + " bytes in " +
                                     std::to_string(records) + " records; " +
                                     std::to_string(data_bytes_) + " in " +
                                     std::to_string(data_records_) + " came");
    }
    return {};
}

} // namespace pvdirty
