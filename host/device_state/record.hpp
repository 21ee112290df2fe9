// SPDX-License-Identifier: MIT
/** The records of a stream of device state: see FORMAT.md. */
#ifndef PVDIRTY_DEVICE_STATE_RECORD_HPP
#define PVDIRTY_DEVICE_STATE_RECORD_HPP

#include <cstdint>
#include <span>
#include <string>

#include "device_state/protocol.hpp"

namespace pvdirty {

/** The flag of a record: a signature, and what it is. */
enum class RecordFlag : std::uint64_t {
    setup = 0x5056'4456'0000'0001, // "PVDV"
    config = 0x5056'4456'0000'0002,
    data = 0x5056'4456'0000'0003,
    end_of_state = 0x5056'4456'0000'0004,
    end = 0x5056'4456'0000'0005,
};

inline constexpr std::uint32_t device_stream_version = 1;
/** flag, sequence number and length of the payload; big-endian, like all numbers. */
inline constexpr std::size_t record_header_bytes = 24;
inline constexpr std::size_t setup_payload_bytes = 8;
inline constexpr std::size_t end_payload_bytes = 16;

/** Writes the records of one stream, in order, to the sink of the moment. */
class DeviceStreamWriter {
public:
    /** Where the next records go. The sink must live until the last of them. */
    void to(const ByteSink& out) noexcept { out_ = &out; }

    Result<void> setup(DeviceProtocol protocol);
    Result<void> config(std::span<const std::uint8_t> bytes);
    /** A record of `len` bytes, not 0, which payload() brings after it. */
    Result<void> data(std::uint64_t len);
    Result<void> payload(std::span<const std::uint8_t> bytes);
    Result<void> end_of_state();
    Result<void> end();

    [[nodiscard]] std::uint64_t data_bytes() const noexcept { return data_bytes_; }

private:
    Result<void> header(RecordFlag flag, std::uint64_t len);

    const ByteSink* out_ = nullptr;
    std::uint64_t sequence_ = 0;
    std::uint64_t data_records_ = 0;
    std::uint64_t data_bytes_ = 0;
};

/** Reads them, and refuses what a writer does not write. */
class DeviceStreamReader {
public:
    DeviceStreamReader(DeviceProtocol protocol, DeviceStateLimits limits) noexcept
        : protocol_(protocol), limits_(limits) {}

    void from(const ByteSource& in) noexcept { in_ = &in; }

    struct Record {
        RecordFlag flag;
        std::uint64_t len; /**< data and config: bytes that payload() must take now */
    };
    /** The next record, if it may come here; payloads but those of data and config are checked. */
    Result<Record> next();
    Result<void> payload(std::span<std::uint8_t> bytes);

private:
    [[nodiscard]] Result<void> may_come(RecordFlag flag, std::uint64_t len) const;
    Result<void> check_setup();
    Result<void> check_end();

    DeviceProtocol protocol_;
    DeviceStateLimits limits_;
    const ByteSource* in_ = nullptr;
    std::uint64_t sequence_ = 0;
    std::uint64_t data_records_ = 0;
    std::uint64_t data_bytes_ = 0;
    bool begun_ = false;     // after setup
    bool first_ = true;      // of what one call wrote
    bool last_call_ = false; // config has come: the end must, in the same call
};

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_RECORD_HPP
