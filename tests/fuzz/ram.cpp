// SPDX-License-Identifier: MIT
#include "fuzz/ram.hpp"

#include <algorithm>
#include <cstring>

#include <sanitizer/asan_interface.h>

#include "fuzz/require.hpp"

/* The guest is not bound by what the host holds. */
#define GUEST_ACCESS __attribute__((no_sanitize("address")))

namespace pvdirty::fuzz {

namespace {

constexpr std::uint64_t line = 64;
constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);

GUEST_ACCESS std::uint64_t load(const std::byte* at, unsigned bytes) noexcept {
    switch (bytes) {
    case 1:
        return __atomic_load_n(reinterpret_cast<const std::uint8_t*>(at), __ATOMIC_RELAXED);
    case 4:
        return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(at), __ATOMIC_RELAXED);
    default:
        return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at), __ATOMIC_RELAXED);
    }
}

GUEST_ACCESS void store(std::byte* at, std::uint64_t value, unsigned bytes) noexcept {
    switch (bytes) {
    case 1:
        __atomic_store_n(reinterpret_cast<std::uint8_t*>(at), static_cast<std::uint8_t>(value),
                         __ATOMIC_RELAXED);
        break;
    case 4:
        __atomic_store_n(reinterpret_cast<std::uint32_t*>(at), static_cast<std::uint32_t>(value),
                         __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n(reinterpret_cast<std::uint64_t*>(at), value, __ATOMIC_RELAXED);
    }
}

GUEST_ACCESS void fetch_or(std::byte* at, std::uint64_t bits) noexcept {
    __atomic_fetch_or(reinterpret_cast<std::uint64_t*>(at), bits, __ATOMIC_RELAXED);
}

std::vector<std::uint64_t> copy(const std::byte* from, std::size_t words) {
    std::vector<std::uint64_t> copied(words);
    std::memcpy(copied.data(), from, words * word_bytes);
    return copied;
}

/* The last address of the area; the area is not empty and may end with the address space. */
std::uint64_t last_byte(const Area& area) noexcept {
    return area.gpa + (area.len - 1);
}

bool overlap(const Area& a, const Area& b) noexcept {
    return a.len != 0 && b.len != 0 && a.gpa <= last_byte(b) && b.gpa <= last_byte(a);
}

} // namespace

Ram::Region Ram::make(const RegionSpec& spec) {
    const std::size_t bytes = spec.skew + spec.area.len;
    void* block = nullptr;

    // To the byte, so that what follows the region is not ours.
    PVDIRTY_REQUIRE(::posix_memalign(&block, line, bytes) == 0);
    std::memset(block, 0, bytes);
    Region region{spec, std::unique_ptr<std::byte, Free>(static_cast<std::byte*>(block)),
                  static_cast<std::byte*>(block) + spec.skew,
                  std::vector<std::uint16_t>((spec.area.len + line - 1) / line), false};
    ASAN_POISON_MEMORY_REGION(block, bytes);
    return region;
}

Ram::Ram(const std::vector<RegionSpec>& specs) {
    regions_.reserve(specs.size());
    for (const RegionSpec& spec : specs) {
        regions_.push_back(make(spec));
    }
}

Ram::~Ram() {
    for (Region& region : regions_) {
        ASAN_UNPOISON_MEMORY_REGION(region.block.get(), region.spec.skew + region.spec.area.len);
    }
}

const Ram::Region* Ram::find(std::uint64_t gpa, std::uint64_t len) const noexcept {
    const auto found = std::find_if(regions_.begin(), regions_.end(), [&](const Region& region) {
        return region.spec.area.contains(gpa, len);
    });
    return found == regions_.end() ? nullptr : &*found;
}

std::byte* Ram::view(std::uint64_t gpa, std::uint64_t len) const noexcept {
    const Region* region = find(gpa, len);
    if (region == nullptr || region->gone || !region->spec.writable) {
        return nullptr;
    }
    return region->host + (gpa - region->spec.area.gpa);
}

void Ram::poison(Region& region, const Area& area, int holds) noexcept {
    const std::uint64_t first = area.gpa - region.spec.area.gpa;
    for (std::uint64_t at = first; at < first + area.len; at += line) {
        std::uint16_t& count = region.line_holds[at / line];
        count = static_cast<std::uint16_t>(count + holds);
        if (count == 0) { // NOLINT(bugprone-branch-clone): without the sanitizer, both are empty
            ASAN_POISON_MEMORY_REGION(region.host + at, line);
        } else {
            ASAN_UNPOISON_MEMORY_REGION(region.host + at, line);
        }
    }
}

HeldRam Ram::hold(std::uint64_t gpa, std::uint64_t len) noexcept {
    hold_calls_++;
    on_hold_();
    // What the format promises of every area, before the VMM is asked.
    PVDIRTY_REQUIRE(len != 0 && gpa % line == 0 && len % line == 0 && gpa + len > gpa);
    std::byte* host = view(gpa, len);
    if (host == nullptr) {
        return {};
    }
    auto* region = const_cast<Region*>(find(gpa, len));
    poison(*region, {gpa, len}, 1);
    held_.push_back({gpa, len});
    return {host, region};
}

void Ram::release(HeldRam ram) noexcept {
    auto* region = static_cast<Region*>(ram.region);
    const std::uint64_t gpa =
        region->spec.area.gpa + static_cast<std::uint64_t>(ram.host - region->host);
    const auto held = std::find_if(held_.begin(), held_.end(),
                                   [gpa](const Area& area) { return area.gpa == gpa; });

    PVDIRTY_REQUIRE(held != held_.end());
    /*
     * Two holds may begin at one address while an attach goes on; which of them ends cannot be
     * told, so that the longest stays accessible until both have ended.
     */
    const auto shortest = std::min_element(held, held_.end(), [gpa](const Area& a, const Area& b) {
        return std::pair(a.gpa != gpa, a.len) < std::pair(b.gpa != gpa, b.len);
    });
    poison(*region, *shortest, -1);
    held_.erase(shortest);
}

void Ram::written(std::uint64_t gpa, std::uint64_t len) noexcept {
    on_written_();
    PVDIRTY_REQUIRE(len != 0 && std::any_of(held_.begin(), held_.end(), [&](const Area& area) {
                        return area.contains(gpa, len);
                    }));
    written_.push_back({gpa, len});
}

std::uint64_t Ram::peek(std::uint64_t gpa, unsigned bytes) const noexcept {
    const std::uint64_t at = gpa - gpa % bytes;
    const Region* region = find(at, bytes);
    return region == nullptr ? 0 : load(region->host + (at - region->spec.area.gpa), bytes);
}

void Ram::poke(std::uint64_t gpa, std::uint64_t value, unsigned bytes) noexcept {
    const std::uint64_t at = gpa - gpa % bytes;
    const Region* region = find(at, bytes);
    if (region != nullptr) {
        store(region->host + (at - region->spec.area.gpa), value, bytes);
    }
}

void Ram::set(std::uint64_t gpa, std::uint64_t bits) noexcept {
    const std::uint64_t at = gpa - gpa % word_bytes;
    const Region* region = find(at, word_bytes);
    if (region != nullptr) {
        fetch_or(region->host + (at - region->spec.area.gpa), bits);
    }
}

bool Ram::holds_any_of(const Area& area) const noexcept {
    return std::any_of(held_.begin(), held_.end(),
                       [&](const Area& held) { return overlap(held, area); });
}

void Ram::remember() {
    before_.clear();
    for (const Area& area : held_) {
        before_.emplace_back(area, copy(view(area.gpa, area.len), area.len / word_bytes));
    }
}

std::vector<std::uint64_t> Ram::changed() const {
    std::vector<std::uint64_t> gpas;
    for (const auto& [area, before] : before_) {
        const std::vector<std::uint64_t> now = copy(view(area.gpa, area.len), before.size());
        for (std::size_t i = 0; i < before.size(); i++) {
            if (now[i] != before[i]) {
                gpas.push_back(area.gpa + i * word_bytes);
            }
        }
    }
    return gpas;
}

} // namespace pvdirty::fuzz
