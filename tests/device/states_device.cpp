// SPDX-License-Identifier: MIT
#include "device/states_device.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <queue>
#include <utility>

#include <linux/vfio.h>

namespace pvdirty::test {

namespace {

using S = StatesDevice;

/* The arcs that drivers implement; vfio.h documents them. */
constexpr std::pair<S::State, S::State> arcs[] = {
    {S::running, S::running_p2p},      {S::running_p2p, S::running},
    {S::running_p2p, S::stopped},      {S::stopped, S::running_p2p},
    {S::stopped, S::stop_copy},        {S::stop_copy, S::stopped},
    {S::stopped, S::resuming},         {S::resuming, S::stopped},
    {S::running, S::pre_copy},         {S::pre_copy, S::running},
    {S::running_p2p, S::pre_copy_p2p}, {S::pre_copy_p2p, S::running_p2p},
    {S::pre_copy, S::pre_copy_p2p},    {S::pre_copy_p2p, S::pre_copy},
    {S::pre_copy_p2p, S::stop_copy},
};

/* Those without the peer-to-peer states. */
constexpr std::pair<S::State, S::State> short_arcs[] = {
    {S::running, S::stopped}, {S::stopped, S::running}, {S::pre_copy, S::stop_copy}};

bool saves(S::State state) {
    return state == S::pre_copy || state == S::pre_copy_p2p || state == S::stop_copy;
}

constexpr std::size_t length_bytes = 8;

Bytes length_of(std::uint64_t length) {
    Bytes bytes(length_bytes);
    std::memcpy(bytes.data(), &length, length_bytes);
    return bytes;
}

} // namespace

DeviceContent checked_content(std::vector<Bytes> pre_copy, std::vector<Bytes> stop_copy) {
    const std::size_t length = joined(pre_copy).size() + joined(stop_copy).size();
    (pre_copy.empty() ? stop_copy : pre_copy)
        .insert((pre_copy.empty() ? stop_copy : pre_copy).begin(), length_of(length));
    return {std::move(pre_copy), std::move(stop_copy)};
}

bool StatesDevice::has_state(State state) const {
    switch (state) {
    case running_p2p:
        return traits_.p2p;
    case pre_copy:
        return traits_.pre_copy;
    case pre_copy_p2p:
        return traits_.p2p && traits_.pre_copy;
    default:
        return state != error && state < num_states;
    }
}

bool StatesDevice::has_arc(State from, State to) const {
    const auto is = [&](const auto& arc) { return arc.first == from && arc.second == to; };
    return has_state(from) && has_state(to) &&
           (std::any_of(std::begin(arcs), std::end(arcs), is) ||
            (!traits_.p2p && std::any_of(std::begin(short_arcs), std::end(short_arcs), is)));
}

/*
 * The first step of the shortest way that passes no saving state, but that from PRE_COPY to
 * STOP_COPY.
 */
std::optional<S::State> StatesDevice::next_state(State from, State to) const {
    const bool back = from == stop_copy && (to == pre_copy || to == pre_copy_p2p);
    if (!has_state(from) || !has_state(to) || back) {
        return std::nullopt;
    }
    std::array<State, num_states> first{};
    std::queue<State> reached;
    for (unsigned i = 0; i < num_states; i++) {
        const auto next = static_cast<State>(i);
        if (has_arc(from, next)) {
            first.at(i) = next;
            reached.push(next);
        }
    }
    while (!reached.empty()) {
        const State now = reached.front();
        reached.pop();
        if (now == to) {
            return first.at(now);
        }
        const bool last_stretch = from == pre_copy && now == pre_copy_p2p && to == stop_copy;
        for (unsigned i = 0; i < num_states && (!saves(now) || last_stretch); i++) {
            const auto next = static_cast<State>(i);
            if (has_arc(now, next) && first.at(i) == error && next != from) {
                first.at(i) = first.at(now);
                reached.push(next);
            }
        }
    }
    return std::nullopt;
}

DeviceCalls StatesDevice::calls() {
    DeviceCalls calls;
    calls.ioctl = [this](int fd, unsigned long request, void* argument) {
        return ioctl(fd, request, argument);
    };
    calls.pread = [this](int, void*, std::size_t, std::uint64_t) -> std::int64_t {
        violations.emplace_back("reads a region");
        return -EINVAL;
    };
    calls.pwrite = [this](int, const void*, std::size_t, std::uint64_t) -> std::int64_t {
        violations.emplace_back("writes a region");
        return -EINVAL;
    };
    calls.read = [this](int fd, void* out, std::size_t len) {
        return read(fd, static_cast<std::uint8_t*>(out), len);
    };
    calls.write = [this](int fd, const void* in, std::size_t len) {
        return write(fd, static_cast<const std::uint8_t*>(in), len);
    };
    calls.mmap = [this](int, std::size_t, std::uint64_t) -> void* {
        violations.emplace_back("maps");
        return nullptr;
    };
    calls.munmap = [](void*, std::size_t) {};
    calls.close = [this](int fd) {
        if (open_.erase(fd) == 0) {
            violations.emplace_back("closes what is not open");
        }
    };
    return calls;
}

int StatesDevice::ioctl(int fd, unsigned long request, void* argument) {
    const Fault fault = faults.next();
    if (fault == Fault::fails || fault == Fault::interrupted) {
        return fault == Fault::fails ? -EIO : -EINTR;
    }
    if (fault == Fault::breaks) {
        state = error;
        return -EIO;
    }
    if (request == VFIO_MIG_GET_PRECOPY_INFO) {
        const int result = precopy_info(fd, argument);
        return fault == Fault::none ? result : -EIO;
    }
    if (fd != device_fd) {
        return -EBADF;
    }
    if (request == VFIO_DEVICE_RESET) {
        resets++;
        starts += runs() ? 0 : 1;
        state = running;
        session_ = -1;
        taken_.clear();
        return fault == Fault::none ? 0 : -EIO;
    }
    return request == VFIO_DEVICE_FEATURE ? feature(argument, fault) : -ENOTTY;
}

int StatesDevice::feature(void* argument, Fault fault) {
    vfio_device_feature header{};
    std::memcpy(&header, argument, sizeof(header));
    auto* payload = static_cast<std::uint8_t*>(argument) + sizeof(header);
    const bool get = (header.flags & VFIO_DEVICE_FEATURE_GET) != 0;
    const std::size_t room = header.argsz - std::min<std::size_t>(header.argsz, sizeof(header));
    const auto answer = [&](const auto& value) {
        if (!get || room < sizeof(value)) {
            return -EINVAL;
        }
        std::memcpy(payload, &value, sizeof(value));
        return fault == Fault::none ? 0 : -EIO;
    };
    switch (header.flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
        return answer(vfio_device_feature_migration{
            VFIO_MIGRATION_STOP_COPY | (traits_.p2p ? VFIO_MIGRATION_P2P : 0U) |
            (traits_.pre_copy ? VFIO_MIGRATION_PRE_COPY : 0U)});
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        return traits_.knows_size
                   ? answer(vfio_device_feature_mig_data_size{joined(content_.stop_copy).size()})
                   : -ENOTTY;
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: {
        vfio_device_feature_mig_state mig{state, -1};
        if (get) {
            return answer(mig);
        }
        if (room < sizeof(mig)) {
            return -EINVAL;
        }
        std::memcpy(&mig, payload, sizeof(mig));
        int fd = -1;
        int result = set_state(static_cast<State>(mig.device_state), fd, fault);
        if (result == 0 && fault == Fault::fails_late) {
            result = -EMFILE; // the session is there, and nobody has its fd
        }
        if (result == 0 && fd >= 0 && !gives_no_fd) {
            open_.insert(fd);
            mig.data_fd = fd;
        } else {
            mig.data_fd = -1;
        }
        std::memcpy(payload, &mig, sizeof(mig)); // the kernel does so even when it fails
        return result;
    }
    default:
        return -ENOTTY;
    }
}

/* A transfer that falls short is here a change that fails after its first step. */
int StatesDevice::set_state(State target, int& fd, Fault fault) {
    if (!has_state(target)) {
        violations.emplace_back("asks for a state that it does not have");
    }
    while (state != target) {
        const auto next = next_state(state, target);
        if (!next) {
            return -EINVAL;
        }
        if (const int result = step(*next, fd); result != 0) {
            return result;
        }
        if (fault == Fault::falls_short) {
            return -EIO;
        }
    }
    return fault == Fault::falls_short ? -EIO : 0;
}

int StatesDevice::step(State to, int& fd) {
    const auto begin_session = [&] {
        session_ = fd = next_fd_++;
        data_.clear();
        position_ = 0;
    };
    if (to == resuming) {
        begin_session();
    } else if (saves(to) && !saves(state)) {
        begin_session();
        data_ = joined(content_.pre_copy);
    } else if (state == resuming) {
        std::uint64_t length = 0;
        if (data_.size() < length_bytes) {
            return -EINVAL; // and stays in RESUMING
        }
        std::memcpy(&length, data_.data(), length_bytes);
        if (length != data_.size() - length_bytes) {
            return -EINVAL;
        }
        taken_ = data_;
    }
    if (to == stop_copy) {
        const Bytes rest = joined(content_.stop_copy);
        data_.insert(data_.end(), rest.begin(), rest.end());
    }
    if (!saves(to) && to != resuming) {
        session_ = -1;
    }
    const bool ran = runs();
    state = to;
    starts += runs() && !ran ? 1 : 0;
    return 0;
}

int StatesDevice::precopy_info(int fd, void* argument) const {
    vfio_precopy_info info{};
    std::memcpy(&info, argument, sizeof(info));
    if (open_.count(fd) == 0 || info.argsz < sizeof(info) ||
        (state != pre_copy && state != pre_copy_p2p)) {
        return -EINVAL;
    }
    info.initial_bytes = data_.size() - position_;
    info.dirty_bytes = 0;
    std::memcpy(argument, &info, sizeof(info));
    return 0;
}

std::int64_t StatesDevice::read(int fd, std::uint8_t* out, std::size_t len) {
    const Fault fault = faults.next();
    if (fault != Fault::none && fault != Fault::falls_short) {
        state = fault == Fault::breaks ? error : state;
        return fault == Fault::interrupted ? -EINTR : -EIO;
    }
    if (open_.count(fd) == 0) {
        violations.emplace_back("reads what is not open");
        return -EBADF;
    }
    if (fd != session_ || !saves(state)) {
        return -ENODEV;
    }
    if (never_ends && state == stop_copy) {
        std::fill_n(out, len, std::uint8_t{0});
        return static_cast<std::int64_t>(len);
    }
    len = std::min({len, data_.size() - position_, static_cast<std::size_t>(traits_.max_io)});
    len = fault == Fault::falls_short && len > 1 ? len / 2 : len;
    if (len == 0) {
        return state != stop_copy && traits_.says_nomsg ? -ENOMSG : 0;
    }
    std::copy_n(data_.begin() + static_cast<std::ptrdiff_t>(position_), len, out);
    position_ += len;
    return static_cast<std::int64_t>(len);
}

std::int64_t StatesDevice::write(int fd, const std::uint8_t* in, std::size_t len) {
    const Fault fault = faults.next();
    if (fault == Fault::fails || fault == Fault::interrupted || fault == Fault::breaks) {
        state = fault == Fault::breaks ? error : state;
        return fault == Fault::interrupted ? -EINTR : -EIO;
    }
    if (open_.count(fd) == 0) {
        violations.emplace_back("writes what is not open");
        return -EBADF;
    }
    if (fd != session_ || state != resuming) {
        return -ENODEV;
    }
    len = std::min(len, static_cast<std::size_t>(traits_.max_io));
    len = fault == Fault::falls_short && len > 1 ? len / 2 : len;
    data_.insert(data_.end(), in, in + len);
    return fault == Fault::fails_late ? -EIO : static_cast<std::int64_t>(len);
}

} // namespace pvdirty::test
