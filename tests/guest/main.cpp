// SPDX-License-Identifier: MIT
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

int main(int argc, char** argv) {
    Catch::Session session;
    if (session.applyCommandLine(argc, argv) != 0) {
        return 2;
    }
    return session.run() == 0 ? 0 : 1;
}
