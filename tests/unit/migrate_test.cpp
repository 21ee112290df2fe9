// SPDX-License-Identifier: MIT
/* The command pvdirty migrate, on models of both VMs and of the clock. */
#include <catch2/catch.hpp>

#include <sstream>
#include <string>

#include "cli/incoming.hpp"
#include "cli/migrate.hpp"
#include "cli/progress.hpp"
#include "unit/command.hpp"
#include "unit/model_vm.hpp"

using Catch::Matchers::Contains;
using nlohmann::json;
using namespace pvdirty::cli;
using namespace std::chrono_literals;
using pvdirty::unit::ModelPacer;
using pvdirty::unit::ModelVm;
using pvdirty::unit::run;
using pvdirty::unit::Scratch;

namespace {

/* A source with two covered devices, and a destination that waits. */
struct World {
    ModelVm source;
    ModelVm destination;
    ModelPacer pacer{{&source, &destination}};
    MigrateOptions options;
    std::vector<Snapshot> shown;

    World() {
        source.devices = {ModelVm::device("nic0"), ModelVm::device("nvme0", false)};
        source.lets_go_within = 1000ms;
        destination.run_state = "paused";
    }

    MigrateReport migrate() {
        const Vm from(source);
        const Vm to(destination);
        return pvdirty::cli::migrate(from, {"unix:x", &to}, options, pacer,
                                     [this](const Snapshot& now) { shown.push_back(now); });
    }

    /* The source goes on, with all that it had. */
    void check_intact(const ModelVm& vm) const {
        CHECK(vm.run_state == "running");
        CHECK(vm.has("nic0"));
        CHECK(vm.has("nvme0"));
        CHECK(vm.devices.size() == 2);
        CHECK_FALSE(vm.return_path);
        for (const json& device : vm.devices) {
            CHECK(device["hold"] == false);
        }
    }
};

} // namespace

TEST_CASE("migrate: devices leave when the rest is small, and replacements come", "[migrate]") {
    World world;
    world.options.replacements = {{{"driver", "e1000e"}, {"id", "new0"}}};
    world.options.max_downtime_ms = 50;
    world.options.bandwidth = 1000;
    const auto report = world.migrate();
    CHECK(report.message.empty());
    REQUIRE(report.code == exit_done);
    CHECK(report.status == "completed");
    CHECK(report.devices == std::vector<std::string>{"nic0", "nvme0"});
    CHECK(report.passes >= 5 + 10); // it converges, and the guest takes a second
    CHECK(report.downtime_ms == 7);
    CHECK(report.ram_bytes_sent >= 15000);
    REQUIRE(report.unplugged_ms);
    CHECK(*report.unplugged_ms < 1000);
    CHECK(world.source.devices.empty());
    CHECK(world.destination.added == world.options.replacements);
    CHECK(world.source.parameters["downtime-limit"] == 300);
    CHECK(world.source.parameters["max-bandwidth"] == 1);
    CHECK_FALSE(world.source.return_path);
    // Nobody is asked before the migration has converged.
    for (const Snapshot& now : world.shown) {
        CHECK((now.awaited.empty() || now.rest.converged));
    }
    CHECK(to_json(report).at("unplugged_ms") == *report.unplugged_ms);
}

TEST_CASE("migrate: only the devices that are named leave", "[migrate]") {
    World world;
    world.options.devices = {"nvme0"};
    REQUIRE(world.migrate().code == exit_done);
    CHECK(world.source.has("nic0"));
    CHECK_FALSE(world.source.has("nvme0"));
}

TEST_CASE("migrate: kept devices stay, and nothing is held for them", "[migrate]") {
    World world;
    world.options.policy = DevicePolicy::keep;
    const auto report = world.migrate();
    REQUIRE(report.code == exit_done);
    CHECK_FALSE(report.unplugged_ms);
    CHECK(world.source.devices.size() == 2);
    CHECK(world.source.count("device_del") == 0);
    CHECK(world.source.count("qom-set") == 0);
}

TEST_CASE("migrate: unplugged first, a device is away for all of the migration", "[migrate]") {
    World world;
    world.options.unplug_first = true;
    const auto report = world.migrate();
    REQUIRE(report.code == exit_done);
    REQUIRE(report.unplugged_ms);
    CHECK(*report.unplugged_ms >= 500);
    const auto& called = world.source.called;
    CHECK(std::find(called.begin(), called.end(), "device_del") <
          std::find(called.begin(), called.end(), "migrate"));
}

TEST_CASE("migrate: a guest that does not let go keeps its devices", "[migrate]") {
    World world;
    world.source.lets_go_within.reset();
    world.options.unplug_first = GENERATE(false, true);
    world.options.timeout = 3000ms;
    const auto report = world.migrate();
    CHECK(report.code == exit_timeout);
    CHECK_THAT(report.message, Contains("nic0, nvme0") && Contains("3 s"));
    CHECK(report.status == (world.options.unplug_first ? "none" : "cancelled"));
    CHECK(report.plugged_back.empty());
    world.check_intact(world.source);
}

TEST_CASE("migrate: a guest that lets go late gets its devices again", "[migrate]") {
    World world;
    world.source.lets_go_within = 5000ms;
    world.options.timeout = 2000ms;
    const auto report = world.migrate();
    CHECK(report.code == exit_timeout);
    CHECK(report.plugged_back.size() == 2);
    REQUIRE(world.source.added.size() == 2);
    CHECK(world.source.added[0] == ModelVm::device("nic0")["device-add"][0]);
    world.check_intact(world.source);
}

TEST_CASE("migrate: a device that QEMU does not end comes back beside itself", "[migrate]") {
    World world;
    world.source.never_ends = true;
    world.options.timeout = 5000ms;
    const auto report = world.migrate();
    CHECK(report.code == exit_timeout);
    CHECK_THAT(report.message, Contains("the guest has let go, but QEMU sees no end of nic0"));
    CHECK(report.plugged_back.size() == 2);
    CHECK(world.source.has("nic0"));
    CHECK(world.source.has("nvme0"));
    CHECK(world.source.devices.size() == 4);
}

TEST_CASE("migrate: what was on a device's bus is plugged in again with it", "[migrate]") {
    World world;
    world.source.lets_go_within = 5000ms;
    world.options.timeout = 2000ms;
    const json disk = {{"driver", "scsi-hd"}, {"bus", "nic0.0"}, {"drive", "d0"}};
    world.source.devices[0]["device-add"].push_back(disk);
    const auto report = world.migrate();
    CHECK(report.code == exit_timeout);
    REQUIRE(world.source.added.size() == 3);
    CHECK(world.source.added[0]["id"] == "nic0");
    CHECK(world.source.added[1] == disk);

    World bare;
    bare.source.devices[0]["device-add"] = nullptr;
    const auto refused = bare.migrate();
    CHECK(refused.code == exit_failed);
    CHECK_THAT(refused.message, Contains("nic0 could not be plugged in again: QEMU cannot"));
    bare.check_intact(bare.source);
}

TEST_CASE("migrate: a device that cannot be plugged in again is named", "[migrate]") {
    World world;
    world.source.lets_go_within = 5000ms;
    world.options.timeout = 2000ms;
    world.source.refuses["device_add"] = "no room";
    const auto report = world.migrate();
    CHECK(report.code == exit_timeout);
    CHECK_THAT(report.message, Contains("not plugged in again: nic0 (no room)"));
}

TEST_CASE("migrate: an interruption leaves the source as it was", "[migrate]") {
    World world;
    world.pacer.interrupted_at = GENERATE(0ms, 200ms, 800ms, 1400ms);
    world.options.unplug_first = GENERATE(false, true);
    const auto report = world.migrate();
    CHECK(report.code == exit_interrupted);
    world.check_intact(world.source);
}

TEST_CASE("migrate: refusals of QEMU and of the policy", "[migrate]") {
    World world;
    world.source.refuses["migrate"] = "pvdirty: nvme0: not tracked";
    auto report = world.migrate();
    CHECK(report.code == exit_refused);
    CHECK_THAT(report.message, Contains("nvme0: not tracked"));
    world.check_intact(world.source);

    world.source.refuses["migrate"] = "no such address";
    report = world.migrate();
    CHECK(report.code == exit_failed);
    CHECK(report.status == "none");
    world.check_intact(world.source);
}

TEST_CASE("migrate: by URI, the source waits for a destination that can answer", "[migrate]") {
    const bool answers = GENERATE(true, false);
    const char* const uri = answers ? "tcp:host:4444" : "exec:cat >state";
    World world;
    world.options.policy = DevicePolicy::keep;
    const auto report = pvdirty::cli::migrate(Vm(world.source), {uri, nullptr}, world.options,
                                              world.pacer, [](const Snapshot&) {});
    REQUIRE(report.code == exit_done);
    CHECK(world.source.uri == uri);
    const auto& called = world.source.called;
    const auto asked = std::find(called.begin(), called.end(), "migrate-set-capabilities");
    const auto begun = std::find(called.begin(), called.end(), "migrate");
    CHECK((asked < begun) == answers);
    CHECK(world.source.count("migrate-set-capabilities") == (answers ? 2 : 0));
    CHECK_FALSE(world.source.return_path);
}

TEST_CASE("migrate: one that fails on its way", "[migrate]") {
    World world;
    world.source.error = "Unable to write to socket: Broken pipe";
    const auto report = world.migrate();
    CHECK(report.code == exit_failed);
    CHECK(report.status == "failed");
    CHECK_THAT(report.message, Contains("Broken pipe"));
    CHECK(report.passes > 0);
    CHECK(report.ram_bytes_sent > 0);
    CHECK(report.plugged_back.size() == 2);
    world.check_intact(world.source);
}

TEST_CASE("migrate: where the reason is when the source does not know it", "[migrate]") {
    World world;
    world.source.fails_unexplained = true;
    const auto report = world.migrate();
    CHECK(report.code == exit_failed);
    CHECK(report.status == "failed");
    CHECK_THAT(report.message, Contains("see what it printed at the destination"));
    world.check_intact(world.source);
}

TEST_CASE("migrate: a source that does not go on is no secret", "[migrate]") {
    World world;
    world.source.error = "Broken pipe";
    world.source.stays_stopped = true;
    CHECK_THAT(world.migrate().message, Contains("the source is paused, and was running"));
}

TEST_CASE("migrate: a source that ends", "[migrate]") {
    World world;
    world.source.gone = 700ms;
    const auto report = world.migrate();
    CHECK(report.code == exit_failed);
    CHECK_THAT(report.message, Contains("closed its monitor"));
    CHECK(world.pacer.elapsed() < 60s);
}

TEST_CASE("migrate: a destination that ends before its replacement", "[migrate]") {
    World world;
    world.options.replacements = {{{"driver", "e1000e"}}};
    world.destination.gone = 800ms;
    const auto report = world.migrate();
    CHECK(report.code == exit_failed);
    CHECK(report.status == "completed");
    CHECK_THAT(report.message, Contains("without its replacement"));
    CHECK(world.source.count("device_add") == 0);
}

TEST_CASE("migrate: what stands in the way before the start", "[migrate]") {
    World world;
    SECTION("another migration") {
        world.source.status = "active";
        CHECK_THAT(world.migrate().message, Contains("another migration is running"));
        CHECK(world.source.count("migrate_cancel") == 0);
    }
    SECTION("an unknown device") {
        world.options.devices = {"nic7"};
        CHECK_THAT(world.migrate().message, Contains("'nic7'") && Contains("nic0, nvme0"));
    }
    SECTION("a device without an id") {
        world.source.devices[0]["device-add"][0].erase("id");
        CHECK_THAT(world.migrate().message, Contains("nic0") && Contains("id="));
    }
    CHECK(world.source.called.empty());
}

TEST_CASE("migrate: where a destination waits", "[migrate]") {
    ModelVm model;
    const Vm vm(model);
    PrivateDirectory directory;
    CHECK_FALSE(incoming_uri(vm, directory)); // it runs

    model.run_state = "inmigrate";
    model.addresses = json::array({{{"type", "unix"}, {"path", "/x"}}});
    CHECK(incoming_uri(vm, directory) == "unix:/x");
    model.addresses = json::array({{{"type", "inet"}, {"host", "0.0.0.0"}, {"port", "9"}}});
    CHECK(incoming_uri(vm, directory) == "tcp:127.0.0.1:9");
    model.addresses = json::array({{{"type", "inet"}, {"host", "::"}, {"port", "9"}}});
    CHECK(incoming_uri(vm, directory) == "tcp:[::1]:9");
    CHECK(model.called.empty());

    model.addresses = json();
    std::filesystem::path made;
    {
        PrivateDirectory own;
        const auto uri = incoming_uri(vm, own);
        REQUIRE(uri);
        CHECK(*uri == model.uri);
        made = std::filesystem::path(uri->substr(5)).parent_path();
        CHECK(std::filesystem::status(made).permissions() == std::filesystem::perms::owner_all);
    }
    CHECK_FALSE(std::filesystem::exists(made));
}

TEST_CASE("migrate: progress, now and then", "[migrate]") {
    World world;
    world.source.converges_at = 100;
    REQUIRE(world.migrate().code == exit_done);
    const Scratch scratch;
    std::FILE* out = std::fopen((scratch / "out").c_str(), "w");
    {
        Progress progress(out, false);
        for (const Snapshot& now : world.shown) {
            progress.show(now);
        }
    }
    std::fclose(out);
    const std::string text = pvdirty::unit::slurp(scratch / "out");
    CHECK_THAT(text, Contains("active: pass 0, 1.0 MiB left\n") &&
                         Contains("by CPUs + 400.0 KiB/s by DMA, sent 9.8 KiB/s, no end") &&
                         Contains("waits for nic0, nvme0") && Contains("completed: "));
    CHECK(std::count(text.begin(), text.end(), '\n') < 8);
}

TEST_CASE("migrate: rates of slow passes are those from sync to sync", "[migrate]") {
    const Scratch scratch;
    std::FILE* out = std::fopen((scratch / "out").c_str(), "w");
    {
        Progress progress(out, false);
        Snapshot now;
        now.migration.status = "active";
        now.migration.page_size = 4096;
        // 10 s each, and before the first; devices dirty 100 pages in a second, CPUs as many.
        for (const unsigned pass : {0U, 1U, 2U, 3U}) {
            now.migration.passes = pass;
            now.migration.dirty_pages_per_second = pass <= 1 ? 0 : 200;
            now.counters.pages_marked = pass <= 1 ? 0 : std::uint64_t{1000} * (pass - 1);
            for (int look = 0; look < 20; ++look) {
                progress.show(now);
                now.taken += 500ms;
                now.migration.transferred_bytes += 1 << 20;
            }
        }
    }
    std::fclose(out);
    const std::string text = pvdirty::unit::slurp(scratch / "out");
    INFO(text);
    std::istringstream lines(text);
    int split = 0;
    for (std::string line; std::getline(lines, line);) {
        const bool first_pass =
            line.find("pass 0,") != std::string::npos || line.find("pass 1,") != std::string::npos;
        const bool says =
            line.find("dirty 400.0 KiB/s by CPUs + 400.0 KiB/s by DMA, sent 2.0 MiB/s") !=
            std::string::npos;
        CHECK(first_pass == (line.find("dirty") == std::string::npos));
        CHECK(first_pass != says);
        split += says ? 1 : 0;
    }
    CHECK(split >= 4);
}

TEST_CASE("migrate: what the command line must have", "[migrate]") {
    const Scratch scratch;
    const std::vector<std::string> start{"migrate", "--from", scratch / "s", "--to", "tcp:x:1"};
    for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{
             {},
             {"--policy", "other"},
             {"--policy", "unplug", "--replacement", "nic"},
             {"--policy", "unplug", "--replacement", "{}"},
             {"--policy", "unplug", "--replacement", R"({"driver": "x"})"}, // no monitor
             {"--policy", "keep", "--device", "nic0"},
             {"--policy", "keep", "--unplug-first"},
             {"--policy", "keep", "--bandwidth", "much"}}) {
        auto words = start;
        words.insert(words.end(), more.begin(), more.end());
        const auto ended = run(scratch, words);
        CHECK(ended.code == exit_usage);
        CHECK_FALSE(ended.err.empty());
    }
    auto words = start;
    words.insert(words.end(), {"--policy", "keep", "--bandwidth", "100M", "--json"});
    const auto ended = run(scratch, words);
    CHECK(ended.code == exit_failed);
    CHECK_THAT(ended.err, Contains("cannot connect"));
    CHECK(json::parse(ended.out).at("exit_code") == 1);
}
