// SPDX-License-Identifier: MIT
/** Devices of one VM that do DMA to each other, and a VMM that saves, stops and runs all of them.
 */
#ifndef PVDIRTY_TESTS_DEVICE_GROUP_HPP
#define PVDIRTY_TESTS_DEVICE_GROUP_HPP

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/kinds.hpp"

namespace pvdirty::test {

/** What a VMM does that breaks the order. */
struct Vmm {
    bool quiesces = true;      ///< all devices, before the first one stops
    bool runs_quiesced = true; ///< all devices, before the first one runs
};

class Group {
public:
    Group(const std::vector<StatesTraits>& traits, Vmm vmm = {}) : vmm_(vmm) {
        for (const StatesTraits& one : traits) {
            devices.push_back(std::make_unique<StatesDevice>(one));
            const std::size_t number = devices.size();
            const Bytes early(10 * number, 1);
            devices.back()->fill(
                checked_content(one.pre_copy ? std::vector<Bytes>{early} : std::vector<Bytes>{},
                                {Bytes(100 + number, static_cast<std::uint8_t>(number))}));
            auto calls = devices.back()->calls();
            calls.ioctl = [this, ioctl = calls.ioctl](int fd, unsigned long request, void* arg) {
                const int result = ioctl(fd, request, arg);
                look();
                return result;
            };
            states.push_back(std::move(*DeviceState::open(DeviceModel::device_fd, calls)));
        }
    }
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;
    ~Group() = default;

    /** Carries on with the other devices when it fails on one. @returns the first error */
    Done each(const std::function<Done(DeviceState&)>& call) {
        Done done;
        for (const auto& state : states) {
            if (auto one = call(*state); !one && done) {
                done = one;
            }
        }
        return done;
    }

    /** What comes before the devices stop. */
    Done save_running(std::vector<MemoryStream>& streams) {
        streams.resize(states.size());
        for (std::size_t i = 0; i < states.size(); i++) {
            auto begun = states[i]->save_setup(streams[i].sink()).and_then([&] {
                return states[i]->save_iterate(streams[i].sink()).map([](const auto&) {});
            });
            if (!begun) {
                return begun;
            }
        }
        return {};
    }
    Done quiesce() {
        return vmm_.quiesces ? each([](DeviceState& state) { return state.quiesce(); }) : Done{};
    }
    Done stop() {
        return each([](DeviceState& state) { return state.stop(); });
    }
    Done save_stopped(std::vector<MemoryStream>& streams) {
        for (std::size_t i = 0; i < states.size(); i++) {
            if (auto done = states[i]->save_complete(streams[i].sink(), {}); !done) {
                return done;
            }
        }
        return {};
    }
    /** The whole of it. A device that is not quiesced ends it before one is stopped. */
    Done save(std::vector<MemoryStream>& streams) {
        return save_running(streams)
            .and_then([&] { return quiesce(); })
            .and_then([&] { return stop(); })
            .and_then([&] { return save_stopped(streams); });
    }
    Done load(std::vector<MemoryStream>& streams) {
        for (std::size_t i = 0; i < states.size(); i++) {
            if (auto done = load_all(*states[i], streams[i]); !done) {
                return done;
            }
        }
        return {};
    }
    Done cleanup() {
        return each([](DeviceState& state) { return state.cleanup(); });
    }
    Done run_quiesced() {
        return vmm_.runs_quiesced ? each([](DeviceState& state) { return state.run_quiesced(); })
                                  : Done{};
    }
    Done run() {
        return run_quiesced().and_then(
            [&] { return each([](DeviceState& state) { return state.run(); }); });
    }

    std::vector<std::unique_ptr<StatesDevice>> devices;
    std::vector<std::unique_ptr<DeviceState>> states;
    /** The first time that a device could write to one that is stopped; must stay empty. */
    std::string wrong;

private:
    /*
     * After each ioctl. A device that was reset does nothing until its driver is there again, and
     * one that has broken was not stopped by anybody.
     */
    void look() {
        for (const auto& from : devices) {
            for (const auto& to : devices) {
                if (from->begins_p2p() && from->resets == 0 && !to->runs() &&
                    to->state != StatesDevice::error && wrong.empty()) {
                    wrong = "a device in state " + std::to_string(from->state) +
                            " while another is in " + std::to_string(to->state);
                }
            }
        }
    }

    Vmm vmm_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_GROUP_HPP
