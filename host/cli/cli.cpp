// SPDX-License-Identifier: MIT
#include "cli/cli.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "cli/commands.hpp"
#include "cli/compare.hpp"
#include "cli/dump.hpp"

namespace pvdirty::cli {

namespace {

using nlohmann::json;

struct CompareOptions {
    std::string a;
    std::string b;
    std::size_t show = 0;
    std::string json_file;
    bool oracle = false;
};

std::string to_text(const PageRange& range) {
    return range.first == range.last ? fmt::format("{:#x}", range.first)
                                     : fmt::format("{:#x}-{:#x}", range.first, range.last);
}

std::string to_text(const std::vector<std::byte>& bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        text += fmt::format(" {:02x}", static_cast<unsigned>(byte));
    }
    return text;
}

json to_json(const Comparison& comparison, bool oracle) {
    json blocks = json::array();
    json ranges = json::array();
    for (const BlockResult& block : comparison.blocks) {
        blocks.push_back({{"name", block.name},
                          {"size", block.size},
                          {"pages_total", block.pages_total},
                          {"pages_lost", block.pages_lost},
                          {"problem", block.problem}});
        for (const PageRange& range : block.ranges) {
            ranges.push_back({{"block", block.name}, {"first", range.first}, {"last", range.last}});
        }
    }
    json all = {{"bytes_compared", comparison.bytes_compared()},
                {"pages_total", comparison.pages_total()},
                {"pages_lost", comparison.pages_lost()},
                {"blocks", std::move(blocks)},
                {"ranges", std::move(ranges)}};
    if (oracle) {
        all["pages_lost_outside_oracle"] = comparison.pages_lost_outside_oracle();
    }
    return all;
}

void print(const Comparison& comparison, bool oracle, std::FILE* out) {
    for (const BlockResult& block : comparison.blocks) {
        if (!block.problem.empty()) {
            fmt::print(out, "{}: {}\n", block.name, block.problem);
        }
        if (block.pages_lost == 0) {
            continue;
        }
        fmt::print(out, "{}: {} of {} pages differ:", block.name, block.pages_lost,
                   block.pages_total);
        for (const PageRange& range : block.ranges) {
            fmt::print(out, " {}", to_text(range));
        }
        fmt::print(out, "\n");
        for (const Sample& sample : block.samples) {
            fmt::print(out, "  page {:#x} at {:#05x}\n    A{}\n    B{}\n", sample.page,
                       sample.offset, to_text(sample.a), to_text(sample.b));
        }
    }
    fmt::print(out, "{} bytes compared, {} of {} pages differ", comparison.bytes_compared(),
               comparison.pages_lost(), comparison.pages_total());
    if (oracle) {
        fmt::print(out, ", {} of them not written by a covered device",
                   comparison.pages_lost_outside_oracle());
    }
    fmt::print(out, "\n");
}

tl::expected<int, std::string> run_compare(const CompareOptions& options, std::FILE* out) {
    auto a = open_dump(options.a);
    if (!a) {
        return tl::unexpected(a.error());
    }
    auto b = open_dump(options.b);
    if (!b) {
        return tl::unexpected(b.error());
    }
    const auto comparison = compare(*a, *b, options.show);
    if (!comparison) {
        return tl::unexpected(comparison.error());
    }
    print(*comparison, options.oracle, out);
    if (!options.json_file.empty()) {
        std::ofstream stream(options.json_file);
        stream << to_json(*comparison, options.oracle).dump(2) << '\n';
        stream.close();
        if (!stream) {
            return tl::unexpected(fmt::format("cannot write {}", options.json_file));
        }
    }
    return comparison->equal() ? exit_done : exit_failed;
}

/* What CLI11 has to say, help or error, without its way of exiting. */
int answer(const CLI::App& app, const CLI::ParseError& error, std::FILE* out, std::FILE* err) {
    if (error.get_exit_code() == 0) {
        fmt::print(out, "{}", app.help());
        return exit_done;
    }
    fmt::print(err, "pvdirty: {}\n", error.what());
    return exit_usage;
}

Command add_compare(CLI::App& app) {
    auto options = std::make_shared<CompareOptions>();
    CLI::App* command =
        app.add_subcommand("compare", "Compare the memory of two stopped VMs, every byte of it.\n"
                                      "Exit code: 0 equal, 1 different or not readable, 2 usage");
    command->add_option("A", options->a, "dump directory or plain file (source)")
        ->required()
        ->check(CLI::ExistingPath);
    command->add_option("B", options->b, "dump directory or plain file (destination)")
        ->required()
        ->check(CLI::ExistingPath);
    command
        ->add_option("--show", options->show, "print the first differing bytes of that many pages")
        ->check(CLI::NonNegativeNumber);
    command->add_option("--json", options->json_file, "write the result to this file");
    command->add_flag("--oracle", options->oracle,
                      "tell apart pages that A's oracle saw a device write; without an "
                      "oracle in A it saw none");
    return {command, [options](std::FILE* out, std::FILE* err) -> int {
                const auto status = run_compare(*options, out);
                if (!status) {
                    fmt::print(err, "pvdirty compare: {}\n", status.error());
                    return exit_failed;
                }
                return *status;
            }};
}

} // namespace

int run(int argc, const char* const* argv, std::FILE* out, std::FILE* err) {
    CLI::App app("Live migration of VMs whose devices write memory by untracked DMA", "pvdirty");
    app.require_subcommand(1);

    const std::array commands{add_compare(app), add_status(app), add_watch(app), add_migrate(app)};
    const auto parsed = [&] {
        return std::find_if(commands.begin(), commands.end(),
                            [](const Command& command) { return command.app->parsed(); });
    };
    try {
        app.parse(argc, argv);
        return parsed()->run(out, err);
    } catch (const CLI::ParseError& error) {
        const auto* const command = parsed();
        return answer(command != commands.end() ? *command->app : app, error, out, err);
    } catch (const std::exception& error) {
        fmt::print(err, "pvdirty: {}\n", error.what());
        return exit_failed;
    }
}

} // namespace pvdirty::cli
