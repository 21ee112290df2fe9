// SPDX-License-Identifier: MIT
/** Runs the command `pvdirty`, and keeps what it says. */
#ifndef PVDIRTY_TESTS_UNIT_COMMAND_HPP
#define PVDIRTY_TESTS_UNIT_COMMAND_HPP

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <unistd.h>

#include "cli/cli.hpp"

namespace pvdirty::unit {

/** A directory that goes with the test. */
class Scratch {
public:
    Scratch() {
        std::string name = (std::filesystem::temp_directory_path() / "pvdirty-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
        return path_ / name;
    }

private:
    std::filesystem::path path_;
};

inline std::string slurp(const std::filesystem::path& path) {
    std::ifstream stream(path);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

/** How a command ended. */
struct Result {
    int code = 0;
    std::string out;
    std::string err;
};

/** Runs the command line as a whole. */
inline Result run(const Scratch& scratch, const std::vector<std::string>& args) {
    std::vector<const char*> argv{"pvdirty"};
    for (const std::string& arg : args) {
        argv.push_back(arg.c_str());
    }
    const std::filesystem::path out_path = scratch / "out";
    const std::filesystem::path err_path = scratch / "err";
    std::FILE* out = std::fopen(out_path.c_str(), "w");
    std::FILE* err = std::fopen(err_path.c_str(), "w");
    const int code = pvdirty::cli::run(static_cast<int>(argv.size()), argv.data(), out, err);
    std::fclose(out);
    std::fclose(err);
    return {code, slurp(out_path), slurp(err_path)};
}

} // namespace pvdirty::unit

#endif // PVDIRTY_TESTS_UNIT_COMMAND_HPP
