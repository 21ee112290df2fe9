// SPDX-License-Identifier: MIT
/* The domain's record at the head of a stream, by bytes that nobody vouches for. */
#include <catch2/catch.hpp>

#include <array>

#include "pvdirty/stream.hpp"
#include "unit/vm.hpp"

using Catch::Matchers::Contains;
using pvdirty::stream_state_len;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

using Record = std::array<std::uint8_t, stream_state_len>;

Record save(const pvdirty::Domain& domain) {
    Record record{};
    record.fill(0xee);
    pvdirty::save_stream(domain, record);
    return record;
}

/** The reason, or "taken". */
std::string load(const pvdirty::Domain& domain, std::span<const std::uint8_t> record) {
    const auto loaded = pvdirty::check_stream(domain, record);
    return loaded ? "taken" : loaded.error();
}

} // namespace

TEST_CASE("stream: the layout", "[stream]") {
    Vm vm;
    vm.track();
    const Record expected = {'P', 'V', 'D', 'S', 2, 0, stream_state_len, 0, 6, 0, 0, 0,
                             2,   0,   0,   0,   1, 0};
    CHECK(save(vm.domain) == expected);
}

TEST_CASE("stream: features are in use once they are negotiated, on any port", "[stream]") {
    Vm vm;
    vm.rp1.write(offsetof(pvdirty_cap, guest_features), 0xffffffff, 4);
    CHECK(save(vm.domain)[8] == 0);
    vm.rp0.write(offsetof(pvdirty_cap, guest_features), feature_bitmap, 4);
    vm.rp0.write(offsetof(pvdirty_cap, device_status), status_features_ok, 1);
    CHECK(save(vm.domain)[8] == feature_bitmap);
    register_port(vm.rp1, 1, 0, feature_touch);
    CHECK(save(vm.domain)[8] == (feature_bitmap | feature_touch));
}

TEST_CASE("stream: what this VM can take, and what not", "[stream]") {
    Vm source;
    source.track();
    const Record record = save(source.domain);
    Vm same;
    CHECK(load(same.domain, record) == "taken");
    CHECK(load(source.domain, record) == "taken");

    Guest guest({{0, 512}});
    pvdirty::Domain domain(guest.ram, 1);
    CHECK(load(domain, record) == "pvdirty ports of the source: 2, of this VM: 0; start it with "
                                  "the same devices");
    CHECK(load(domain, save(domain)) == "taken");
    CHECK_THAT(load(same.domain, save(domain)), Contains("of the source: 0, of this VM: 2"));
    domain.add_port("rp0", feature_touch);
    domain.add_port("rp1", feature_touch);
    CHECK(load(domain, record) == "the guest uses features 0x6 that the ports here do not offer; "
                                  "start them with the source's touch, bitmap and inflight");
    // The exact check, port by port, is the port's own.
    domain.add_port("rp2", PVDIRTY_FEATURES_ALL);
    source.domain.add_port("rp2", 0);
    CHECK(load(domain, save(source.domain)) == "taken");
}

TEST_CASE("stream: bytes that are refused", "[stream]") {
    Vm vm;
    vm.track();
    Record record = save(vm.domain);
    std::size_t len = record.size();
    std::string words;

    SECTION("too short") {
        len = GENERATE(as<std::size_t>{}, 0, 1, 4, 31);
        words = "bytes, not 32";
    }
    SECTION("signature") {
        record[GENERATE(as<std::size_t>{}, 0, 3)] ^= 1;
        words = "signature";
    }
    SECTION("version") {
        record[4] = 1;
        words = "has version 1, this host reads 2";
    }
    SECTION("length") {
        record[7] = 1;
        words = "288 bytes";
    }
    SECTION("an older wire version") {
        record[16] = 0;
        words = "the source's ports speak wire version 0, those here 1";
    }
    SECTION("a newer one") {
        record[17] = 1;
        words = "wire version 257";
    }
    SECTION("reserved bytes") {
        record[GENERATE(as<std::size_t>{}, 18, 31)] = 1;
        words = "reserved";
    }
    SECTION("features that nobody offers") {
        record[11] = 0x80;
        words = "0x80000000";
    }
    SECTION("ports") {
        record[15] = 1;
        words = "16777218";
    }
    const std::string why = load(vm.domain, std::span(record).first(len));
    CHECK_THAT(why, Contains(words));
    CHECK(why.find('\n') == std::string::npos);
}

TEST_CASE("stream: any byte may be anything, and nothing changes here", "[stream]") {
    Vm vm;
    vm.track();
    const Record good = save(vm.domain);
    for (std::size_t i = 0; i < good.size(); i++) {
        for (unsigned value = 0; value < 256; value++) {
            Record record = good;
            record[i] = static_cast<std::uint8_t>(value);
            // Fewer features in use are no reason to refuse.
            const bool fewer = i == 8 && (value & ~unsigned{PVDIRTY_FEATURES_ALL}) == 0;
            CHECK((load(vm.domain, record) == "taken") == (record == good || fewer));
        }
    }
    CHECK(save(vm.domain) == good);
    CHECK_FALSE(vm.domain.why_incomplete());
}
