// SPDX-License-Identifier: MIT
/** What must hold in a fuzz target: reported with its place, and the process ends. */
#ifndef PVDIRTY_TESTS_FUZZ_REQUIRE_HPP
#define PVDIRTY_TESTS_FUZZ_REQUIRE_HPP

#include <cstdio>
#include <cstdlib>

namespace pvdirty::fuzz {

[[noreturn]] inline void violated(const char* what, const char* file, int line) noexcept {
    std::fprintf(stderr, "%s:%d: violated: %s\n", file, line, what);
    std::abort();
}

} // namespace pvdirty::fuzz

/** Never compiled out. */
#define PVDIRTY_REQUIRE(condition)                                                                 \
    ((condition) ? static_cast<void>(0) : pvdirty::fuzz::violated(#condition, __FILE__, __LINE__))

#endif // PVDIRTY_TESTS_FUZZ_REQUIRE_HPP
