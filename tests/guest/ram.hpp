// SPDX-License-Identifier: MIT
/** Guest RAM for tests: sparse, so that the log of a TiB costs what is touched. */
#ifndef PVDIRTY_TESTS_GUEST_RAM_HPP
#define PVDIRTY_TESTS_GUEST_RAM_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <utility>

#include "pvdirty/memory.hpp"

namespace pvdirty::test {

/** One region of zeroed guest RAM that watches what the library does with it. */
class Ram final : public GuestMemory {
public:
    Ram(std::uint64_t gpa, std::uint64_t size);
    ~Ram() override;

    HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept override;
    void release(HeldRam ram) noexcept override;
    void written(std::uint64_t gpa, std::uint64_t len) noexcept override;

    [[nodiscard]] std::uint64_t gpa() const noexcept { return gpa_; }
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    /** An object at a GPA that lies in this RAM. */
    template <class T>
    [[nodiscard]] T* at(std::uint64_t gpa) const noexcept {
        return reinterpret_cast<T*>(host_ + (gpa - gpa_));
    }

    /** Holds that have not been released. */
    [[nodiscard]] int holds() const noexcept { return holds_; }
    /** Pages that the host said it wrote, since the last call. */
    std::set<std::uint64_t> take_written() { return std::exchange(written_, {}); }
    /** Calls of written(), and whether one left the region. */
    [[nodiscard]] int written_calls() const noexcept { return written_calls_; }
    [[nodiscard]] bool written_outside() const noexcept { return written_outside_; }
    /** Called inside each written(): the guest's CPUs run at any moment, so also then. */
    void on_written(std::function<void()> hook) { on_written_ = std::move(hook); }
    /** Makes the host's view of later holds unaligned by so many bytes. */
    void skew_views(std::size_t bytes) noexcept { skew_ = bytes; }

private:
    std::uint64_t gpa_;
    std::uint64_t size_;
    std::byte* host_;
    std::size_t skew_ = 0;
    int holds_ = 0;
    int written_calls_ = 0;
    bool written_outside_ = false;
    std::set<std::uint64_t> written_;
    std::function<void()> on_written_;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_GUEST_RAM_HPP
