// SPDX-License-Identifier: MIT
#include "cli/qmp.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace pvdirty::cli {

namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Kind = MonitorError::Kind;

constexpr std::size_t piece = 65536;                      // read at once, in bytes
constexpr std::size_t max_line = std::size_t{64} << 20;   // far more than any answer has
constexpr std::size_t max_events = 256;                   // nobody waits for older ones
constexpr int max_pieces = 64;                            // before others have their turn
constexpr std::chrono::milliseconds connect_pause = 50ms; // between attempts

std::string reason(int error) {
    return std::generic_category().message(error);
}

auto fail(Kind kind, std::string message) {
    return tl::unexpected(MonitorError{kind, std::move(message)});
}

auto closed() {
    return fail(Kind::closed, "QEMU closed its monitor: it has ended, or lets another in");
}

/* A path of any length: the address holds 107 bytes, so it goes by its directory. */
tl::expected<sockaddr_un, std::string> address_of(const std::filesystem::path& path,
                                                  Descriptor& directory) {
    sockaddr_un address{};
    std::string name = path.string();

    if (name.size() >= sizeof(address.sun_path)) {
        const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
        directory = Descriptor(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!directory) {
            return tl::unexpected(reason(errno));
        }
        name = fmt::format("/proc/self/fd/{}/{}", directory.get(), path.filename().string());
        if (name.size() >= sizeof(address.sun_path)) {
            return tl::unexpected(reason(ENAMETOOLONG));
        }
    }
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
    return address;
}

} // namespace

Qmp::Qmp(std::filesystem::path path, Patience patience, int interrupt)
    : path_(std::move(path)), patience_(patience), interrupt_(interrupt) {}

MonitorResult<std::unique_ptr<Qmp>> Qmp::connect(const std::filesystem::path& path,
                                                 Patience patience, int interrupt) {
    std::unique_ptr<Qmp> qmp(new Qmp(path, patience, interrupt));
    if (auto connected = qmp->reconnect(); !connected) {
        return tl::unexpected(connected.error());
    }
    // From now on an interruption must not cut answers off: they say what has been done.
    qmp->interrupt_ = -1;
    return qmp;
}

MonitorResult<void> Qmp::reconnect() {
    const Deadline deadline = std::chrono::steady_clock::now() + patience_.greeting;

    socket_ = Descriptor();
    received_.clear();
    events_.clear();
    return open(deadline).and_then([&] { return greet(deadline); });
}

MonitorResult<void> Qmp::open(Deadline deadline) {
    Descriptor directory;
    const auto address = address_of(path_, directory);
    if (!address) {
        return fail(Kind::closed, "cannot connect: " + address.error());
    }
    Descriptor connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!connection) {
        return fail(Kind::closed, "no socket: " + reason(errno));
    }
    // EAGAIN: others wait in line already, for a monitor that takes one client.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    while (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&*address),
                     sizeof(*address)) != 0) {
        if (errno != EAGAIN && errno != EINTR) {
            return fail(Kind::closed, "cannot connect: " + reason(errno));
        }
        if (std::chrono::steady_clock::now() >= deadline) {
            return fail(Kind::silent, "it takes one client at a time, and others wait for it");
        }
        std::this_thread::sleep_for(connect_pause);
    }
    socket_ = std::move(connection);
    return {};
}

MonitorResult<void> Qmp::greet(Deadline deadline) {
    const auto greeting = read_message(deadline);
    if (!greeting) {
        if (greeting.error().kind == Kind::silent) {
            return fail(Kind::silent,
                        fmt::format("no greeting within {:.0f} s: it takes one client at a time, "
                                    "and another one is connected, or QEMU hangs",
                                    std::chrono::duration<double>(patience_.greeting).count()));
        }
        return tl::unexpected(greeting.error());
    }
    if (!greeting->contains("QMP")) {
        return fail(Kind::malformed, "this is no QMP monitor");
    }
    return execute("qmp_capabilities", json::object(), deadline).map([](const json&) {});
}

MonitorResult<json> Qmp::call(const std::string& command, json arguments) {
    return execute(command, std::move(arguments),
                   std::chrono::steady_clock::now() + patience_.answer);
}

MonitorResult<json> Qmp::execute(const std::string& command, json arguments, Deadline deadline) {
    if (!socket_) {
        return closed();
    }
    const std::uint64_t id = ++last_id_;
    const json request = {{"execute", command}, {"arguments", std::move(arguments)}, {"id", id}};
    if (auto sent = send(request.dump() + "\n", deadline); !sent) {
        return tl::unexpected(sent.error());
    }
    while (true) {
        auto message = read_message(deadline);
        if (!message) {
            if (message.error().kind == Kind::silent) {
                return fail(Kind::silent, fmt::format("no answer to {}", command));
            }
            return message;
        }
        // Answers to what was given up before come late; they are nobody's.
        if (message->value("id", json()) != json(id)) {
            continue;
        }
        if (message->contains("return")) {
            return std::move(message->at("return"));
        }
        if (const auto error = message->find("error");
            error != message->end() && error->is_object()) {
            const json said = error->value("desc", json());
            return fail(Kind::refused,
                        said.is_string() ? said.get<std::string>() : "QEMU gives no reason");
        }
        return fail(Kind::malformed, fmt::format("an answer to {} that is none", command));
    }
}

std::vector<Event> Qmp::take_events() {
    // Late answers are dropped. What is wrong with the connection is told by the next call.
    for (int pieces = 0; pieces < max_pieces && socket_; ++pieces) {
        const auto more = receive();
        auto message = next_message();
        while (message && !message->is_null()) {
            message = next_message();
        }
        if (!more || !*more || !message) {
            break;
        }
    }
    std::vector<Event> taken(std::make_move_iterator(events_.begin()),
                             std::make_move_iterator(events_.end()));
    events_.clear();
    return taken;
}

void Qmp::keep_event(const json& message) {
    if (!message.at("event").is_string()) {
        return;
    }
    if (events_.size() == max_events) {
        events_.pop_front();
    }
    events_.push_back(
        {message.at("event").get<std::string>(), message.value("data", json::object())});
}

/* The next whole line that is no event, null if there is none yet. */
MonitorResult<json> Qmp::next_message() {
    for (auto end = received_.find('\n'); end != std::string::npos; end = received_.find('\n')) {
        const std::string line = received_.substr(0, end);
        received_.erase(0, end + 1);
        if (line.find_first_not_of(" \r\t") == std::string::npos) {
            continue;
        }
        json message = json::parse(line, nullptr, false);
        if (!message.is_object()) {
            return fail(Kind::malformed, "a line that is not QMP's");
        }
        if (!message.contains("event")) {
            return message;
        }
        keep_event(message);
    }
    if (received_.size() > max_line) {
        return fail(Kind::malformed, "a line without an end");
    }
    return json();
}

MonitorResult<json> Qmp::read_message(Deadline deadline) {
    while (true) {
        auto message = next_message();
        if (!message || !message->is_null()) {
            return message;
        }
        const auto more = receive();
        if (!more) {
            return tl::unexpected(more.error());
        }
        if (!*more) {
            if (auto ready = wait(POLLIN, deadline); !ready) {
                return tl::unexpected(ready.error());
            }
        }
    }
}

/* Takes what has arrived, at most a piece of it; false when nothing has. */
MonitorResult<bool> Qmp::receive() {
    std::array<char, piece> buffer{};
    while (true) {
        const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (n > 0) {
            received_.append(buffer.data(), static_cast<std::size_t>(n));
            return true;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return false;
        }
        socket_ = Descriptor();
        return closed();
    }
}

MonitorResult<void> Qmp::send(const std::string& line, Deadline deadline) {
    std::size_t sent = 0;
    while (sent < line.size()) {
        const ssize_t n =
            ::send(socket_.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
        if (n >= 0) {
            sent += static_cast<std::size_t>(n);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (auto ready = wait(POLLOUT, deadline); !ready) {
                // Half a command is on its way: nothing can follow it.
                socket_ = Descriptor();
                return ready;
            }
        } else if (errno != EINTR) {
            socket_ = Descriptor();
            return closed();
        }
    }
    return {};
}

/* Until the socket is ready. */
MonitorResult<void> Qmp::wait(short events, Deadline deadline) {
    while (true) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        if (left <= 0ms) {
            return fail(Kind::silent, "no answer");
        }
        std::array<pollfd, 2> ready{{{socket_.get(), events, 0}, {interrupt_, POLLIN, 0}}};
        const int n = ::poll(ready.data(), ready.size(), static_cast<int>(left.count()));
        if (n > 0 && ready[1].revents != 0) {
            return fail(Kind::silent, "interrupted");
        }
        if (n > 0) {
            return {};
        }
    }
}

} // namespace pvdirty::cli
