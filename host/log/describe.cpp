// SPDX-License-Identifier: MIT
#include "pvdirty/error.hpp"

#include <bit>

namespace pvdirty {

std::string_view describe(pvdirty_error error) noexcept {
    switch (error) {
    case PVDIRTY_OK:
        return "no error";
    case PVDIRTY_E_STATE:
        return "register or status bit not writable in this state";
    case PVDIRTY_E_FEATURES:
        return "features not offered, or none taken";
    case PVDIRTY_E_LOG_ADDR:
        return "log not aligned or not in writable RAM";
    case PVDIRTY_E_LOG_SIZE:
        return "log too small for its sections";
    case PVDIRTY_E_LOG_HEADER:
        return "wrong signature or version in the log";
    case PVDIRTY_E_SECTION_COUNT:
        return "no section in the log, or too many";
    case PVDIRTY_E_SECTION_RANGE:
        return "a section's window is unaligned, out of order or too long";
    case PVDIRTY_E_SECTION_ADDR:
        return "a section's marks or counters are not aligned, not in writable RAM, or overlap";
    case PVDIRTY_E_LOG_BUSY:
        return "another log is registered";
    case PVDIRTY_E_LOG_GONE:
        return "the RAM that held the log was removed";
    }
    return "unknown error";
}

std::string_view describe_device_reason(unsigned reason) noexcept {
    switch (reason) {
    case PVDIRTY_R_NO_DRIVER:
        return "no driver bound, so firmware DMA may go on";
    case PVDIRTY_R_EARLY_DRIVER:
        return "driver bound before the layer came";
    case PVDIRTY_R_IOMMU:
        return "a vIOMMU translates its DMA";
    case PVDIRTY_R_USER_DMA:
        return "driven from user space in the guest";
    case PVDIRTY_R_COHERENT_MEM:
        return "has coherent memory of its own";
    case PVDIRTY_R_OTHER_OPS:
        return "uses DMA operations of its own";
    case PVDIRTY_R_NO_MEMORY:
        return "the guest had no memory to track it";
    case PVDIRTY_R_NO_DMA_API:
        return "its driver does not use the DMA API";
    case PVDIRTY_R_CHILD:
        return "a child device of it does DMA of its own";
    case PVDIRTY_R_OUTSIDE:
        return "it mapped a page outside every section of the log";
    case PVDIRTY_R_NO_LOG:
        return "the guest only touches pages";
    default:
        return "the guest does not track it";
    }
}

std::string_view describe_incomplete(unsigned bits) noexcept {
    switch (std::countr_zero(bits)) {
    case PVDIRTY_I_OUTSIDE:
        return "a page outside every section was mapped";
    case PVDIRTY_I_UNDERFLOW:
        return "a page was unmapped more often than mapped";
    case PVDIRTY_I_CHILD:
        return "a child device does DMA of its own";
    case PVDIRTY_I_DEVICES:
        return "the guest sees more devices than the log has entries";
    case PVDIRTY_I_NO_MEMORY:
        return "the guest had no memory to track";
    default:
        return "the guest says that its log is incomplete";
    }
}

} // namespace pvdirty
