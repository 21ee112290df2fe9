// SPDX-License-Identifier: MIT
/* Which call may come when, and what becomes of the device after each error. */
#include "pvdirty/device_state.hpp"

#include <utility>

#include "device_state/protocol.hpp"
#include "device_state/record.hpp"

namespace pvdirty {

tl::expected<std::unique_ptr<DeviceState>, std::string>
DeviceState::open(int device_fd, const DeviceCalls& calls, DeviceStateLimits limits) {
    auto protocol = open_states(device_fd, calls);
    if (protocol && !*protocol) {
        protocol = open_region(device_fd, calls);
    }
    if (!protocol) {
        return tl::unexpected(protocol.error());
    }
    if (!*protocol) {
        return tl::unexpected(std::string(
            "the device has neither migration states nor a migration region: it cannot be saved"));
    }
    return std::unique_ptr<DeviceState>(new DeviceState(std::move(*protocol), limits));
}

DeviceState::DeviceState(std::unique_ptr<DeviceStateProtocol> protocol, DeviceStateLimits limits)
    : protocol_(std::move(protocol)), limits_(limits) {}

DeviceState::~DeviceState() {
    static_cast<void>(cleanup());
}

DeviceProtocol DeviceState::protocol() const noexcept {
    return protocol_->kind();
}

bool DeviceState::device_was_reset() const noexcept {
    return protocol_->was_reset();
}

Result<void> DeviceState::expect(Phase phase, const char* call) const {
    if (broken_) {
        return tl::unexpected(std::string(call) +
                              ": the device could not be reset, and must not be used");
    }
    if (phase_ == phase) {
        return {};
    }
    const char* now = "";
    switch (phase_) {
    case Phase::idle:
        now = "nothing has begun";
        break;
    case Phase::saving:
        now = "a save has begun";
        break;
    case Phase::saved:
        now = "the device has been saved";
        break;
    case Phase::save_failed:
        now = "the save has failed";
        break;
    case Phase::loading:
        now = "a load has begun";
        break;
    case Phase::loaded:
        now = "the device has been loaded";
        break;
    case Phase::load_failed:
        now = "the load has failed";
        break;
    }
    return tl::unexpected(std::string(call) + " cannot come here: " + now);
}

Result<void> DeviceState::settle(DeviceActivity to, bool reset) {
    const std::lock_guard guard(mutex_);
    auto settled = protocol_->settle(to, reset);
    broken_ = !settled;
    return settled;
}

/* Gives up what has just failed, and says what became of the device if that is to be told. */
tl::unexpected<std::string> DeviceState::fail(std::string why, DeviceActivity to, bool reset) {
    const bool was_reset = device_was_reset();
    if (auto settled = settle(to, reset); !settled) {
        why += "; the device must not be used: " + settled.error();
    } else if (!reset && !was_reset && device_was_reset()) {
        why += "; the device had to be reset, and has lost its state";
    }
    return tl::unexpected(std::move(why));
}

/* Gives a save up that has just failed: the device stays as it is until cleanup(). */
tl::unexpected<std::string> DeviceState::fail_save(std::string why) {
    phase_ = Phase::save_failed;
    return tl::unexpected(std::move(why));
}

tl::unexpected<std::string> DeviceState::fail_stopped(Phase next, std::string why, bool reset) {
    phase_ = next;
    activity_ = DeviceActivity::stopped;
    return fail(std::move(why), activity_, reset);
}

/* What the device does now; one that does anything else is an error, and not touched. */
Result<void> DeviceState::look() {
    const std::lock_guard guard(mutex_);
    return protocol_->activity().map([this](DeviceActivity now) { activity_ = now; });
}

Result<void> DeviceState::save_setup(const ByteSink& out) {
    if (auto here = expect(Phase::idle, "save_setup"); !here) {
        return here;
    }
    if (auto looked = look(); !looked) {
        return looked;
    }
    writer_ = std::make_unique<DeviceStreamWriter>();
    writer_->to(out);
    // A stopped device stays so: the way to pre-copy leads through RUNNING.
    auto begun = [this]() -> Result<void> {
        const std::lock_guard guard(mutex_);
        return activity_ == DeviceActivity::stopped ? Result<void>{}
                                                    : protocol_->begin_pre_copy(activity_);
    }()
                                 .and_then([this] { return writer_->setup(protocol()); })
                                 .and_then([this] { return writer_->end_of_state(); });
    if (begun) {
        phase_ = Phase::saving;
        return {};
    }
    return fail(begun.error(), activity_, false);
}

Result<DevicePending> DeviceState::save_pending() {
    if (auto here = expect(Phase::saving, "save_pending"); !here) {
        return tl::unexpected(here.error());
    }
    const std::lock_guard guard(mutex_);
    auto pending = protocol_->pending(activity_ == DeviceActivity::stopped);
    if (!pending) {
        return fail_save(pending.error());
    }
    return pending;
}

Result<std::uint64_t> DeviceState::save_iterate(const ByteSink& out) {
    if (auto here = expect(Phase::saving, "save_iterate"); !here) {
        return tl::unexpected(here.error());
    }
    writer_->to(out);
    Result<std::uint64_t> sent = 0;
    if (activity_ != DeviceActivity::stopped) {
        const std::lock_guard guard(mutex_);
        sent = protocol_->save_data(*writer_, false);
    }
    sent = sent.and_then([this](std::uint64_t bytes) {
        return writer_->end_of_state().map([bytes] { return bytes; });
    });
    if (!sent) {
        return fail_save(sent.error());
    }
    return sent;
}

Result<void> DeviceState::quiesce() {
    if (phase_ == Phase::saved || phase_ == Phase::loaded) {
        return expect(phase_, "quiesce"); // it is stopped
    }
    if (auto here = expect(phase_ == Phase::idle ? Phase::idle : Phase::saving, "quiesce"); !here) {
        return here;
    }
    if (phase_ == Phase::idle) {
        if (auto looked = look(); !looked) {
            return looked;
        }
    }
    if (activity_ != DeviceActivity::running) {
        return {};
    }
    const auto quiesced = [this] {
        const std::lock_guard guard(mutex_);
        return protocol_->quiesce();
    }();
    if (!quiesced) {
        return phase_ == Phase::saving ? fail_save(quiesced.error())
                                       : fail(quiesced.error(), activity_, false);
    }
    activity_ = DeviceActivity::quiesced;
    return {};
}

Result<void> DeviceState::stop_device() {
    const std::lock_guard guard(mutex_);
    return activity_ == DeviceActivity::stopped ? Result<void>{} : protocol_->stop();
}

Result<void> DeviceState::stop() {
    if (phase_ == Phase::saved || phase_ == Phase::loaded) {
        return expect(phase_, "stop"); // it is
    }
    if (auto here = expect(phase_ == Phase::idle ? Phase::idle : Phase::saving, "stop"); !here) {
        return here;
    }
    if (phase_ == Phase::idle) {
        activity_ = DeviceActivity::running; // not known
    }
    if (auto stopped = stop_device(); !stopped) {
        const Phase next = phase_ == Phase::idle ? Phase::idle : Phase::save_failed;
        return fail_stopped(next, stopped.error(), false);
    }
    activity_ = DeviceActivity::stopped;
    return {};
}

Result<void> DeviceState::save_complete(const ByteSink& out, std::span<const std::uint8_t> config) {
    if (auto here = expect(Phase::saving, "save_complete"); !here) {
        return here;
    }
    writer_->to(out);
    auto done = [&]() -> Result<void> {
        if (config.size() > max_device_config_bytes) {
            return tl::unexpected("the config to be sent with the device has " +
                                  std::to_string(config.size()) + " bytes, more than " +
                                  std::to_string(max_device_config_bytes));
        }
        auto begun = stop_device().and_then([this] {
            const std::lock_guard guard(mutex_);
            return protocol_->begin_stop_copy();
        });
        if (begun && !config.empty()) {
            begun = writer_->config(config);
        }
        if (!begun) {
            return begun;
        }
        for (;;) {
            const std::lock_guard guard(mutex_);
            const auto sent = protocol_->save_data(*writer_, true);
            if (!sent) {
                return tl::unexpected(sent.error());
            }
            if (writer_->data_bytes() > limits_.data_bytes) {
                return tl::unexpected("the device has more than " +
                                      std::to_string(limits_.data_bytes) + " bytes of state");
            }
            if (*sent == 0) {
                break;
            }
        }
        // The end is sent when nothing can fail here any more.
        const std::lock_guard guard(mutex_);
        return protocol_->end_stop_copy().and_then([this] { return writer_->end(); });
    }();
    if (!done) {
        return fail_stopped(Phase::save_failed, done.error(), false);
    }
    activity_ = DeviceActivity::stopped;
    phase_ = Phase::saved;
    return {};
}

Result<bool> DeviceState::load(const ByteSource& in) {
    if (auto here = expect(phase_ == Phase::loading ? Phase::loading : Phase::idle, "load");
        !here) {
        return tl::unexpected(here.error());
    }
    auto whole = load_section(in);
    if (!whole) {
        config_.clear();
        return fail_stopped(Phase::load_failed, whole.error(), true);
    }
    phase_ = *whole ? Phase::loaded : Phase::loading;
    return whole;
}

Result<bool> DeviceState::load_section(const ByteSource& in) {
    if (phase_ == Phase::idle) {
        reader_ = std::make_unique<DeviceStreamReader>(protocol(), limits_);
        config_.clear();
        const auto begun = look().and_then([this] {
            const std::lock_guard guard(mutex_);
            return protocol_->begin_load();
        });
        if (!begun) {
            return tl::unexpected(begun.error());
        }
    }
    reader_->from(in);
    for (;;) {
        const auto record = reader_->next();
        if (!record) {
            return tl::unexpected(record.error());
        }
        Result<void> taken;
        switch (record->flag) {
        case RecordFlag::setup:
            break;
        case RecordFlag::config:
            config_.resize(static_cast<std::size_t>(record->len));
            taken = reader_->payload(config_);
            break;
        case RecordFlag::data: {
            const std::lock_guard guard(mutex_);
            taken = protocol_->load_data(*reader_, record->len);
            break;
        }
        case RecordFlag::end_of_state:
            return false;
        case RecordFlag::end: {
            const std::lock_guard guard(mutex_);
            return protocol_->end_load().map([] { return true; });
        }
        }
        if (!taken) {
            return tl::unexpected(taken.error());
        }
    }
}

Result<void> DeviceState::cleanup() {
    const Phase phase = std::exchange(phase_, Phase::idle);
    writer_.reset();
    reader_.reset();
    if (broken_) {
        return settle(DeviceActivity::stopped, true);
    }
    switch (phase) {
    case Phase::saving:
    case Phase::save_failed:
        return settle(activity_, false);
    case Phase::loading:
        config_.clear();
        return settle(DeviceActivity::stopped, true);
    case Phase::idle:
    case Phase::saved:
    case Phase::loaded:
    case Phase::load_failed:
        break;
    }
    return {};
}

Result<void> DeviceState::run_quiesced() {
    return start_device(DeviceActivity::quiesced, "run_quiesced");
}

Result<void> DeviceState::run() {
    if (phase_ == Phase::saving && activity_ == DeviceActivity::running && !broken_) {
        return {}; // it does
    }
    return start_device(DeviceActivity::running, "run");
}

Result<void> DeviceState::start_device(DeviceActivity to, const char* call) {
    const bool may = phase_ == Phase::idle || phase_ == Phase::saved || phase_ == Phase::loaded;
    if (auto here = expect(may ? phase_ : Phase::idle, call); !here) {
        return here;
    }
    const auto ran = [&] {
        const std::lock_guard guard(mutex_);
        return protocol_->run(to);
    }();
    if (!ran) {
        return fail_stopped(Phase::idle, ran.error(), false);
    }
    phase_ = Phase::idle;
    return {};
}

} // namespace pvdirty
