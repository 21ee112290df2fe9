// SPDX-License-Identifier: MIT
/** Guest RAM that lets the library touch what it holds, and nothing else. */
#ifndef PVDIRTY_TESTS_FUZZ_RAM_HPP
#define PVDIRTY_TESTS_FUZZ_RAM_HPP

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "pvdirty/memory.hpp"

namespace pvdirty::fuzz {

/** Bytes [gpa, gpa + len). */
struct Area {
    std::uint64_t gpa = 0;
    std::uint64_t len = 0;

    [[nodiscard]] bool contains(std::uint64_t first, std::uint64_t bytes) const noexcept {
        return first >= gpa && bytes <= len && first - gpa <= len - bytes;
    }
};

struct RegionSpec {
    Area area;
    bool writable = true;
    std::size_t skew = 0; // the host's view is unaligned by so many bytes, a multiple of 8
};

/**
 * Regions of RAM and ROM. With the address sanitizer, each byte that is not held is poisoned. The
 * guest's own accesses go around that: peek() and poke(), one atomic instruction each, from any
 * thread. The rest belongs to the host's thread.
 */
class Ram final : public GuestMemory {
public:
    explicit Ram(const std::vector<RegionSpec>& specs);
    ~Ram() override;

    HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept override;
    void release(HeldRam ram) noexcept override;
    void written(std::uint64_t gpa, std::uint64_t len) noexcept override;

    /** A word of the guest's RAM; where there is none, it reads 0 and writes go nowhere. */
    [[nodiscard]] std::uint64_t peek(std::uint64_t gpa, unsigned bytes) const noexcept;
    void poke(std::uint64_t gpa, std::uint64_t value, unsigned bytes) noexcept;
    /** Sets bits of a 64-bit word. */
    void set(std::uint64_t gpa, std::uint64_t bits) noexcept;
    /** Host address where hold() would accept the area, without holding it; or nullptr. */
    [[nodiscard]] std::byte* view(std::uint64_t gpa, std::uint64_t len) const noexcept;

    [[nodiscard]] std::size_t regions() const noexcept { return regions_.size(); }
    [[nodiscard]] const Area& region(std::size_t index) const noexcept {
        return regions_[index].spec.area;
    }
    /** The region is unplugged: not to be held any more. Its bytes stay for the guest's thread. */
    void unplug(std::size_t index) noexcept { regions_[index].gone = true; }

    /** What is held now. */
    [[nodiscard]] const std::vector<Area>& held() const noexcept { return held_; }
    [[nodiscard]] bool holds_any_of(const Area& area) const noexcept;
    /** Calls of hold() and of written() since the last time. */
    unsigned take_hold_calls() noexcept { return std::exchange(hold_calls_, 0); }
    std::vector<Area> take_written() { return std::exchange(written_, {}); }
    /** Called inside hold() and written(): the guest's CPUs run then too. */
    void on_hold(std::function<void()> hook) { on_hold_ = std::move(hook); }
    void on_written(std::function<void()> hook) { on_written_ = std::move(hook); }

    /** Copies what is held, while the guest is quiet. */
    void remember();
    /** GPAs of the 64-bit words that have changed since then. */
    [[nodiscard]] std::vector<std::uint64_t> changed() const;

private:
    struct Free {
        void operator()(std::byte* block) const noexcept { std::free(block); }
    };
    struct Region {
        RegionSpec spec;
        std::unique_ptr<std::byte, Free> block;
        std::byte* host = nullptr;             // first byte of the guest's
        std::vector<std::uint16_t> line_holds; // holds of each 64 bytes
        bool gone = false;
    };

    [[nodiscard]] static Region make(const RegionSpec& spec);
    [[nodiscard]] const Region* find(std::uint64_t gpa, std::uint64_t len) const noexcept;
    static void poison(Region& region, const Area& area, int holds) noexcept;

    std::vector<Region> regions_;
    std::vector<Area> held_;
    std::vector<Area> written_;
    std::vector<std::pair<Area, std::vector<std::uint64_t>>> before_; // what remember() copied
    unsigned hold_calls_ = 0;
    std::function<void()> on_hold_, on_written_;
};

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_RAM_HPP
