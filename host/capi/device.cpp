// SPDX-License-Identifier: MIT
/* The C API of a device's own state: a thin shim over pvdirty::DeviceState. */
#include "pvdirty/device_state.h"

#include <memory>
#include <span>
#include <utility>

#include "capi/handles.hpp"
#include "pvdirty/device_state.hpp"

struct pvd_device_state {
    std::unique_ptr<pvdirty::DeviceState> state;
};

namespace {

pvdirty::DeviceCalls calls_of(const pvd_device_calls& calls, void* opaque) {
    return {
        .ioctl = [calls,
                  opaque](int fd, unsigned long request,
                          void* argument) { return calls.ioctl(opaque, fd, request, argument); },
        .pread =
            [calls, opaque](int fd, void* out, std::size_t len, std::uint64_t offset) {
                return calls.pread(opaque, fd, out, len, offset);
            },
        .pwrite =
            [calls, opaque](int fd, const void* in, std::size_t len, std::uint64_t offset) {
                return calls.pwrite(opaque, fd, in, len, offset);
            },
        .read = [calls, opaque](int fd, void* out,
                                std::size_t len) { return calls.read(opaque, fd, out, len); },
        .write = [calls, opaque](int fd, const void* in,
                                 std::size_t len) { return calls.write(opaque, fd, in, len); },
        .mmap = [calls,
                 opaque](int fd, std::size_t len,
                         std::uint64_t offset) { return calls.mmap(opaque, fd, len, offset); },
        .munmap = [calls, opaque](void* address,
                                  std::size_t len) { calls.munmap(opaque, address, len); },
        .close = [calls, opaque](int fd) { calls.close(opaque, fd); },
    };
}

pvdirty::ByteSink sink_of(pvd_stream_out* out, void* opaque) {
    return [out, opaque](std::span<const std::uint8_t> bytes) {
        return out(opaque, bytes.data(), bytes.size());
    };
}

/* Whether it succeeded, and why not. */
template <class T>
bool done(const tl::expected<T, std::string>& result, char* why, std::size_t why_len) noexcept {
    pvdirty::capi::copy_text(result ? std::string() : result.error(), why, why_len);
    return result.has_value();
}

} // namespace

// The prototypes are in device_state.h; noexcept is ours, so that no exception crosses into C.
struct pvd_device_state* pvd_device_state_new(int device_fd, const struct pvd_device_calls* calls,
                                              void* opaque, uint64_t max_data_bytes, char* why,
                                              size_t why_len) noexcept {
    pvdirty::DeviceStateLimits limits;
    if (max_data_bytes != 0) {
        limits.data_bytes = max_data_bytes;
    }
    auto state = pvdirty::DeviceState::open(
        device_fd, calls != nullptr ? calls_of(*calls, opaque) : pvdirty::system_calls(), limits);
    if (!done(state, why, why_len)) {
        return nullptr;
    }
    return std::make_unique<pvd_device_state>(pvd_device_state{std::move(*state)}).release();
}

void pvd_device_state_free(struct pvd_device_state* ds) noexcept {
    delete ds;
}

bool pvd_device_save_setup(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                           char* why, size_t why_len) noexcept {
    return done(ds->state->save_setup(sink_of(out, opaque)), why, why_len);
}

bool pvd_device_save_pending(struct pvd_device_state* ds, struct pvd_device_pending* pending,
                             char* why, size_t why_len) noexcept {
    const auto bytes = ds->state->save_pending();
    *pending = {bytes ? bytes->pre_copy : 0,
                bytes ? bytes->stop_copy.value_or(UINT64_MAX) : UINT64_MAX};
    return done(bytes, why, why_len);
}

bool pvd_device_save_iterate(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                             uint64_t* sent, char* why, size_t why_len) noexcept {
    const auto bytes = ds->state->save_iterate(sink_of(out, opaque));
    *sent = bytes.value_or(0);
    return done(bytes, why, why_len);
}

bool pvd_device_quiesce(struct pvd_device_state* ds, char* why, size_t why_len) noexcept {
    return done(ds->state->quiesce(), why, why_len);
}

bool pvd_device_stop(struct pvd_device_state* ds, char* why, size_t why_len) noexcept {
    return done(ds->state->stop(), why, why_len);
}

bool pvd_device_save_complete(struct pvd_device_state* ds, pvd_stream_out* out, void* opaque,
                              const uint8_t* config, size_t config_len, char* why,
                              size_t why_len) noexcept {
    return done(ds->state->save_complete(sink_of(out, opaque), {config, config_len}), why, why_len);
}

bool pvd_device_load(struct pvd_device_state* ds, pvd_stream_in* in, void* opaque, bool* whole,
                     char* why, size_t why_len) noexcept {
    const auto loaded = ds->state->load([in, opaque](std::span<std::uint8_t> bytes) {
        return in(opaque, bytes.data(), bytes.size());
    });
    *whole = loaded.value_or(false);
    return done(loaded, why, why_len);
}

const uint8_t* pvd_device_config(const struct pvd_device_state* ds, size_t* len) noexcept {
    *len = ds->state->config().size();
    return ds->state->config().data();
}

bool pvd_device_state_cleanup(struct pvd_device_state* ds, char* why, size_t why_len) noexcept {
    return done(ds->state->cleanup(), why, why_len);
}

bool pvd_device_run_quiesced(struct pvd_device_state* ds, char* why, size_t why_len) noexcept {
    return done(ds->state->run_quiesced(), why, why_len);
}

bool pvd_device_run(struct pvd_device_state* ds, char* why, size_t why_len) noexcept {
    return done(ds->state->run(), why, why_len);
}

bool pvd_device_was_reset(const struct pvd_device_state* ds) noexcept {
    return ds->state->device_was_reset();
}

void pvd_device_state_lock(struct pvd_device_state* ds) noexcept {
    ds->state->lock();
}

void pvd_device_state_unlock(struct pvd_device_state* ds) noexcept {
    ds->state->unlock();
}
