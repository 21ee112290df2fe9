// SPDX-License-Identifier: MIT
/* The migration region: what a device may do with it, and what the kernel may say of it. */
#include <catch2/catch.hpp>

#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include <linux/vfio.h>

#include "device/kinds.hpp"
#include "device_state/region_info.hpp"
#include "device_state/uapi.hpp"

using Catch::Matchers::Contains;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

DeviceContent content() {
    return {{Bytes(100, 1), Bytes(8, 2)}, {Bytes(3000, 3), Bytes(1, 4), Bytes(77, 5)}};
}

struct Side {
    RegionDevice device;
    std::unique_ptr<pvdirty::DeviceState> state;

    explicit Side(RegionLayout layout, bool refuses_maps = false) : device(std::move(layout)) {
        device.refuses_maps = refuses_maps;
        device.fill(content());
        state = open(device);
    }
    ~Side() noexcept(false) { // a check that fails may end the test
        state.reset();
        if (std::uncaught_exceptions() == 0) {
            CHECK(device.held() == 0);
            CHECK(device.violations.empty());
        }
    }
};

const RegionLayout trapped{.areas = {}, .offsets = {32, 0x400}};
const RegionLayout sparse{.mappable = true,
                          .areas = {{0x2000, 0x1000}, {0x1000, 0x800}},
                          .offsets = {0x1000, 0x900, 0x1700, 0x2000}};

} // namespace

TEST_CASE("migration region: a device is loaded at its own offsets, mapped or not",
          "[device-region]") {
    const RegionLayout from = GENERATE(trapped, sparse);
    const RegionLayout to = GENERATE(trapped, sparse);
    Side source(from, GENERATE(true, false));
    Side destination(to, GENERATE(true, false));
    MemoryStream stream;
    REQUIRE(save_all(*source.state, stream));
    REQUIRE(load_all(*destination.state, stream));
    CHECK(destination.device.taken() == content().all());
}

TEST_CASE("migration region: a transaction that the destination cannot take is refused",
          "[device-region]") {
    Side source(trapped);
    MemoryStream stream;
    REQUIRE(save_all(*source.state, stream));
    RegionLayout smaller = trapped;
    smaller.size = 2048;
    Side destination(smaller);
    CHECK_THAT(why(load_all(*destination.state, stream)),
               Contains("gave 3000 bytes at once, this one takes"));
    CHECK(destination.device.rests());
}

TEST_CASE("migration region: registers that cannot be true are refused", "[device-region]") {
    Side source(trapped);
    MemoryStream stream;
    REQUIRE(source.state->save_setup(stream.sink()));
    std::string words;
    SECTION("data in the registers") {
        source.device.false_offset = GENERATE(1U, 31U);
        words = "is not in the data of its region";
    }
    SECTION("data behind the region") {
        source.device.false_offset = GENERATE(0x4001U, UINT64_MAX);
        words = "is not in the data of its region";
    }
    SECTION("more data than the region has") {
        source.device.false_size = GENERATE(0x4001U, UINT64_MAX, UINT64_MAX - 30);
        words = "is not within its region, which has 16384 bytes";
    }
    CHECK_THAT(why(source.state->save_iterate(stream.sink())), Contains(words));
    CHECK(source.device.runs());
    REQUIRE(source.state->cleanup());
    CHECK(source.device.runs());
}

TEST_CASE("migration region: bytes that are pending and never come are no end", "[device-region]") {
    Side source(trapped);
    MemoryStream stream;
    REQUIRE(source.state->save_setup(stream.sink()));
    source.device.says_no_size = true;
    CHECK(source.state->save_iterate(stream.sink()) == 0U);
    CHECK_THAT(why(source.state->save_complete(stream.sink(), {})),
               Contains("bytes are pending, and gives none"));
    CHECK(source.device.rests());
}

TEST_CASE("migration region: what a destination says after the data counts", "[device-region]") {
    Side source(trapped);
    MemoryStream stream;
    REQUIRE(save_all(*source.state, stream));
    Side destination(trapped);
    destination.device.faults.on_access([&, n = 0]() mutable {
        // The last accesses: data_size, then device_state.
        if (stream.at_end() && ++n == 1) {
            destination.device.state = RegionDevice::error;
        }
    });
    CHECK_THAT(why(load_all(*destination.state, stream)), Contains("state 6 after its data"));
    destination.device.faults.on_access({});
    CHECK(destination.device.rests());
}

TEST_CASE("migration region: a bitmap is read through it at any moment that the lock leaves",
          "[device-region]") {
    const RegionLayout layout = GENERATE(trapped, sparse);
    Side source(layout);
    unsigned read = 0;
    // At each access another thread tries, as it may in a VMM.
    source.device.faults.on_access([&] {
        std::thread([&] {
            const std::unique_lock lock(*source.state, std::try_to_lock);
            if (lock) {
                source.device.read_bitmap();
                read++;
            }
        }).join();
    });
    MemoryStream stream;
    const auto between = [&] {
        const std::lock_guard lock(*source.state);
        source.device.read_bitmap();
        read++;
    };
    REQUIRE(source.state->save_setup(stream.sink()));
    for (int i = 0; i < 2; i++) {
        between();
        REQUIRE(source.state->save_iterate(stream.sink()));
        between();
        REQUIRE(source.state->save_pending());
    }
    REQUIRE(source.state->save_complete(stream.sink(), {}));
    source.device.faults.on_access({});
    CHECK(read == 4);
    Side destination(layout);
    REQUIRE(load_all(*destination.state, stream));
    CHECK(destination.device.taken() == content().all());
}

TEST_CASE("migration region: what the kernel says of it is checked", "[device-region]") {
    using Sparse = vfio_region_info_cap_sparse_mmap;
    Bytes info(512);
    const auto put = [&](std::size_t at, const auto& value) {
        std::memcpy(info.data() + at, &value, sizeof(value));
    };
    vfio_region_info header{};
    header.argsz = 512;
    header.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                   VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
    header.size = 0x10000;
    header.cap_offset = 32;
    vfio_region_info_cap_type type{};
    type.header.id = VFIO_REGION_INFO_CAP_TYPE;
    type.header.next = 64;
    type.type = VFIO_REGION_TYPE_MIGRATION_DEPRECATED;
    type.subtype = VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED;
    vfio_info_cap_header capability{};
    capability.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
    std::uint32_t areas = 2;
    std::array<vfio_region_sparse_mmap_area, 2> area{{{0x4000, 0x1000}, {0x2000, 0x2000}}};
    std::uint32_t regions = 1;
    std::string words = "found";
    bool none = false;

    SECTION("good areas, in no order") {}
    SECTION("an empty area counts for nothing") {
        area[1].size = 0;
    }
    SECTION("areas that overlap") {
        area[1].size = 0x2001;
        words = "overlap";
    }
    SECTION("an area past the region") {
        area[0].size = GENERATE(0xc001U, UINT64_MAX);
        words = "area 0 is not within";
    }
    SECTION("more areas than there are") {
        areas = UINT32_MAX;
        words = "is not within";
        area[0].size = area[1].size = 0;
    }
    SECTION("capabilities in a circle") {
        type.type = 9;
        capability.next = GENERATE(32U, 64U);
        none = true;
    }
    SECTION("a capability past the info") {
        header.cap_offset = GENERATE(505U, 512U, UINT32_MAX);
        none = true;
    }
    SECTION("more regions than a device has") {
        regions = UINT32_MAX;
        words = "4294967295 regions";
    }
    SECTION("an info that has no end") {
        header.argsz = 1U << 30;
        words = "wants 1073741824 bytes";
    }
    SECTION("a region of registers alone") {
        header.size = 32;
        words = "or has 32 bytes";
    }
    SECTION("a region past what a file has") {
        header.offset = INT64_MAX;
        words = "cannot be read and written";
    }
    SECTION("a region that cannot be written") {
        header.flags &= ~VFIO_REGION_INFO_FLAG_WRITE;
        words = "cannot be read and written";
    }
    put(0, header);
    put(32, type);
    put(64, capability);
    put(64 + offsetof(Sparse, nr_areas), areas);
    put(64 + offsetof(Sparse, areas), area);
    pvdirty::DeviceCalls calls;
    calls.ioctl = [&](int, unsigned long request, void* argument) {
        if (request == VFIO_DEVICE_GET_INFO) {
            vfio_device_info device{};
            device.num_regions = regions;
            std::memcpy(argument, &device, sizeof(device));
            return 0;
        }
        vfio_region_info asked{};
        std::memcpy(&asked, argument, sizeof(asked));
        std::memcpy(argument, info.data(), asked.argsz < info.size() ? 32 : info.size());
        return 0;
    };
    const auto found = pvdirty::find_migration_region(pvdirty::DeviceFd(calls, 7));
    if (words != "found") {
        CHECK_THAT(why(found), Contains(words));
        return;
    }
    REQUIRE(found);
    CHECK(found->has_value() == !none);
    if (!none) {
        CHECK((*found)->areas.size() == (area[1].size == 0 ? 1 : 2));
        CHECK((*found)->areas.back().offset == 0x4000);
    }
}
