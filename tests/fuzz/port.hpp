// SPDX-License-Identifier: MIT
/** What the guest does at a port's capability, and what it must always read there. */
#ifndef PVDIRTY_TESTS_FUZZ_PORT_HPP
#define PVDIRTY_TESTS_FUZZ_PORT_HPP

#include <array>
#include <cstdint>
#include <functional>

#include "fuzz/guest.hpp"
#include "pvdirty_abi.h"

namespace pvdirty::fuzz {

/** The guest writes len bytes at an offset of the capability. */
using ConfigWrite =
    std::function<void(std::uint32_t offset, std::uint32_t value, std::uint32_t len)>;

/** One write of any kind. */
void write_anything(Machine& machine, const ConfigWrite& write);
/** The handshake from power-on to DRIVER_OK, mostly as the format asks for it. */
void register_log(Machine& machine, const ConfigWrite& write);

/** Copies what the guest reads. */
pvdirty_cap read_capability(const std::uint8_t* bytes);
/** Read-only registers are as they were made, the error is defined, the status can be reached. */
void require_legal(const pvdirty_cap& cap, std::uint32_t host_features, std::uint32_t domain);

/** DRIVER_OK, and nothing wrong. */
bool is_registered(const pvdirty_cap& cap);
/** The port takes part in the log. */
bool uses_log(const pvdirty_cap& cap);
/** Its devices may be tracked completely. */
bool can_be_complete(const pvdirty_cap& cap);
/** GPA of the log as the registers have it. */
std::uint64_t log_addr(const pvdirty_cap& cap);

} // namespace pvdirty::fuzz

#endif // PVDIRTY_TESTS_FUZZ_PORT_HPP
