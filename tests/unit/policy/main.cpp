// SPDX-License-Identifier: MIT
/* policy-table: writes the policy's table to stdout, or compares it with a file. */
#include <algorithm>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

#include "unit/policy/table.hpp"

namespace {

int check(const char* path, const std::string& text) {
    std::ifstream file(path);
    const std::string there{std::istreambuf_iterator<char>(file), {}};
    if (there == text) {
        return 0;
    }
    const auto differ = std::mismatch(there.begin(), there.end(), text.begin(), text.end());
    std::cerr << "policy-table: " << path << " differs from line "
              << 1 + std::count(there.begin(), differ.first, '\n')
              << "; if that is meant: build/host/tests/unit/policy-table >host/session/POLICY.md\n";
    return 1;
}

} // namespace

int main(int argc, char** argv) {
    try {
        const std::string text = pvdirty::test::policy_document();
        if (argc == 3 && std::strcmp(argv[1], "--check") == 0) {
            return check(argv[2], text);
        }
        if (argc == 1) {
            std::cout << text;
            return std::cout.flush() ? 0 : 1;
        }
    } catch (const std::exception& error) {
        std::cerr << "policy-table: " << error.what() << '\n';
        return 1;
    }
    std::cerr << "usage: policy-table [--check FILE]\n";
    return 2;
}
