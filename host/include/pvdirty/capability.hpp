// SPDX-License-Identifier: MIT
/** The vendor capability of a port: registers and the status handshake. */
#ifndef PVDIRTY_CAPABILITY_HPP
#define PVDIRTY_CAPABILITY_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <tl/expected.hpp>

#include "pvdirty_abi.h"

namespace pvdirty {

/** What the guest asks for when it sets DRIVER_OK. */
struct Registration {
    std::uint32_t features = 0; /**< 1u << PVDIRTY_F_* */
    std::uint64_t log_addr = 0;
    std::uint32_t log_pages = 0;

    [[nodiscard]] bool wants_log() const noexcept {
        return (features & (1U << PVDIRTY_F_BITMAP)) != 0;
    }
    [[nodiscard]] bool can_be_complete() const noexcept {
        return (features & PVDIRTY_FEATURES_LOG) == PVDIRTY_FEATURES_LOG;
    }
};

/** Told by the registers when the guest comes and goes. */
class Registrar {
public:
    Registrar() = default;
    Registrar(const Registrar&) = delete;
    Registrar& operator=(const Registrar&) = delete;
    virtual ~Registrar() = default;

    /** DRIVER_OK is asked for; anything but PVDIRTY_OK refuses it. */
    virtual pvdirty_error enter(const Registration& registration) = 0;
    /** The port was reset, or failed; called whether it was registered or not. */
    virtual void leave() = 0;
};

/** Bytes of one saved capability: a layout of its own, with a version. */
inline constexpr std::size_t port_state_len = 64;

/**
 * The registers of one port, as config space shows them. Every write of any value, offset and
 * width is safe. Threads: serialised by the caller.
 */
class Capability {
public:
    /**
     * @param host_features 1u << PVDIRTY_F_*; bits unknown to this version are not offered
     * @param domain shown to the guest
     */
    Capability(std::uint32_t host_features, std::uint32_t domain) noexcept;

    /** struct pvdirty_cap as the guest reads it; cap_vndr and cap_next are 0. */
    [[nodiscard]] const std::array<std::uint8_t, PVDIRTY_CAP_LEN>& bytes() const noexcept {
        return bytes_;
    }

    /** The guest writes len bytes at offset; see shared/SPEC.md for what is allowed when. */
    void write(std::uint32_t offset, std::uint32_t value, std::uint32_t len, Registrar& registrar);

    /** Back to power-on values. Does not tell a registrar. */
    void reset() noexcept;
    /** The host ends the registration: the guest must reset the port and begin again. */
    void revoke(pvdirty_error error) noexcept;

    [[nodiscard]] bool registered() const noexcept;
    /** What was asked for; of use while registered() only. */
    [[nodiscard]] Registration registration() const noexcept;
    /** 1u << PVDIRTY_F_* that this port offers. */
    [[nodiscard]] std::uint32_t host_features() const noexcept { return host_features_; }
    /** What the guest has negotiated: 0 before FEATURES_OK. */
    [[nodiscard]] std::uint32_t features_in_use() const noexcept;

    void save(std::span<std::uint8_t, port_state_len> out) const noexcept;
    /**
     * Replaces the registers by saved ones, without telling a registrar.
     * @returns the reason, in one line, when the state is not valid or uses features that are not
     *          offered here; the registers are reset then
     */
    tl::expected<void, std::string> load(std::span<const std::uint8_t> in);

private:
    void write_status(std::uint8_t value, Registrar& registrar);
    void refuse(pvdirty_error error) noexcept;
    [[nodiscard]] bool features_valid() const noexcept;
    void show() noexcept;

    std::uint32_t host_features_;
    std::uint32_t domain_;
    std::uint32_t guest_features_ = 0;
    std::uint32_t log_addr_lo_ = 0;
    std::uint32_t log_addr_hi_ = 0;
    std::uint32_t log_pages_ = 0;
    std::uint16_t error_ = PVDIRTY_OK;
    std::uint8_t status_ = 0;
    std::array<std::uint8_t, PVDIRTY_CAP_LEN> bytes_{};
};

} // namespace pvdirty

#endif // PVDIRTY_CAPABILITY_HPP
