// SPDX-License-Identifier: MIT
/*
 * What the host's part costs: harvest and scan beside the limit of the machine and beside the loop
 * that one would write by hand, and a session's harvest when nothing happens. Each round runs all
 * subjects on the same log; shown are medians, of times and of the ratios of each round. Time is
 * that of the thread, so that what else runs on the machine counts as little as can be. Nothing is
 * asserted of time, but each result is: a subject that finds other pages fails.
 */
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "bench/report.hpp"
#include "bench/subjects.hpp"
#include "bench/vm.hpp"
#include "pvdirty/domain.hpp"

namespace pvdirty::bench {

namespace {

double now() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

/* Nanoseconds of one call; what asking for the time costs is taken away. */
double time_of(const std::function<void()>& function, unsigned calls = 1) {
    static const double asking = [] {
        double least = 1e9;
        for (unsigned i = 0; i < 1000; i++) {
            const double start = now();
            least = std::min(least, now() - start);
        }
        return least;
    }();
    const double start = now();
    for (unsigned i = 0; i < calls; i++) {
        function();
    }
    return std::max(0.0, now() - start - asking) / calls;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

/* Only one VM at a time exists: a large one's log takes more than a GiB. */
class Vms {
public:
    Vm& of(std::uint64_t gib) {
        if (!vm_ || vm_->sections() != gib) {
            vm_.reset();
            vm_ = std::make_unique<Vm>(gib);
        }
        return *vm_;
    }

private:
    std::unique_ptr<Vm> vm_;
};

struct Row {
    Tree tree;
    State state;
    std::uint64_t gib;
};

/* The benchmark's own way to fill a log, against the guest core's. */
bool fills_like_core(Vm& vm, Row row) {
    const auto cleared = vm.snapshot();
    vm.fill();
    const auto filled = vm.snapshot();
    if ((filled == cleared) != (row.state == State::empty)) {
        return false;
    }
    vm.choose(row.tree, row.state);
    vm.fill_by_core();
    const bool alike = vm.snapshot() == filled;
    vm.choose(row.tree, row.state);
    return alike;
}

void compare(benchmark::State& run, Vm& vm, Row row) {
    constexpr unsigned idle_calls = 1000;
    const bool marks = row.tree == Tree::marks;
    std::uint64_t found = 0;
    const std::vector<std::function<void()>> subjects = {
        [&] { found = marks ? harvest(vm) : scan(vm); },
        [&] { marks ? harvest_limit(vm) : scan_limit(vm); },
        [&] { marks ? harvest_flat(vm) : scan_flat(vm); },
    };
    const std::size_t library = 0;
    const std::size_t limit = 1;
    const bool empty = row.state == State::empty;
    std::vector<std::vector<double>> times(subjects.size());
    std::vector<double> copies;
    std::vector<std::uint64_t> copy(vm.bitmap().size());

    vm.choose(row.tree, row.state);
    if (row.gib == 1 && !fills_like_core(vm, row)) {
        run.SkipWithError("the log is not filled like the guest core does");
        return;
    }
    std::size_t round = 0;
    for ([[maybe_unused]] auto iteration : run) {
        for (std::size_t i = 0; i < subjects.size(); i++) {
            const std::size_t subject = (i + round) % subjects.size();
            vm.fill();
            const bool idle = empty && subject == library;
            times[subject].push_back(time_of(subjects[subject], idle ? idle_calls : 1));
            if (!vm.take_bitmap() || (subject == library && found != vm.chosen_pages())) {
                run.SkipWithError("found other pages than there are");
                return;
            }
        }
        copies.push_back(time_of([&] {
            std::memcpy(copy.data(), vm.bitmap().data(), vm.bitmap().size_bytes());
            benchmark::DoNotOptimize(copy.data());
            benchmark::ClobberMemory();
        }));
        run.SetIterationTime(times[library].back() / 1e9);
        round++;
    }

    const auto ratio_to = [&](std::size_t other) {
        std::vector<double> ratios;
        for (std::size_t i = 0; i < round; i++) {
            ratios.push_back(times[library][i] / times[other][i]);
        }
        return median(ratios);
    };
    run.counters["pages"] = static_cast<double>(vm.chosen_pages());
    run.counters["gib"] = static_cast<double>(row.gib);
    run.counters["library_ns"] = median(times[library]);
    if (!empty) {
        run.counters["limit_ns"] = median(times[limit]);
        run.counters["library_to_limit"] = ratio_to(limit);
    }
    run.counters["flat_ns"] = median(times[2]);
    run.counters["library_to_flat"] = ratio_to(2);
    run.counters["memcpy_ns"] = median(copies);
}

/* A session's harvest with everything around it, of a VM whose devices do nothing. */
void idle_session(benchmark::State& run, Vm& vm, unsigned devices) {
    vm.choose(Tree::marks, State::empty);
    Domain domain(vm.memory(), 1);
    Port& port = domain.add_port("port", PVDIRTY_FEATURES_ALL);
    const auto write = [&](std::size_t offset, std::uint64_t value, std::uint32_t len) {
        port.write(static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(value), len);
    };
    write(offsetof(pvdirty_cap, guest_features), PVDIRTY_FEATURES_LOG, 4);
    write(offsetof(pvdirty_cap, log_addr_lo), vm.guest().log.addr(), 4);
    write(offsetof(pvdirty_cap, log_addr_hi), vm.guest().log.addr() >> 32, 4);
    write(offsetof(pvdirty_cap, log_pages), vm.guest().log.pages(), 4);
    write(offsetof(pvdirty_cap, device_status),
          VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
              VIRTIO_CONFIG_S_DRIVER_OK,
          1);
    auto& table = vm.guest().log.control().devices;
    for (unsigned i = 0; i < devices; i++) {
        const int rid = 0x100 + static_cast<int>(i);
        table[i] = PVDIRTY_DEV(rid, PVDIRTY_DEV_TRACKED, 0);
        domain.add_device(port, "device", [rid] { return rid; });
    }
    domain.set_logging(Logger::session, true);

    constexpr unsigned calls = 100;
    std::vector<double> times;
    HarvestResult result;
    for ([[maybe_unused]] auto iteration : run) {
        times.push_back(time_of([&] { result = domain.harvest({}, {}); }, calls));
        run.SetIterationTime(times.back() / 1e9);
        if (result.all_dirty || result.pages_marked != 0 || result.pages_in_flight != 0) {
            run.SkipWithError("an idle VM is not idle, or not complete");
            return;
        }
    }
    std::fill(std::begin(table), std::end(table), 0);
    run.counters["pages"] = 0;
    run.counters["library_ns"] = median(times);
}

/* Would a subject that loses a page be found out? */
bool loss_is_seen(Vm& vm) {
    bool lost = false;
    auto drop_one = [&](std::uint64_t first_pfn, std::uint64_t mask) {
        const std::uint64_t kept = lost ? mask : mask & (mask - 1);
        lost = true;
        vm.bitmap()[first_pfn / 64] |= kept;
    };
    vm.choose(Tree::marks, State::sparse);
    vm.fill();
    vm.log().harvest(PageSink(drop_one));
    return lost && !vm.take_bitmap();
}

const char* name_of(State state) {
    switch (state) {
    case State::empty:
        return "empty";
    case State::sparse:
        return "sparse";
    case State::gib:
        return "1GiB";
    case State::full:
        return "full";
    }
    return "?";
}

void add_rows(Vms& vms, std::uint64_t gib, int rounds) {
    const std::string ram = "/" + std::to_string(gib) + "GiB";
    const auto add = [&](const std::string& name, const auto& function) {
        benchmark::RegisterBenchmark(name.c_str(), function)
            ->Iterations(rounds)
            ->UseManualTime()
            ->Unit(benchmark::kNanosecond);
    };
    const auto add_row = [&](Tree tree, State state) {
        const std::string what = tree == Tree::marks ? "harvest/" : "scan/";
        add(what + name_of(state) + ram,
            [&vms, row = Row{tree, state, gib}](auto& run) { compare(run, vms.of(row.gib), row); });
    };
    for (const State state : {State::empty, State::sparse, State::full}) {
        add_row(Tree::marks, state);
    }
    for (const State state : {State::empty, State::sparse, State::gib, State::full}) {
        if (state != State::gib || gib > 1) {
            add_row(Tree::counts, state);
        }
    }
    for (const unsigned devices : {1U, PVDIRTY_MAX_DEVICES}) {
        add("session/idle/" + std::to_string(devices) + "dev" + ram,
            [&vms, gib, devices](auto& run) { idle_session(run, vms.of(gib), devices); });
    }
}

} // namespace

} // namespace pvdirty::bench

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 2;
    }
    pvdirty::bench::Vms vms;
    if (!pvdirty::bench::loss_is_seen(vms.of(1))) {
        (void)std::fputs("bench: a lost page would not be seen\n", stderr);
        return 1;
    }
    benchmark::AddCustomContext("pvdirty_build_type", PVDIRTY_BUILD_TYPE);
    pvdirty::bench::add_rows(vms, 1, 31);
    pvdirty::bench::add_rows(vms, 64, 15);
    pvdirty::bench::add_rows(vms, 1024, 9);
    pvdirty::bench::add_rows(vms, 4096, 7);
    pvdirty::bench::TableReporter table;
    benchmark::RunSpecifiedBenchmarks(&table);
    benchmark::Shutdown();
    return table.failed() != 0 || table.done() == 0 ? 1 : 0;
}
