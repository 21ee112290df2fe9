// SPDX-License-Identifier: MIT
/** A QMP monitor on a unix socket, in a thread: it says what a test has it say. */
#ifndef PVDIRTY_TESTS_UNIT_MONITOR_SERVER_HPP
#define PVDIRTY_TESTS_UNIT_MONITOR_SERVER_HPP

#include <array>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cli/descriptor.hpp"

namespace pvdirty::unit {

/** The address of a socket at a short path. */
inline sockaddr_un unix_address(const std::filesystem::path& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    REQUIRE(path.string().size() < sizeof(address.sun_path));
    std::strcpy(address.sun_path, path.c_str());
    return address;
}

/** An address as the kernel's calls take it. */
inline const sockaddr* generic(const sockaddr_un& address) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return reinterpret_cast<const sockaddr*>(&address);
}

/** What a server sends to a request: lines, and then perhaps nothing ever again. */
struct Reply {
    std::vector<std::string> lines;
    bool close = false;
};

/** Takes one client after the other. Its answers are given in its own thread. */
class MonitorServer {
public:
    using Answer = std::function<Reply(const nlohmann::json& request)>;

    static constexpr auto greeting = R"({"QMP": {"version": {}, "capabilities": []}})";

    /** @param hello what a new client is sent; "" to keep it waiting */
    MonitorServer(const std::filesystem::path& path, Answer answer, std::string hello = greeting)
        : answer_(std::move(answer)), hello_(std::move(hello)),
          listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
          stop_(::eventfd(0, EFD_CLOEXEC)) {
        const sockaddr_un address = unix_address(path);
        REQUIRE(::bind(listener_.get(), generic(address), sizeof(address)) == 0);
        REQUIRE(::listen(listener_.get(), 4) == 0);
        thread_ = std::thread([this] { serve(); });
    }
    MonitorServer(const MonitorServer&) = delete;
    MonitorServer& operator=(const MonitorServer&) = delete;
    ~MonitorServer() {
        ::eventfd_write(stop_.get(), 1);
        thread_.join();
    }

    /** An answer that has a result. */
    static std::string returns(const nlohmann::json& request, const nlohmann::json& result) {
        return nlohmann::json{{"return", result}, {"id", request.at("id")}}.dump();
    }
    /** An answer that refuses. */
    static std::string refuses(const nlohmann::json& request, const std::string& why) {
        return nlohmann::json{{"error", {{"class", "GenericError"}, {"desc", why}}},
                              {"id", request.at("id")}}
            .dump();
    }

private:
    /* Until there is something to read; false when it is time to go. */
    [[nodiscard]] bool wait(int fd) const {
        std::array<pollfd, 2> ready{{{fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
        while (::poll(ready.data(), ready.size(), -1) <= 0) {
        }
        return ready[1].revents == 0;
    }

    void serve() {
        while (wait(listener_.get())) {
            const cli::Descriptor client(
                ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            // A client that does not read must not keep the thread from its end.
            const timeval patience{10, 0};
            ::setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
            if (send(client.get(), hello_)) {
                converse(client.get());
            }
        }
    }

    static bool send(int fd, const std::string& line) {
        const std::string bytes = line.empty() ? "" : line + "\r\n";
        return ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(bytes.size());
    }

    void converse(int fd) {
        std::string received;
        std::array<char, 4096> buffer{};
        while (wait(fd)) {
            const ssize_t n = ::recv(fd, buffer.data(), buffer.size(), 0);
            if (n <= 0) {
                return;
            }
            received.append(buffer.data(), static_cast<std::size_t>(n));
            for (auto end = received.find('\n'); end != std::string::npos;
                 end = received.find('\n')) {
                const auto request = nlohmann::json::parse(received.substr(0, end));
                received.erase(0, end + 1);
                const Reply reply = request.at("execute") == "qmp_capabilities"
                                        ? Reply{{returns(request, nlohmann::json::object())}}
                                        : answer_(request);
                for (const std::string& line : reply.lines) {
                    if (!send(fd, line)) {
                        return;
                    }
                }
                if (reply.close) {
                    return;
                }
            }
        }
    }

    Answer answer_;
    std::string hello_;
    cli::Descriptor listener_;
    cli::Descriptor stop_;
    std::thread thread_;
};

} // namespace pvdirty::unit

#endif // PVDIRTY_TESTS_UNIT_MONITOR_SERVER_HPP
