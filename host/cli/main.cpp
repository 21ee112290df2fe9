// SPDX-License-Identifier: MIT
#include <cstdio>

#include "cli/cli.hpp"

int main(int argc, char** argv) {
    return pvdirty::cli::run(argc, argv, stdout, stderr);
}
