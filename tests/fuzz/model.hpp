// SPDX-License-Identifier: MIT
/** The log as shared/SPEC.md says it is read: plainly, for a guest that holds still. */
#ifndef PVDIRTY_TESTS_FUZZ_MODEL_HPP
#define PVDIRTY_TESTS_FUZZ_MODEL_HPP

#include <cstdint>
#include <optional>
#include <vector>

#include "fuzz/pages.hpp"
#include "fuzz/ram.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty::fuzz {

class Model {
public:
    /** A copy of the table; nothing when the host must refuse the log. */
    static std::optional<Model> read(const Ram& ram, std::uint64_t addr, std::uint32_t pages,
                                     std::uint32_t max_sections);

    /** Marks in the range whose bits in the root and the summary are set. */
    [[nodiscard]] Pages marks(PageRange range) const;
    /** Pages whose counter is not 0, and whose bits in the root and the summary are set. */
    [[nodiscard]] Pages in_flight() const;
    /** Is the page's counter not 0? Nothing when no section has the page. */
    [[nodiscard]] std::optional<bool> in_flight(std::uint64_t pfn) const;

private:
    struct Section {
        std::uint64_t base_pfn;
        std::uint64_t npages;
        std::uint64_t marks;
        std::uint64_t counts;
    };

    Model(const Ram& ram, std::uint64_t addr) : ram_(&ram), addr_(addr) {}
    [[nodiscard]] bool bit(std::uint64_t gpa, std::uint64_t index) const;
    /** Calls function(section, group) for each group whose bits are set at two offsets. */
    template <class Function>
    void for_each_group(std::uint64_t top, std::uint64_t summary, Function function) const;

    const Ram* ram_;
    std::uint64_t addr_;
    std::vector<Section> sections_;
};

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_MODEL_HPP
