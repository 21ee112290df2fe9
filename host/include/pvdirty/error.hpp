// SPDX-License-Identifier: MIT
/** The error codes of the wire in words. */
#ifndef PVDIRTY_ERROR_HPP
#define PVDIRTY_ERROR_HPP

#include <string_view>

#include "pvdirty_abi.h"

namespace pvdirty {

/** One phrase for each code of enum pvdirty_error, for messages. */
std::string_view describe(pvdirty_error error) noexcept;

/** Why a device is not tracked: one phrase for each code of enum pvdirty_dev_reason. */
std::string_view describe_device_reason(unsigned reason) noexcept;

/** The lowest bit of pvdirty_log.incomplete (PVDIRTY_I_*) in words. */
std::string_view describe_incomplete(unsigned bits) noexcept;

} // namespace pvdirty

#endif // PVDIRTY_ERROR_HPP
