// SPDX-License-Identifier: MIT
/** Generators: layouts of sections, and byte ranges of any size. */
#ifndef PVDIRTY_TESTS_PROPERTY_GEN_HPP
#define PVDIRTY_TESTS_PROPERTY_GEN_HPP

#include <cstdint>
#include <ostream>
#include <vector>

#include <rapidcheck.h>

#include "guest/guest_log.hpp"

namespace pvdirty::test {

/** Bytes that a driver mapped. */
struct Bytes {
    std::uint64_t gpa = 0;
    std::uint64_t len = 0;
};

using Layout = std::vector<SectionSpec>;

/** 0, or 1 byte to 2^bits bytes with every order of magnitude equally often. */
rc::Gen<std::uint64_t> any_size(unsigned bits);

/** Up to max_sections sections, holes between them, most windows partial. */
rc::Gen<Layout> any_layout(unsigned max_sections);

/** A range that begins or ends near the sections, or anywhere, up to 2^bits bytes long. */
rc::Gen<Bytes> any_bytes(const Layout& layout, unsigned bits);

/** A page in or next to a section. */
rc::Gen<std::uint64_t> any_pfn(const Layout& layout);

std::ostream& operator<<(std::ostream& out, const SectionSpec& section);
std::ostream& operator<<(std::ostream& out, const Bytes& bytes);

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_PROPERTY_GEN_HPP
