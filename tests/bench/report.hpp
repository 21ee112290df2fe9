// SPDX-License-Identifier: MIT
/** The table that a person reads. */
#ifndef PVDIRTY_TESTS_BENCH_REPORT_HPP
#define PVDIRTY_TESTS_BENCH_REPORT_HPP

#include <vector>

#include <benchmark/benchmark.h>

namespace pvdirty::bench {

/** Prints one line for each benchmark from the counters that it has; "-" for others. */
class TableReporter final : public benchmark::BenchmarkReporter {
public:
    bool ReportContext(const Context& context) override;
    void ReportRuns(const std::vector<Run>& runs) override;

    /** Benchmarks that ran to their end, and that did not. */
    [[nodiscard]] int done() const noexcept { return done_; }
    [[nodiscard]] int failed() const noexcept { return failed_; }

private:
    int done_ = 0;
    int failed_ = 0;
};

} // namespace pvdirty::bench

#endif // PVDIRTY_TESTS_BENCH_REPORT_HPP
