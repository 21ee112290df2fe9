// SPDX-License-Identifier: MIT
/** What the parts of the C API share: a VM's domain, and text for the caller. */
#ifndef PVDIRTY_CAPI_HANDLES_HPP
#define PVDIRTY_CAPI_HANDLES_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "pvdirty/domain.hpp"
#include "pvdirty/memory.hpp"
#include "pvdirty/pvdirty.h"

namespace pvdirty::capi {

/** Guest RAM through the VMM's callbacks. */
class VmmMemory final : public GuestMemory {
public:
    VmmMemory(const pvd_vmm_ops& ops, void* opaque) noexcept : ops_(ops), opaque_(opaque) {}

    HeldRam hold(std::uint64_t gpa, std::uint64_t len) noexcept override {
        const pvd_ram ram = ops_.ram_hold(opaque_, gpa, len);
        return {static_cast<std::byte*>(ram.host), ram.region};
    }
    void release(HeldRam ram) noexcept override {
        ops_.ram_release(opaque_, {ram.host, ram.region});
    }
    void written(std::uint64_t gpa, std::uint64_t len) noexcept override {
        ops_.ram_written(opaque_, gpa, len);
    }
    [[nodiscard]] int rid(void* device_opaque) const noexcept {
        return ops_.device_rid(opaque_, device_opaque);
    }

private:
    pvd_vmm_ops ops_;
    void* opaque_;
};

/** Copies what fits, and ends it. */
inline void copy_text(const std::string& text, char* out, std::size_t len) noexcept {
    if (out == nullptr || len == 0) {
        return;
    }
    const std::size_t n = std::min(text.size(), len - 1);
    std::memcpy(out, text.data(), n);
    out[n] = '\0';
}

} // namespace pvdirty::capi

struct pvd_domain {
    pvdirty::capi::VmmMemory memory;
    pvdirty::Domain domain;

    pvd_domain(const pvd_vmm_ops& ops, void* opaque, std::uint32_t id) noexcept
        : memory(ops, opaque), domain(memory, id) {}
};

#endif // PVDIRTY_CAPI_HANDLES_HPP
