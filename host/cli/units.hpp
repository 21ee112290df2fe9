// SPDX-License-Identifier: MIT
/** Figures as people read them. */
#ifndef PVDIRTY_CLI_UNITS_HPP
#define PVDIRTY_CLI_UNITS_HPP

#include <array>
#include <cstdint>
#include <string>

#include <fmt/format.h>

namespace pvdirty::cli {

/** "512 B", "1.5 MiB", … */
inline std::string size_text(std::uint64_t bytes) {
    constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        return fmt::format("{} B", bytes);
    }
    double value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < units.size()) {
        value /= 1024;
        ++unit;
    }
    return fmt::format("{:.1f} {}", value, units.at(unit));
}

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_UNITS_HPP
