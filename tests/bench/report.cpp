// SPDX-License-Identifier: MIT
#include "bench/report.hpp"

#include <cstdio>
#include <optional>
#include <string>

namespace pvdirty::bench {

namespace {

using Run = benchmark::BenchmarkReporter::Run;

std::optional<double> value(const Run& run, const char* name) {
    const auto found = run.counters.find(name);
    return found == run.counters.end() ? std::nullopt : std::optional<double>(found->second.value);
}

std::string format(const char* pattern, double number) {
    char text[32] = "";
    (void)std::snprintf(text, sizeof(text), pattern, number);
    return text;
}

std::string time(const Run& run, const char* name) {
    const auto ns = value(run, name);
    if (!ns) {
        return "-";
    }
    return *ns < 1e3   ? format("%.0f ns", *ns)
           : *ns < 1e6 ? format("%.2f us", *ns / 1e3)
                       : format("%.2f ms", *ns / 1e6);
}

std::string ratio(const Run& run, const char* name) {
    const auto found = value(run, name);
    return !found ? "-" : *found < 0.1 ? format("%.2g", *found) : format("%.2f", *found);
}

} // namespace

bool TableReporter::ReportContext(const Context& /*context*/) {
    std::printf("%-28s %11s %10s %10s %7s %10s %7s %10s\n", "benchmark", "pages", "library",
                "limit (a)", "lib/(a)", "flat (b)", "lib/(b)", "memcpy");
    return true;
}

void TableReporter::ReportRuns(const std::vector<Run>& runs) {
    for (const Run& run : runs) {
        if (run.run_type == Run::RT_Aggregate) {
            continue;
        }
        const std::string name = run.run_name.function_name;
        if (run.error_occurred) {
            std::printf("%-28s FAILED: %s\n", name.c_str(), run.error_message.c_str());
            failed_++;
            continue;
        }
        done_++;
        std::printf("%-28s %11.0f %10s %10s %7s %10s %7s %10s\n", name.c_str(),
                    value(run, "pages").value_or(0), time(run, "library_ns").c_str(),
                    time(run, "limit_ns").c_str(), ratio(run, "library_to_limit").c_str(),
                    time(run, "flat_ns").c_str(), ratio(run, "library_to_flat").c_str(),
                    time(run, "memcpy_ns").c_str());
        (void)std::fflush(stdout);
    }
}

} // namespace pvdirty::bench
