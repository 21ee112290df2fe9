// SPDX-License-Identifier: MIT
/* The stream of a device's state, by bytes that nobody vouches for. */
#include <catch2/catch.hpp>

#include "device/kinds.hpp"
#include "device_state/record.hpp"

using Catch::Matchers::Contains;
using pvdirty::record_header_bytes;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr std::size_t states_kind = 4;

struct Record {
    std::size_t at = 0;
    std::size_t size = 0; // with its header
};

std::uint64_t number(const Bytes& bytes, std::size_t at) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 8; i++) {
        value = value << 8 | bytes[at + i];
    }
    return value;
}

void set_number(Bytes& bytes, std::size_t at, std::uint64_t value) {
    for (std::size_t i = 0; i < 8; i++) {
        bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * (7 - i)));
    }
}

std::vector<Record> records(const Bytes& bytes) {
    std::vector<Record> found;
    for (std::size_t at = 0; at < bytes.size(); at += found.back().size) {
        found.push_back({at, record_header_bytes + number(bytes, at + 16)});
    }
    return found;
}

Bytes saved(const DeviceKind& kind) {
    const auto device = kind.make();
    device->fill(kind.content);
    const auto state = open(*device);
    MemoryStream stream;
    REQUIRE(save_all(*state, stream));
    return stream.bytes();
}

/* The reason, or "taken"; and the device is as documented either way. */
std::string load(const DeviceKind& kind, Bytes bytes, pvdirty::DeviceStateLimits limits = {}) {
    const auto device = kind.make();
    auto state = std::move(*pvdirty::DeviceState::open(7, device->calls(), limits));
    MemoryStream stream(std::move(bytes));
    const Done done = load_all(*state, stream);
    CHECK_FALSE(device->runs());
    CHECK(device->violations.empty());
    if (done) {
        CHECK(device->taken() == kind.loaded());
        return "taken";
    }
    CHECK(device->rests());
    CHECK(device->resets == 1);
    CHECK(done.error().find('\n') == std::string::npos);
    return done.error();
}

/* Without one record, the later ones numbered as if it had not been. */
Bytes without(Bytes bytes, std::size_t index) {
    const auto all = records(bytes);
    for (std::size_t i = index + 1; i < all.size(); i++) {
        set_number(bytes, all[i].at + 8, i - 1);
    }
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(all[index].at);
    bytes.erase(at, at + static_cast<std::ptrdiff_t>(all[index].size));
    return bytes;
}

} // namespace

TEST_CASE("device stream: the layout", "[device-stream]") {
    StatesDevice device(StatesTraits{});
    device.fill({{{0xaa}}, {{0xbb, 0xcc}}});
    const auto state = open(device);
    MemoryStream stream;
    REQUIRE(save_all(*state, stream, {0xdd}, 1));
    const auto header = [](std::uint8_t flag, std::uint8_t sequence, std::uint8_t length) {
        return Bytes{'P', 'V', 'D', 'V',      0, 0, 0, flag, 0, 0, 0, 0,
                     0,   0,   0,   sequence, 0, 0, 0, 0,    0, 0, 0, length};
    };
    CHECK(stream.bytes() == joined({header(1, 0, 8),
                                    {0, 0, 0, 1, 0, 0, 0, 2},
                                    header(4, 1, 0),
                                    header(3, 2, 1),
                                    {0xaa},
                                    header(4, 3, 0),
                                    header(2, 4, 1),
                                    {0xdd},
                                    header(3, 5, 2),
                                    {0xbb, 0xcc},
                                    header(5, 6, 16),
                                    {0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3}}));
}

TEST_CASE("device stream: one that is cut anywhere is refused", "[device-stream]") {
    const DeviceKind& kind = device_kinds()[GENERATE(1U, 3U, 4U)];
    CAPTURE(kind.name);
    const Bytes whole = saved(kind);
    CHECK(load(kind, whole) == "taken");
    for (std::size_t len = 0; len < whole.size(); len++) {
        const auto all = records(whole);
        const bool header = std::any_of(all.begin(), all.end(), [&](const Record& record) {
            return len >= record.at && len < record.at + record_header_bytes;
        });
        if (!header && len % 61 != 0 && len + 20 < whole.size()) {
            continue; // within a payload
        }
        CAPTURE(len);
        CHECK_THAT(
            load(kind, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(len))),
            Contains("the stream ends"));
    }
}

TEST_CASE("device stream: any byte of a header may be anything", "[device-stream]") {
    const DeviceKind& kind = device_kinds()[GENERATE(3U, 4U)];
    const Bytes whole = saved(kind);
    for (const Record& record : records(whole)) {
        for (std::size_t i = 0; i < record_header_bytes; i++) {
            for (const unsigned flip : {1U, 2U, 4U, 7U, 0x80U, 0xffU}) {
                Bytes bytes = whole;
                bytes[record.at + i] ^= static_cast<std::uint8_t>(flip);
                CAPTURE(record.at, i, flip);
                CHECK(load(kind, bytes) != "taken");
            }
        }
    }
}

TEST_CASE("device stream: records that are lost, repeated or in another order are refused",
          "[device-stream]") {
    const DeviceKind& kind = device_kinds()[GENERATE(3U, 4U)];
    const Bytes whole = saved(kind);
    const auto all = records(whole);
    const auto take = [&](Bytes& bytes, const Record& record) {
        const auto at = whole.begin() + static_cast<std::ptrdiff_t>(record.at);
        bytes.insert(bytes.end(), at, at + static_cast<std::ptrdiff_t>(record.size));
    };
    for (std::size_t i = 0; i < all.size(); i++) {
        CAPTURE(i);
        Bytes lost;
        Bytes repeated;
        Bytes swapped;
        for (std::size_t k = 0; k < all.size(); k++) {
            if (k != i) {
                take(lost, all[k]);
            }
            take(repeated, all[k]);
            if (k == i) {
                take(repeated, all[k]);
            }
            take(swapped, all[k == i && i + 1 < all.size() ? i + 1 : k == i + 1 ? i : k]);
        }
        CHECK(load(kind, lost) != "taken");
        if (i + 1 < all.size()) { // what follows the end is not ours to read
            CHECK(load(kind, repeated) != "taken");
            CHECK(load(kind, swapped) != "taken");
        }
    }
    CHECK_THAT(load(kind, without(whole, 0)), Contains("record 0 is not the setup"));
}

TEST_CASE("device stream: the end counts what has come", "[device-stream]") {
    const DeviceKind& kind = device_kinds()[GENERATE(3U, 4U)];
    const Bytes whole = saved(kind);
    const auto all = records(whole);
    unsigned data = 0;
    for (std::size_t i = 0; i < all.size(); i++) {
        if (number(whole, all[i].at) == static_cast<std::uint64_t>(pvdirty::RecordFlag::data)) {
            data++;
            CHECK_THAT(load(kind, without(whole, i)), Contains("(end) speaks of"));
        }
    }
    CHECK(data >= 2);
}

TEST_CASE("device stream: what is too large is refused before it is read", "[device-stream]") {
    const DeviceKind& kind = device_kinds()[GENERATE(3U, 4U)];
    const Bytes whole = saved(kind);
    for (const Record& record : records(whole)) {
        for (const std::uint64_t len :
             {std::uint64_t{1} << 20 | 1, std::uint64_t{1} << 41, UINT64_MAX - 23, UINT64_MAX}) {
            Bytes bytes = whole;
            set_number(bytes, record.at + 16, len);
            // No byte of it is there: a reader that trusted the length would say that.
            bytes.resize(record.at + record_header_bytes);
            CAPTURE(record.at, len);
            const std::string why = load(kind, bytes);
            CHECK_THAT(why, Contains("bytes, not") || Contains("this one takes"));
        }
    }
    const std::size_t all = joined(kind.content.all()).size();
    CHECK(load(kind, whole, {all}) == "taken");
    CHECK_THAT(load(kind, whole, {all - 1}), Contains("(data) has"));
}

TEST_CASE("device stream: versions, protocols and misplaced records", "[device-stream]") {
    const DeviceKind& kind = device_kinds()[states_kind];
    Bytes bytes = saved(kind);
    const auto all = records(bytes);
    std::string words;
    SECTION("another version") {
        bytes[record_header_bytes + 3] = 2;
        words = "the stream of device state has version 2, this host reads 1";
    }
    SECTION("another protocol") {
        bytes = saved(device_kinds()[0]);
        words = "the source's device has a migration region, this one has migration states";
    }
    SECTION("an unknown protocol") {
        bytes[record_header_bytes + 7] = 9;
        words = "the source's device has an unknown protocol";
    }
    SECTION("an unknown record") {
        bytes[all[1].at + 7] = 6;
        words = "record 1 has no flag of device state";
    }
    SECTION("another record's number") {
        bytes[all[1].at + 15] = 3;
        words = "record 1 says that it is record 3";
    }
    SECTION("data of no bytes") {
        set_number(bytes, all[2].at + 16, 0);
        words = "record 2 (data) has 0 bytes, not 1 to 1048576";
    }
    SECTION("a second setup") {
        set_number(bytes, all[1].at, 0x5056445600000001);
        words = "record 1 is a second setup";
    }
    SECTION("a config after data") {
        set_number(bytes, all[3].at, 0x5056445600000002);
        words = "record 3 is a config that is not the first of the last part";
    }
    SECTION("a part that ends after the config") {
        std::size_t i = 0;
        while (number(bytes, all[i].at) != 0x5056445600000002) {
            i++;
        }
        set_number(bytes, all[i + 1].at, 0x5056445600000004);
        words = "is the end of a part, and not of the stream";
    }
    CHECK_THAT(load(kind, bytes), Contains(words));
}

TEST_CASE("device stream: what the device finds wrong with its data is an error",
          "[device-stream]") {
    const DeviceKind& kind = device_kinds()[states_kind];
    Bytes bytes = saved(kind);
    // The length that this device keeps in its own data.
    bytes[records(bytes)[2].at + record_header_bytes] ^= 1;
    CHECK_THAT(load(kind, bytes), Contains("migration state STOP failed: Invalid argument"));
}
