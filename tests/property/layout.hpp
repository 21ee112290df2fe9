// SPDX-License-Identifier: MIT
/** Where the stateful tests' VM has its pages, devices and logs. */
#ifndef PVDIRTY_TESTS_PROPERTY_LAYOUT_HPP
#define PVDIRTY_TESTS_PROPERTY_LAYOUT_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "guest/guest_log.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty::test {

inline constexpr std::uint64_t ram_gpa = std::uint64_t{1} << 40;
inline constexpr std::uint64_t second = 2 * std::uint64_t{PVDIRTY_WINDOW_PAGES};

/* Neither section ends with a group, nor with a word. */
inline const std::vector<SectionSpec> sections = {{0, 1300}, {2, 600}};

/* Pages that share a word, a group or a section, or nothing; the last ones too. */
inline constexpr std::array<std::uint64_t, 15> places = {
    0,    1,    5,      63,         64,           511,          512,         1023,
    1279, 1298, second, second + 5, second + 511, second + 512, second + 598};

inline std::uint64_t log_bytes() {
    return (GuestLog::bytes(sections) + PVDIRTY_PAGE_SIZE - 1) & ~std::uint64_t{0xfff};
}

/* Some pages of one section; rarely some that none covers. */
inline PageRange pages_for(unsigned place, unsigned length) {
    constexpr std::array<std::uint64_t, 8> lengths = {1, 1, 1, 1, 2, 3, 70, 600};
    const std::uint64_t first = places[place % places.size()];
    const std::uint64_t window = first & ~std::uint64_t{PVDIRTY_WINDOW_PAGES - 1};
    const std::uint64_t end = window + (first < second ? 1300 : 600);
    if (length % 41 == 40) {
        return {end, end + 1};
    }
    return {first, std::min(first + lengths[length % lengths.size()], end) - 1};
}

inline int rid_of(unsigned device) {
    return 0x100 + static_cast<int>(device);
}

inline constexpr unsigned tracking_cpu = 0;

inline constexpr std::uint32_t status_offset = offsetof(pvdirty_cap, device_status);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_LAYOUT_HPP
