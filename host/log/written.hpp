// SPDX-License-Identifier: MIT
/** Tells the VMM what the library wrote to guest RAM, in few calls. */
#ifndef PVDIRTY_LOG_WRITTEN_HPP
#define PVDIRTY_LOG_WRITTEN_HPP

#include <algorithm>
#include <cstdint>

#include "pvdirty/memory.hpp"
#include "pvdirty/pages.hpp"

namespace pvdirty {

/**
 * Collects writes that ascend through one area. Writes in the same page or in the next one become
 * one call, which names no page that was not written. The VMM is told after the write, never
 * before it: it could copy the old bytes in between.
 */
class Written {
public:
    explicit Written(GuestMemory& memory) noexcept : memory_(memory) {}
    Written(const Written&) = delete;
    Written& operator=(const Written&) = delete;
    ~Written() { flush(); }

    void add(std::uint64_t gpa, std::uint64_t len) noexcept {
        if (end_ != 0 && gpa >= begin_ && page(gpa) <= page(end_ - 1) + 1) {
            end_ = std::max(end_, gpa + len);
            return;
        }
        flush();
        begin_ = gpa;
        end_ = gpa + len;
    }

private:
    static std::uint64_t page(std::uint64_t gpa) noexcept { return gpa >> PVDIRTY_PAGE_SHIFT; }

    void flush() noexcept {
        if (end_ != 0) {
            memory_.written(begin_, end_ - begin_);
        }
    }

    GuestMemory& memory_;
    std::uint64_t begin_ = 0;
    std::uint64_t end_ = 0; // 0: nothing collected
};

} // namespace pvdirty

#endif // PVDIRTY_LOG_WRITTEN_HPP
