// SPDX-License-Identifier: MIT
/* The C API of a device's own state: that each call arrives, and what crosses the boundary. */
#include <catch2/catch.hpp>

#include <array>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include "device/kinds.hpp"
#include "pvdirty/device_state.h"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

namespace {

pvdirty::DeviceCalls& calls(void* opaque) {
    return *static_cast<pvdirty::DeviceCalls*>(opaque);
}

constexpr pvd_device_calls through = {
    .ioctl = [](void* opaque, int fd, unsigned long request,
                void* argument) { return calls(opaque).ioctl(fd, request, argument); },
    .pread = [](void* opaque, int fd, void* out, size_t len,
                uint64_t offset) { return calls(opaque).pread(fd, out, len, offset); },
    .pwrite = [](void* opaque, int fd, const void* in, size_t len,
                 uint64_t offset) { return calls(opaque).pwrite(fd, in, len, offset); },
    .read = [](void* opaque, int fd, void* out,
               size_t len) { return calls(opaque).read(fd, out, len); },
    .write = [](void* opaque, int fd, const void* in,
                size_t len) { return calls(opaque).write(fd, in, len); },
    .mmap = [](void* opaque, int fd, size_t len,
               uint64_t offset) { return calls(opaque).mmap(fd, len, offset); },
    .munmap = [](void* opaque, void* address, size_t len) { calls(opaque).munmap(address, len); },
    .close = [](void* opaque, int fd) { calls(opaque).close(fd); },
};

bool out(void* opaque, const uint8_t* bytes, size_t len) {
    return static_cast<MemoryStream*>(opaque)->sink()({bytes, len});
}

bool in(void* opaque, uint8_t* bytes, size_t len) {
    return static_cast<MemoryStream*>(opaque)->source()({bytes, len});
}

} // namespace

TEST_CASE("device C API: a device from one host to another", "[device-capi]") {
    const DeviceKind& kind = device_kinds()[GENERATE(3U, 4U)];
    const auto device = kind.make();
    device->fill(kind.content);
    auto here = device->calls();
    std::array<char, 64> why{'x'};
    const auto ok = [&](bool result) { return result && why[0] == '\0'; };
    pvd_device_state* ds = pvd_device_state_new(7, &through, &here, 0, why.data(), why.size());
    REQUIRE(ds != nullptr);

    MemoryStream stream;
    CHECK(ok(pvd_device_save_setup(ds, out, &stream, why.data(), why.size())));
    pvd_device_pending pending{};
    CHECK(ok(pvd_device_save_pending(ds, &pending, why.data(), why.size())));
    CHECK(pending.pre_copy == joined(kind.content.pre_copy).size());
    uint64_t sent = 0;
    CHECK(ok(pvd_device_save_iterate(ds, out, &stream, &sent, why.data(), why.size())));
    CHECK(sent != 0);
    CHECK(device->runs());
    CHECK(ok(pvd_device_quiesce(ds, why.data(), why.size())));
    CHECK(device->runs());
    const auto* states = dynamic_cast<const StatesDevice*>(device.get());
    CHECK((states == nullptr || states->state == StatesDevice::pre_copy_p2p));
    CHECK(ok(pvd_device_stop(ds, why.data(), why.size())));
    CHECK_FALSE(device->runs());
    const std::array<uint8_t, 2> config{4, 2};
    CHECK(ok(pvd_device_save_complete(ds, out, &stream, config.data(), config.size(), why.data(),
                                      why.size())));
    CHECK_FALSE(pvd_device_was_reset(ds));
    CHECK_FALSE(pvd_device_save_pending(ds, &pending, why.data(), why.size()));
    CHECK(pending.stop_copy == UINT64_MAX);
    CHECK(std::string(why.data()).starts_with("save_pending cannot come here"));
    CHECK(ok(pvd_device_state_cleanup(ds, why.data(), why.size())));

    const auto other = kind.make();
    auto there = other->calls();
    pvd_device_state* to = pvd_device_state_new(7, &through, &there, 0, nullptr, 0);
    bool whole = false;
    while (!whole) {
        REQUIRE(ok(pvd_device_load(to, in, &stream, &whole, why.data(), why.size())));
    }
    CHECK(other->taken() == kind.loaded());
    size_t len = 0;
    const uint8_t* taken = pvd_device_config(to, &len);
    CHECK(Bytes(taken, taken + len) == Bytes{4, 2});
    CHECK(ok(pvd_device_run_quiesced(to, why.data(), why.size())));
    CHECK(other->runs());
    states = dynamic_cast<const StatesDevice*>(other.get());
    CHECK((states == nullptr || states->state == StatesDevice::running_p2p));
    CHECK(ok(pvd_device_run(to, why.data(), why.size())));
    CHECK((states == nullptr || states->state == StatesDevice::running));
    CHECK(other->runs());
    // Nothing more comes.
    whole = true;
    CHECK_FALSE(pvd_device_load(to, in, &stream, &whole, why.data(), why.size()));
    CHECK_FALSE(whole);
    CHECK(pvd_device_was_reset(to));
    CHECK(std::string(why.data()) == "the stream ends before its record 0");
    pvd_device_state_lock(to);
    pvd_device_state_unlock(to);
    pvd_device_state_free(to);
    pvd_device_state_free(ds);
    CHECK(device->held() + other->held() == 0);
}

TEST_CASE("device C API: the limit of data, and the system's own calls", "[device-capi]") {
    const DeviceKind& kind = device_kinds()[4];
    const auto device = kind.make();
    device->fill(kind.content);
    auto here = device->calls();
    std::array<char, 80> why{};
    pvd_device_state* ds = pvd_device_state_new(7, &through, &here, 100, why.data(), why.size());
    MemoryStream stream;
    REQUIRE(pvd_device_save_setup(ds, out, &stream, why.data(), why.size()));
    CHECK_FALSE(pvd_device_save_complete(ds, out, &stream, nullptr, 0, why.data(), why.size()));
    CHECK(std::string(why.data()) == "the device has more than 100 bytes of state");
    pvd_device_state_free(ds);

    const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    CHECK(pvd_device_state_new(fd, nullptr, nullptr, 0, why.data(), why.size()) == nullptr);
    CHECK(std::string(why.data()) == "VFIO_DEVICE_GET_INFO failed: Inappropriate ioctl for device");
    ::close(fd);
}
