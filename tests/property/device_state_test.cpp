// SPDX-License-Identifier: MIT
/*
 * Random devices, migrated by random calls: what arrives is what was there, and an error leaves the
 * device as documented. Libraries that break the protocol, by calls that are bent on their way to
 * the device, are caught by the same properties.
 */
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "device/kinds.hpp"
#include "device_state/record.hpp"
#include "device_state/uapi.hpp"
#include "property/check.hpp"

#include <linux/vfio.h>

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

constexpr std::uint64_t page = 0x1000;

/* Up to n, and small when shrunk. */
std::uint64_t below(std::uint64_t n) {
    return *rc::gen::inRange<std::uint64_t>(0, n);
}

/* Any pages of the region may be mapped; the areas come in any order. */
RegionLayout any_layout() {
    RegionLayout layout;
    const std::uint64_t pages = 2 + below(6);
    layout.size = pages * page;
    layout.mappable = below(3) != 0;
    layout.max_read = below(3) == 0 ? 1 + below(page) : UINT64_MAX;
    layout.offsets.clear();
    layout.areas.clear();
    for (std::uint64_t at = 1; layout.mappable && at < pages; at++) {
        if (below(2) != 0) {
            const std::uint64_t len = 1 + below(std::min<std::uint64_t>(2, pages - at));
            layout.areas.insert(below(2) == 0 ? layout.areas.begin() : layout.areas.end(),
                                Area{at * page, len * page});
            at += len - 1;
        }
    }
    for (std::uint64_t i = 1 + below(4); i > 0; i--) {
        // At pages, as the documentation wants it for mapped data, or anywhere.
        layout.offsets.push_back(below(2) == 0 ? page * (below(pages - 1) + 1)
                                               : 32 + below(layout.size - 64));
    }
    return layout;
}

std::uint64_t room(const RegionLayout& layout) {
    return layout.size - *std::max_element(layout.offsets.begin(), layout.offsets.end());
}

std::vector<Bytes> any_pieces(std::uint64_t most) {
    std::vector<Bytes> pieces(below(5));
    for (Bytes& piece : pieces) {
        piece.resize(1 + below(below(3) == 0 ? most : std::min<std::uint64_t>(most, 64)));
        std::uint8_t value = *rc::gen::arbitrary<std::uint8_t>();
        for (std::uint8_t& byte : piece) {
            byte = value = static_cast<std::uint8_t>(value * 5 + 1);
        }
    }
    return pieces;
}

StatesTraits any_traits() {
    return {.pre_copy = below(4) != 0,
            .p2p = below(2) != 0,
            .says_nomsg = below(2) != 0,
            .knows_size = below(2) != 0,
            .max_io = below(2) == 0 ? 1 + below(50) : UINT64_MAX};
}

/* A source, a destination of the same protocol, and what is to go from one to the other. */
struct Pair {
    std::unique_ptr<DeviceModel> source, destination;
    std::vector<Bytes> expected;
};

Pair any_pair(bool region) {
    Pair pair;
    if (region) {
        const RegionLayout from = any_layout();
        const RegionLayout to = any_layout();
        const std::uint64_t most = std::min(room(from), room(to));
        const DeviceContent content{any_pieces(most), any_pieces(most)};
        auto source = std::make_unique<RegionDevice>(from);
        auto destination = std::make_unique<RegionDevice>(to);
        source->refuses_maps = below(4) == 0;
        destination->refuses_maps = below(4) == 0;
        source->fill(content);
        pair = {std::move(source), std::move(destination), content.all()};
    } else {
        const StatesTraits traits = any_traits();
        const DeviceContent content = checked_content(
            traits.pre_copy ? any_pieces(5000) : std::vector<Bytes>{}, any_pieces(5000));
        pair = {std::make_unique<StatesDevice>(traits),
                std::make_unique<StatesDevice>(any_traits()),
                {joined(content.all())}};
        pair.source->fill(content);
    }
    return pair;
}

/* How the calls to a device are bent; none: as they are. */
using Bend = std::function<void(pvdirty::DeviceCalls&)>;

std::unique_ptr<pvdirty::DeviceState> open_bent(DeviceModel& device, const Bend& bend) {
    auto calls = device.calls();
    if (bend) {
        bend(calls);
    }
    return std::move(*pvdirty::DeviceState::open(DeviceModel::device_fd, calls));
}

/* The calls that a VMM makes before it stops, in any number and order. */
Done any_pre_copy(pvdirty::DeviceState& state, MemoryStream& stream, DeviceModel& device) {
    Done done;
    for (std::uint64_t i = below(8); done && i > 0; i--) {
        switch (below(4)) {
        case 0:
            done = state.save_pending().map([](const auto&) {});
            break;
        case 1:
            if (auto* region = dynamic_cast<RegionDevice*>(&device)) {
                const std::lock_guard lock(state);
                region->read_bitmap();
            }
            break;
        default:
            done = state.save_iterate(stream.sink()).map([](const auto&) {});
        }
    }
    return done;
}

/* Fails the property unless all arrives. */
void migrate(bool region, const Bend& bend = {}) {
    Pair pair = any_pair(region);
    const bool paused = below(5) == 0;
    if (paused) {
        pair.source->pause();
    }
    const auto source = open_bent(*pair.source, bend);
    const auto destination = open_bent(*pair.destination, bend);
    MemoryStream stream;
    Done saved = source->save_setup(stream.sink());
    saved = saved.and_then([&] { return any_pre_copy(*source, stream, *pair.source); });
    const bool as_before = !saved || pair.source->runs() == !paused;
    RC_ASSERT(as_before);
    if (saved && below(2) == 0) {
        saved = source->quiesce();
        RC_ASSERT(pair.source->runs() == !paused);
    }
    if (saved && below(2) == 0) {
        saved = source->stop();
    }
    const Bytes config(below(3));
    saved = saved.and_then([&] { return source->save_complete(stream.sink(), config); });
    RC_ASSERT(saved.has_value());
    RC_ASSERT(pair.source->rests());
    RC_ASSERT(pair.source->starts == 1U);
    RC_ASSERT(load_all(*destination, stream).has_value());
    RC_ASSERT(stream.at_end());
    RC_ASSERT(pair.destination->taken() == pair.expected);
    RC_ASSERT(destination->config() == config);
    RC_ASSERT_FALSE(pair.destination->runs());
    if (below(2) == 0) {
        RC_ASSERT(destination->run_quiesced().has_value());
        RC_ASSERT(pair.destination->runs());
    }
    RC_ASSERT(destination->run().has_value());
    RC_ASSERT(pair.destination->runs());
    for (const auto* device : {pair.source.get(), pair.destination.get()}) {
        RC_ASSERT(device->violations.empty());
        RC_ASSERT(device->resets == 0U);
    }
}

Fault any_fault() {
    return *rc::gen::element(Fault::fails, Fault::fails_late, Fault::breaks, Fault::falls_short,
                             Fault::interrupted);
}

/* One access goes wrong; counted: migrations in which that was an error. */
void migrate_with_fault(bool region, unsigned& errors, const Bend& bend = {}) {
    Pair pair = any_pair(region);
    const auto source = open_bent(*pair.source, bend);
    const auto destination = open_bent(*pair.destination, bend);
    const bool at_source = below(2) == 0;
    const Fault fault = any_fault();
    (at_source ? pair.source : pair.destination)->faults.plan(fault, below(40));
    MemoryStream stream;
    bool stopped = false;
    bool setup = false;
    Done done = source->save_setup(stream.sink());
    setup = done.has_value();
    done = done.and_then([&] { return any_pre_copy(*source, stream, *pair.source); });
    if (below(2) == 0) {
        done = done.and_then([&] { return source->quiesce(); });
    }
    stopped = done.has_value();
    done = done.and_then([&] { return source->save_complete(stream.sink(), {}); });
    pair.source->faults.none();
    if (!done) {
        errors++;
        const bool untouched = !setup && !pair.source->runs() && pair.source->resets == 0;
        RC_ASSERT(source->cleanup().has_value());
        if (!untouched) { // it was found broken
            const bool documented = stopped ? pair.source->rests() : pair.source->runs();
            RC_ASSERT(documented);
            RC_ASSERT(source->run().has_value());
            RC_ASSERT(pair.source->runs());
        }
    } else {
        done = load_all(*destination, stream);
        pair.destination->faults.none();
        if (done) {
            RC_ASSERT(pair.destination->taken() == pair.expected);
            RC_ASSERT_FALSE(pair.destination->runs());
        } else {
            errors++;
            RC_ASSERT(pair.destination->rests());
            RC_ASSERT(pair.destination->resets == 1U);
            RC_ASSERT(destination->cleanup().has_value());
            RC_ASSERT(pair.destination->rests());
        }
    }
    RC_ASSERT(pair.source->violations.empty());
    RC_ASSERT(pair.destination->violations.empty());
}

/* A good stream, with one thing wrong with its frame. */
void load_spoiled(bool region, unsigned& refused) {
    Pair pair = any_pair(region);
    MemoryStream stream;
    RC_ASSERT(save_all(*open(*pair.source), stream, {}, static_cast<unsigned>(below(4))));
    Bytes bytes = stream.bytes();
    std::vector<std::size_t> headers;
    for (std::size_t at = 0; at < bytes.size();) {
        headers.push_back(at);
        std::uint64_t len = 0;
        for (std::size_t i = 16; i < pvdirty::record_header_bytes; i++) {
            len = len << 8 | bytes[at + i];
        }
        at += pvdirty::record_header_bytes + len;
    }
    const std::size_t at = headers[below(headers.size())];
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(3)) {
    case 0:
        bytes.resize(below(bytes.size()));
        break;
    case 1:
        bytes[at + below(pvdirty::record_header_bytes)] ^=
            static_cast<std::uint8_t>(1U << below(8));
        break;
    default: // what follows comes too early
        bytes.erase(from, from + static_cast<std::ptrdiff_t>(1 + below(bytes.size() - at)));
    }
    const auto destination = open(*pair.destination);
    MemoryStream in(bytes);
    RC_ASSERT_FALSE(load_all(*destination, in).has_value());
    RC_ASSERT(pair.destination->rests());
    RC_ASSERT(pair.destination->violations.empty());
    refused++;
}

/* ---- broken libraries -------------------------------------------------------------------- */

std::uint64_t register_of(std::uint64_t offset) {
    return offset - RegionDevice::file_offset;
}

/* data_size is that of the transaction before. */
void reads_size_early(pvdirty::DeviceCalls& calls) {
    const auto before = std::make_shared<std::uint64_t>(0);
    calls.pread = [pread = calls.pread, before](int fd, void* out, std::size_t len,
                                                std::uint64_t offset) {
        const auto n = pread(fd, out, len, offset);
        if (register_of(offset) == offsetof(pvdirty::uapi::MigrationInfo, data_size)) {
            std::uint64_t now = 0;
            std::memcpy(&now, out, len);
            std::memcpy(out, before.get(), len);
            *before = now;
        }
        return n;
    };
}

/* The first data_offset is taken for good. */
void keeps_offset(pvdirty::DeviceCalls& calls) {
    const auto first = std::make_shared<std::uint64_t>(0);
    calls.pread = [pread = calls.pread, first](int fd, void* out, std::size_t len,
                                               std::uint64_t offset) {
        const auto n = pread(fd, out, len, offset);
        if (register_of(offset) == offsetof(pvdirty::uapi::MigrationInfo, data_offset)) {
            if (*first == 0) {
                std::memcpy(first.get(), out, len);
            }
            std::memcpy(out, first.get(), len);
        }
        return n;
    };
}

/* data_size is not written at the destination. */
void never_commits(pvdirty::DeviceCalls& calls) {
    calls.pwrite = [pwrite = calls.pwrite](int fd, const void* in, std::size_t len,
                                           std::uint64_t offset) {
        const bool size = register_of(offset) == offsetof(pvdirty::uapi::MigrationInfo, data_size);
        return size ? static_cast<std::int64_t>(len) : pwrite(fd, in, len, offset);
    };
}

/* A short transfer is taken for a whole one. */
void trusts_short_transfers(pvdirty::DeviceCalls& calls) {
    calls.pread = [pread = calls.pread](int fd, void* out, std::size_t len,
                                        std::uint64_t offset) -> std::int64_t {
        const auto n = pread(fd, out, len, offset);
        return n > 0 ? static_cast<std::int64_t>(len) : n;
    };
    calls.write = [write = calls.write](int fd, const void* in, std::size_t len) -> std::int64_t {
        const auto n = write(fd, in, len);
        return n > 0 ? static_cast<std::int64_t>(len) : n;
    };
}

/* A read that comes to nothing in pre-copy is taken for the end, so the rest is not read. */
void ends_with_pre_copy(pvdirty::DeviceCalls& calls) {
    const auto ended = std::make_shared<bool>(false);
    calls.read = [read = calls.read, ended](int fd, void* out, std::size_t len) -> std::int64_t {
        const auto n = *ended ? 0 : read(fd, out, len);
        *ended = *ended || n <= 0;
        return n;
    };
}

/* No device is ever reset. */
void never_resets(pvdirty::DeviceCalls& calls) {
    calls.ioctl = [ioctl = calls.ioctl](int fd, unsigned long request, void* argument) {
        return request == VFIO_DEVICE_RESET ? 0 : ioctl(fd, request, argument);
    };
}

} // namespace

TEST_CASE("device state: whatever the device is like, all of it arrives", "[device-state]") {
    const bool region = GENERATE(true, false);
    holds([&] { migrate(region); }, 600);
}

TEST_CASE("device state: whatever goes wrong, the device is as documented", "[device-state]") {
    const bool region = GENERATE(true, false);
    unsigned errors = 0;
    holds([&] { migrate_with_fault(region, errors); }, 1500);
    CHECK(errors >= 300);
}

TEST_CASE("device state: a stream with a broken frame never loads", "[device-state]") {
    const bool region = GENERATE(true, false);
    unsigned refused = 0;
    holds([&] { load_spoiled(region, refused); }, 500);
    CHECK(refused == 500);
}

TEST_CASE("device state: who breaks the protocol is caught", "[device-state]") {
    SECTION("data_size before data_offset") {
        is_refuted([] { migrate(true, reads_size_early); });
    }
    SECTION("one data_offset for all") {
        is_refuted([] { migrate(true, keeps_offset); });
    }
    SECTION("data that is not committed") {
        is_refuted([] { migrate(true, never_commits); });
    }
    SECTION("short transfers of a region") {
        is_refuted([] { migrate(true, trusts_short_transfers); });
    }
    SECTION("short transfers of a data fd") {
        is_refuted([] { migrate(false, trusts_short_transfers); });
    }
    SECTION("the end of pre-copy for the end of all") {
        is_refuted([] { migrate(false, ends_with_pre_copy); });
    }
    SECTION("no reset") {
        unsigned errors = 0;
        const bool region = GENERATE(true, false);
        is_refuted([&] { migrate_with_fault(region, errors, never_resets); }, 1000);
    }
}
