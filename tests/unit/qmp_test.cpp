// SPDX-License-Identifier: MIT
/* The client of a monitor, against a server that behaves as monitors do, and as they should not. */
#include <catch2/catch.hpp>

#include <cerrno>
#include <string>
#include <vector>

#include "cli/qmp.hpp"
#include "unit/command.hpp"
#include "unit/monitor_server.hpp"

using Catch::Matchers::Contains;
using nlohmann::json;
using pvdirty::cli::Descriptor;
using pvdirty::cli::MonitorError;
using pvdirty::cli::Patience;
using pvdirty::cli::Qmp;
using pvdirty::unit::MonitorServer;
using pvdirty::unit::Reply;
using pvdirty::unit::Scratch;
using namespace std::chrono_literals;

namespace {

constexpr Patience patient{30s, 30s};
constexpr Patience impatient{50ms, 50ms};

Reply echo(const json& request) {
    return {{MonitorServer::returns(request, request.at("arguments"))}};
}

} // namespace

TEST_CASE("qmp: answers, refusals and events", "[qmp]") {
    const Scratch scratch;
    const MonitorServer server(scratch / "qmp", [](const json& request) -> Reply {
        const std::string event = R"({"event": "DEVICE_DELETED", "data": {"path": "/x"}})";
        if (request.at("execute") == "bad") {
            return {{event, MonitorServer::refuses(request, "it is so"), event}};
        }
        return echo(request);
    });
    const auto qmp = Qmp::connect(scratch / "qmp", patient, -1);
    REQUIRE(qmp);
    CHECK((*qmp)->take_events().empty());
    CHECK((*qmp)->call("echo", {{"a", 1}}) == json{{"a", 1}});
    const auto refused = (*qmp)->call("bad");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().kind == MonitorError::Kind::refused);
    CHECK(refused.error().message == "it is so");
    CHECK((*qmp)->call("echo", {{"a", 2}}) == json{{"a", 2}});
    const auto events = (*qmp)->take_events();
    REQUIRE(events.size() == 2);
    CHECK(events[0].name == "DEVICE_DELETED");
    CHECK(events[1].data == json{{"path", "/x"}});
    CHECK((*qmp)->take_events().empty());
}

TEST_CASE("qmp: no more events are kept than anybody waits for", "[qmp]") {
    const Scratch scratch;
    const MonitorServer server(scratch / "qmp", [](const json& request) -> Reply {
        Reply reply;
        for (int i = 0; i < 2000; ++i) {
            reply.lines.push_back(json{{"event", std::to_string(i)}}.dump());
        }
        reply.lines.push_back(MonitorServer::returns(request, json::object()));
        return reply;
    });
    const auto qmp = Qmp::connect(scratch / "qmp", patient, -1);
    REQUIRE(qmp);
    REQUIRE((*qmp)->call("flood"));
    const auto events = (*qmp)->take_events();
    CHECK(events.size() == 256);
    CHECK(events.back().name == "1999");
}

TEST_CASE("qmp: a late answer is not taken for the next one", "[qmp]") {
    const Scratch scratch;
    json kept;
    const MonitorServer server(scratch / "qmp", [&](const json& request) -> Reply {
        if (request.at("execute") == "slow") {
            kept = request;
            return {};
        }
        return {{MonitorServer::returns(kept, "late"), MonitorServer::returns(request, "mine")}};
    });
    const auto qmp = Qmp::connect(scratch / "qmp", {30s, 300ms}, -1);
    REQUIRE(qmp);
    const auto slow = (*qmp)->call("slow");
    REQUIRE_FALSE(slow);
    CHECK(slow.error().kind == MonitorError::Kind::silent);
    CHECK_THAT(slow.error().message, Contains("slow"));
    CHECK((*qmp)->call("next") == json("mine"));
}

TEST_CASE("qmp: a monitor that another client has", "[qmp]") {
    const Scratch scratch;
    const MonitorServer server(scratch / "qmp", echo, "");
    const auto qmp = Qmp::connect(scratch / "qmp", impatient, -1);
    REQUIRE_FALSE(qmp);
    CHECK(qmp.error().kind == MonitorError::Kind::silent);
    CHECK_THAT(qmp.error().message, Contains("one client at a time"));
}

TEST_CASE("qmp: others wait for a monitor that is taken", "[qmp]") {
    const Scratch scratch;
    const auto address = pvdirty::unit::unix_address(scratch / "qmp");
    const Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(listener.get(), pvdirty::unit::generic(address), sizeof(address)) == 0);
    REQUIRE(::listen(listener.get(), 0) == 0);
    // Clients of a full queue would wait for ever if their sockets did.
    std::vector<Descriptor> waiting;
    do {
        REQUIRE(waiting.size() < 16);
        waiting.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    } while (::connect(waiting.back().get(), pvdirty::unit::generic(address), sizeof(address)) ==
             0);
    REQUIRE(errno == EAGAIN);
    const auto qmp = Qmp::connect(scratch / "qmp", impatient, -1);
    REQUIRE_FALSE(qmp);
    CHECK(qmp.error().kind == MonitorError::Kind::silent);
    CHECK_THAT(qmp.error().message, Contains("others wait for it"));
}

TEST_CASE("qmp: no monitor", "[qmp]") {
    const Scratch scratch;
    const auto none = Qmp::connect(scratch / "none", patient, -1);
    REQUIRE_FALSE(none);
    CHECK(none.error().kind == MonitorError::Kind::closed);
    CHECK_THAT(none.error().message, Contains("cannot connect"));

    const MonitorServer server(scratch / "ssh", echo, R"({"SSH": 2})");
    const auto other = Qmp::connect(scratch / "ssh", patient, -1);
    REQUIRE_FALSE(other);
    CHECK(other.error().kind == MonitorError::Kind::malformed);

    const MonitorServer noise(scratch / "noise", echo, "SSH-2.0");
    CHECK_FALSE(Qmp::connect(scratch / "noise", patient, -1));
}

TEST_CASE("qmp: a monitor that goes, and comes again", "[qmp]") {
    const Scratch scratch;
    const MonitorServer server(scratch / "qmp", [](const json& request) -> Reply {
        if (request.at("execute") == "quit") {
            return {{}, true};
        }
        return echo(request);
    });
    const auto qmp = Qmp::connect(scratch / "qmp", patient, -1);
    REQUIRE(qmp);
    for (const char* command : {"quit", "echo"}) {
        const auto gone = (*qmp)->call(command);
        REQUIRE_FALSE(gone);
        CHECK(gone.error().kind == MonitorError::Kind::closed);
    }
    CHECK((*qmp)->take_events().empty());
    REQUIRE((*qmp)->reconnect());
    CHECK((*qmp)->call("echo", {{"a", 1}}) == json{{"a", 1}});
}

TEST_CASE("qmp: an interruption ends the wait for a greeting", "[qmp]") {
    const Scratch scratch;
    const MonitorServer server(scratch / "qmp", echo, "");
    const Descriptor interrupt(::eventfd(1, EFD_CLOEXEC));
    const auto qmp = Qmp::connect(scratch / "qmp", patient, interrupt.get());
    REQUIRE_FALSE(qmp);
    CHECK(qmp.error().kind == MonitorError::Kind::silent);
}

TEST_CASE("qmp: a path longer than an address holds", "[qmp]") {
    const Scratch scratch;
    const auto directory = scratch / std::string(120, 'd');
    std::filesystem::create_directory(directory);
    std::filesystem::create_symlink(scratch / "qmp", directory / "qmp");
    const MonitorServer server(scratch / "qmp", echo);
    CHECK(Qmp::connect(directory / "qmp", patient, -1));
}
