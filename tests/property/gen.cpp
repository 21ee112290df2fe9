// SPDX-License-Identifier: MIT
#include "property/gen.hpp"

#include <algorithm>

namespace pvdirty::test {

namespace {

/* Edges of words, groups and windows are where things go wrong. */
rc::Gen<std::uint32_t> any_npages() {
    return rc::gen::oneOf(
        rc::gen::just<std::uint32_t>(PVDIRTY_WINDOW_PAGES),
        rc::gen::inRange<std::uint32_t>(1, PVDIRTY_WINDOW_PAGES + 1),
        rc::gen::inRange<std::uint32_t>(1, 130),
        rc::gen::map(rc::gen::inRange<std::uint32_t>(0, 1024), [](std::uint32_t n) {
            return std::min<std::uint32_t>(n / 2 * 512 + n % 2 + 511, PVDIRTY_WINDOW_PAGES);
        }));
}

} // namespace

rc::Gen<std::uint64_t> any_size(unsigned bits) {
    return rc::gen::mapcat(rc::gen::inRange(0U, bits + 1), [](unsigned order) {
        const std::uint64_t top = std::uint64_t{1} << order;
        return rc::gen::oneOf(rc::gen::just(top), rc::gen::just(top - 1),
                              rc::gen::inRange<std::uint64_t>(top / 2, top + 1));
    });
}

rc::Gen<Layout> any_layout(unsigned max_sections) {
    return rc::gen::mapcat(rc::gen::inRange(1U, max_sections + 1), [](unsigned sections) {
        const auto step = rc::gen::weightedElement<std::uint64_t>({{6, 1}, {2, 2}, {1, 9}});
        return rc::gen::map(
            rc::gen::container<std::vector<std::pair<std::uint64_t, std::uint32_t>>>(
                sections, rc::gen::pair(step, any_npages())),
            [](const auto& steps) {
                Layout layout;
                std::uint64_t window = 0;
                for (const auto& [step, npages] : steps) {
                    window += step;
                    layout.push_back({window - 1, npages});
                }
                return layout;
            });
    });
}

rc::Gen<std::uint64_t> any_pfn(const Layout& layout) {
    return rc::gen::mapcat(rc::gen::elementOf(layout), [](const SectionSpec& section) {
        const std::uint64_t base = section.window << PVDIRTY_WINDOW_SHIFT;
        const std::uint64_t end = base + section.npages;
        return rc::gen::oneOf(
            rc::gen::inRange<std::uint64_t>(base, end),
            rc::gen::inRange<std::uint64_t>(base - std::min<std::uint64_t>(base, 2), base + 3),
            rc::gen::inRange<std::uint64_t>(end - std::min<std::uint64_t>(end, 66), end + 66));
    });
}

rc::Gen<Bytes> any_bytes(const Layout& layout, unsigned bits) {
    return rc::gen::apply(
        [](std::uint64_t pfn, std::uint64_t offset, std::uint64_t len, bool ends_here) {
            std::uint64_t gpa = (pfn << PVDIRTY_PAGE_SHIFT) + offset;
            if (ends_here) {
                gpa -= std::min(gpa, len);
            }
            return Bytes{gpa, len};
        },
        any_pfn(layout),
        rc::gen::oneOf(rc::gen::just<std::uint64_t>(0), rc::gen::just<std::uint64_t>(4095),
                       rc::gen::inRange<std::uint64_t>(0, 4096)),
        any_size(bits), rc::gen::arbitrary<bool>());
}

std::ostream& operator<<(std::ostream& out, const SectionSpec& section) {
    return out << "window " << section.window << " pages " << section.npages;
}

std::ostream& operator<<(std::ostream& out, const Bytes& bytes) {
    return out << "gpa " << bytes.gpa << " len " << bytes.len;
}

} // namespace pvdirty::test
