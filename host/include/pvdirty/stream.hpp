// SPDX-License-Identifier: MIT
/** The domain's own record at the head of a migration stream. */
#ifndef PVDIRTY_STREAM_HPP
#define PVDIRTY_STREAM_HPP

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <tl/expected.hpp>

#include "pvdirty/domain.hpp"

namespace pvdirty {

/** Bytes of the record: a layout of its own, with a version. */
inline constexpr std::size_t stream_state_len = 32;

/**
 * Writes what a destination must know before it takes RAM: the wire version, how many ports there
 * are, and which features their guest uses. Threads: as Domain.
 */
void save_stream(const Domain& domain, std::span<std::uint8_t, stream_state_len> out) noexcept;

/**
 * Checks what save_stream() wrote elsewhere against the ports here, early and over all of them;
 * Port::load() has the exact check of each. The bytes are not trusted; nothing is changed.
 * @returns the reason, in one line, when this VM cannot take the stream
 */
tl::expected<void, std::string> check_stream(const Domain& domain,
                                             std::span<const std::uint8_t> in);

} // namespace pvdirty

#endif // PVDIRTY_STREAM_HPP
