// SPDX-License-Identifier: MIT
/*
 * How a VMM migrates the own state of its devices: set up, iterate, stop all of them, complete, and
 * load at the destination; their dirty pages are migration_loop.c's. device.hpp stands for VFIO
 * devices. In the end those of source and destination are compared. With --cut the streams lack
 * their last byte: no device takes its state, and the VM goes on at the source.
 */
#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "device.hpp"
#include "pvdirty/device_state.hpp"

using pvdirty::DeviceState;
using Done = tl::expected<void, std::string>;

struct Moving {
    const char* name;
    Device source{VFIO_DEVICE_STATE_RUNNING}, destination{VFIO_DEVICE_STATE_RUNNING};
    std::unique_ptr<DeviceState> from{}, to{};
    std::vector<std::uint8_t> stream{};
};
using AllMoving = std::array<Moving, 2>;

/* One step of the migration: all devices take it before the next one. */
Done each(AllMoving& devices, const std::function<Done(Moving&)>& step) {
    for (Moving& device : devices) {
        if (const Done done = step(device); !done) {
            return tl::unexpected(device.name + (": " + done.error()));
        }
    }
    return {};
}

Done save(AllMoving& devices) {
    const auto sink = [](Moving& m) -> pvdirty::ByteSink {
        return [&m](std::span<const std::uint8_t> bytes) {
            m.stream.insert(m.stream.end(), bytes.begin(), bytes.end());
            return true;
        };
    };
    return each(devices, [&](Moving& m) { return m.from->save_setup(sink(m)); })
        .and_then([&] {
            return each(devices, [&](Moving& m) -> Done { // a VMM goes by the time that is left
                auto pending = m.from->save_pending();
                while (pending && pending->pre_copy != 0) {
                    m.source.works();
                    if (const auto sent = m.from->save_iterate(sink(m)); !sent) {
                        return tl::unexpected(sent.error());
                    }
                    pending = m.from->save_pending();
                }
                m.source.works();
                return pending.map([](const auto&) {});
            });
        })
        // The CPUs have stopped. No device may write to another one that is stopped already.
        .and_then([&] { return each(devices, [](Moving& m) { return m.from->quiesce(); }); })
        .and_then([&] { return each(devices, [](Moving& m) { return m.from->stop(); }); })
        // Here the dirty bitmap is read for the last time.
        .and_then([&] {
            return each(devices, [&](Moving& m) { // with the VMM's own: config space, ...
                return m.from->save_complete(sink(m), std::array<std::uint8_t, 2>{0x86, 0x80});
            });
        });
}

Done load(AllMoving& devices) {
    return each(devices, [](Moving& m) -> Done {
        std::size_t at = 0;
        const pvdirty::ByteSource source = [&](std::span<std::uint8_t> out) {
            if (m.stream.size() - at < out.size()) {
                return false;
            }
            std::memcpy(out.data(), m.stream.data() + at, out.size());
            at += out.size();
            return true;
        };
        for (;;) { // as many parts as the source has sent
            const auto whole = m.to->load(source);
            if (!whole) {
                return tl::unexpected(whole.error());
            }
            if (*whole) {
                return {}; // m.to->config() has what was sent with it
            }
        }
    });
}

/* The VM goes on where this is called. */
Done run(AllMoving& devices, std::unique_ptr<DeviceState> Moving::*side) {
    return each(devices, [&](Moving& m) { return (m.*side)->cleanup(); })
        .and_then(
            [&] { return each(devices, [&](Moving& m) { return (m.*side)->run_quiesced(); }); })
        .and_then([&] { return each(devices, [&](Moving& m) { return (m.*side)->run(); }); });
}

int main(int argc, char** argv) {
    const bool cut = argc == 2 && std::strcmp(argv[1], "--cut") == 0;
    AllMoving devices{Moving{.name = "nic"}, Moving{.name = "disk"}};
    Done done = each(devices, [](Moving& m) -> Done {
        m.source.works();
        auto from = DeviceState::open(7, m.source.calls());
        auto to = DeviceState::open(7, m.destination.calls());
        if (!from || !to) {
            return tl::unexpected(!from ? from.error() : to.error());
        }
        m.from = std::move(*from);
        m.to = std::move(*to);
        return m.to->stop(); // it waits
    });
    done = done.and_then([&] { return save(devices); });
    for (Moving& device : devices) {
        std::printf("%s: %zu bytes\n", device.name, device.stream.size());
        device.stream.resize(device.stream.size() - (cut && !device.stream.empty() ? 1 : 0));
    }
    done = done.and_then([&] { return load(devices); });
    if (done) {
        done = run(devices, &Moving::to);
    } else {
        std::printf("%s\n", done.error().c_str());
        if (const Done back = run(devices, &Moving::from); !back) {
            std::printf("%s\n", back.error().c_str());
        }
    }
    int differ = 0;
    for (const Moving& m : devices) {
        std::printf("%s: source %s, destination %s\n", m.name, m.source.runs() ? "runs" : "stopped",
                    m.destination.runs() ? "runs" : "stopped");
        differ += m.destination.equals(m.source) ? 0 : 1;
    }
    std::printf("%d devices differ\n", differ);
    return done && differ == 0 ? 0 : 1;
}
