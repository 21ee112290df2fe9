// SPDX-License-Identifier: MIT
/** Guest RAM as the library sees it: an interface that a VMM implements, and RAII over it. */
#ifndef PVDIRTY_MEMORY_HPP
#define PVDIRTY_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <utility>

namespace pvdirty {

/** A host view of guest RAM. */
struct HeldRam {
    std::byte* host = nullptr; /**< first byte; nullptr: refused */
    void* region = nullptr;    /**< the VMM's handle of the region */
};

/**
 * What the library needs of the VMM's guest RAM. Called on the caller's thread inside library
 * calls; must not call back into the library.
 */
class GuestMemory {
public:
    GuestMemory() = default;
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;
    virtual ~GuestMemory() = default;

    /**
     * Host view of [gpa, gpa + len), which must lie in one region of writable, migratable RAM and
     * stays mapped until it is released. host is nullptr when refused.
     */
    virtual HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept = 0;
    virtual void release(HeldRam ram) noexcept = 0;
    /** The host wrote to [gpa, gpa + len): dirty like after any write. */
    virtual void written(std::uint64_t gpa, std::uint64_t len) noexcept = 0;
};

/** Guest RAM that is held for as long as this object lives. */
class RamHold {
public:
    RamHold() noexcept = default;
    /** Holds [gpa, gpa + len); false in a boolean context when the VMM refused. */
    RamHold(GuestMemory& memory, std::uint64_t gpa, std::uint64_t len) noexcept
        : memory_(&memory), ram_(memory.hold(gpa, len)), gpa_(gpa), len_(len) {}
    RamHold(RamHold&& other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), ram_(std::exchange(other.ram_, {})),
          gpa_(other.gpa_), len_(other.len_) {}
    RamHold& operator=(RamHold&& other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(ram_, other.ram_);
        std::swap(gpa_, other.gpa_);
        std::swap(len_, other.len_);
        return *this;
    }
    RamHold(const RamHold&) = delete;
    RamHold& operator=(const RamHold&) = delete;
    ~RamHold() {
        if (ram_.host != nullptr) {
            memory_->release(ram_);
        }
    }

    explicit operator bool() const noexcept { return ram_.host != nullptr; }
    [[nodiscard]] std::byte* host() const noexcept { return ram_.host; }
    [[nodiscard]] std::uint64_t gpa() const noexcept { return gpa_; }
    [[nodiscard]] std::uint64_t size() const noexcept { return len_; }
    [[nodiscard]] bool overlaps(std::uint64_t gpa, std::uint64_t len) const noexcept {
        return len != 0 && len_ != 0 && gpa <= gpa_ + (len_ - 1) &&
               (gpa >= gpa_ || len > gpa_ - gpa);
    }

private:
    GuestMemory* memory_ = nullptr;
    HeldRam ram_{};
    std::uint64_t gpa_ = 0;
    std::uint64_t len_ = 0;
};

} // namespace pvdirty

#endif // PVDIRTY_MEMORY_HPP
