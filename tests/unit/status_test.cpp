// SPDX-License-Identifier: MIT
/* The commands pvdirty status and pvdirty watch, on a model of a VM. */
#include <catch2/catch.hpp>

#include <csignal>
#include <sstream>
#include <string>

#include "cli/status.hpp"
#include "unit/command.hpp"
#include "unit/model_vm.hpp"
#include "unit/monitor_server.hpp"

using Catch::Matchers::Contains;
using nlohmann::json;
using pvdirty::cli::Milliseconds;
using pvdirty::cli::MonitorError;
using pvdirty::cli::Vm;
using pvdirty::cli::WatchOptions;
using pvdirty::unit::ModelPacer;
using pvdirty::unit::ModelVm;
using pvdirty::unit::MonitorServer;
using pvdirty::unit::Reply;
using pvdirty::unit::run;
using pvdirty::unit::Scratch;

namespace {

/* Answers as the model does. */
MonitorServer::Answer answers_of(ModelVm& model) {
    return [&model](const json& request) -> Reply {
        const auto answer = model.call(request.at("execute"), request.at("arguments"));
        return {{answer ? MonitorServer::returns(request, *answer)
                        : MonitorServer::refuses(request, answer.error().message)}};
    };
}

/* What watch printed, as lines of JSON. */
std::vector<json> watched(ModelVm& model, pvdirty::cli::Pacer& pacer, std::uint64_t count) {
    const Scratch scratch;
    std::FILE* out = std::fopen((scratch / "out").c_str(), "w");
    const auto ended = watch(Vm(model), WatchOptions{Milliseconds(1000), count, true}, pacer, out);
    std::fclose(out);
    REQUIRE(ended);
    std::istringstream text(pvdirty::unit::slurp(scratch / "out"));
    std::vector<json> lines;
    for (std::string line; std::getline(text, line);) {
        lines.push_back(json::parse(line));
    }
    return lines;
}

} // namespace

TEST_CASE("status: what a VM covers, for people and for programs", "[status]") {
    const Scratch scratch;
    ModelVm model;
    model.devices = {ModelVm::device("nic0"), ModelVm::device("nvme0", false)};
    model.devices[1]["tracked"] = false;
    model.devices[1]["why"] = "bound before the module";
    model.devices[1]["state"] = "leaving";
    const MonitorServer server(scratch / "qmp", answers_of(model));
    const auto text = run(scratch, {"status", "--qmp", scratch / "qmp"});
    CHECK(text.err.empty());
    REQUIRE(text.code == 0);
    CHECK_THAT(text.out, Contains("QEMU 7.2.1 (x), running") &&
                             Contains("port rp0: registered by the guest") && Contains("nic0") &&
                             Contains("no: bound before the module") && Contains("leaving") &&
                             Contains("complete: yes") && Contains("migration: none"));

    const auto program = run(scratch, {"status", "--json", "--qmp", scratch / "qmp"});
    REQUIRE(program.code == 0);
    const json all = json::parse(program.out);
    CHECK(all.at("complete") == true);
    CHECK(all.at("devices").at(0) == model.devices[0]);
    CHECK(all.at("devices").at(1) == model.devices[1]);
    CHECK(all.at("migration").at("status") == "none");
    CHECK(all.at("counters").at("pages-in-flight") == 3);
}

TEST_CASE("status: no plug-in, no answer that makes sense, no monitor", "[status]") {
    const Scratch scratch;
    ModelVm model;
    model.plugin = false;
    const MonitorServer server(scratch / "qmp", answers_of(model));
    const auto without = run(scratch, {"status", "--qmp", scratch / "qmp"});
    CHECK(without.code == 1);
    CHECK_THAT(without.err, Contains("-plugin file=.../libpvdirty-qemu.so"));
    CHECK(without.out.empty());

    const MonitorServer odd(scratch / "odd", [](const json& request) -> Reply {
        return {{MonitorServer::returns(request, "odd")}};
    });
    const auto nonsense = run(scratch, {"status", "--qmp", scratch / "odd"});
    CHECK(nonsense.code == 1);
    CHECK_THAT(nonsense.err, Contains("not expected"));

    const auto none = run(scratch, {"status", "--qmp", scratch / "none"});
    CHECK(none.code == 1);
    CHECK_THAT(none.err, Contains("cannot connect"));
    CHECK(run(scratch, {"status"}).code == 2);
}

TEST_CASE("status, watch: interrupted while connecting, as the help says", "[status]") {
    const std::string command = GENERATE("status", "watch");
    const Scratch scratch;
    sigset_t interrupt;
    sigset_t before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    // The server's thread inherits the mask: the signal waits for the command.
    REQUIRE(pthread_sigmask(SIG_BLOCK, &interrupt, &before) == 0);
    {
        ModelVm model;
        const MonitorServer silent(scratch / "qmp", answers_of(model), "");
        REQUIRE(std::raise(SIGINT) == 0);
        const auto ended = run(scratch, {command, "--qmp", scratch / "qmp"});
        CHECK(ended.code == 130);
        CHECK(ended.err == "pvdirty " + command + ": interrupted\n");
        CHECK(ended.out.empty());
    }
    REQUIRE(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
    CHECK_THAT(run(scratch, {command, "--help"}).out, Contains("130 interrupted"));
}

TEST_CASE("watch: a line for each interval, and what is marked in a second", "[status]") {
    ModelVm model;
    ModelPacer pacer({&model});
    model.converges_at = 1000;
    REQUIRE(model.call("migrate", {{"uri", "tcp:x"}}));
    const auto lines = watched(model, pacer, 3);
    REQUIRE(lines.size() == 3);
    CHECK(lines[0].at("dma-pages-per-second") == 0);
    CHECK(lines[2].at("dma-pages-per-second") == 100);
    CHECK(lines[2].at("seconds") == 2.0);
    CHECK(lines[2].at("migration").at("pass") == 20);
    CHECK(lines[2].at("counters").at("harvests") == 20);
}

TEST_CASE("watch: a new session counts from 0", "[status]") {
    class Anew final : public pvdirty::cli::Pacer {
    public:
        explicit Anew(ModelVm& model) : model_(&model), inner_({&model}) {}
        [[nodiscard]] pvdirty::cli::Moment now() const override { return inner_.now(); }
        [[nodiscard]] bool interrupted() const override { return false; }
        void pause(Milliseconds time) override {
            inner_.pause(time);
            model_->passes = 2;
        }

    private:
        ModelVm* model_;
        ModelPacer inner_;
    };
    ModelVm model;
    model.passes = 50;
    Anew pacer(model);
    CHECK(watched(model, pacer, 2).back().at("dma-pages-per-second") == 20);
}

TEST_CASE("watch: Ctrl-C is a normal end, QEMU's end is not", "[status]") {
    ModelVm model;
    ModelPacer pacer({&model});
    pacer.interrupted_at = Milliseconds(2500);
    CHECK(watched(model, pacer, 0).size() == 3);

    ModelVm going;
    ModelPacer on({&going});
    going.gone = Milliseconds(2500);
    const Scratch scratch;
    std::FILE* out = std::fopen((scratch / "out").c_str(), "w");
    const auto ended = watch(Vm(going), WatchOptions{}, on, out);
    std::fclose(out);
    REQUIRE_FALSE(ended);
    CHECK(ended.error().kind == MonitorError::Kind::closed);
    CHECK_THAT(pvdirty::unit::slurp(scratch / "out"), Contains("marked/s"));
}
