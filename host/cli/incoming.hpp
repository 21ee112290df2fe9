// SPDX-License-Identifier: MIT
/** Where a destination waits for a migration. */
#ifndef PVDIRTY_CLI_INCOMING_HPP
#define PVDIRTY_CLI_INCOMING_HPP

#include <filesystem>
#include <string>

#include "cli/vm.hpp"

namespace pvdirty::cli {

/** A directory of our own, for a socket; made when it is asked for, gone with this. */
class PrivateDirectory {
public:
    PrivateDirectory() = default;
    PrivateDirectory(const PrivateDirectory&) = delete;
    PrivateDirectory& operator=(const PrivateDirectory&) = delete;
    ~PrivateDirectory();

    /** @returns its path; or "" with errno set */
    const std::filesystem::path& make();

private:
    std::filesystem::path path_;
};

/**
 * The URI to reach a destination at. One that waits nowhere yet ("-incoming defer") is given a
 * socket in the directory.
 * @param directory outlives the migration
 */
MonitorResult<std::string> incoming_uri(const Vm& destination, PrivateDirectory& directory);

/** Does a destination at this URI answer? What is no socket may be a pipe, or go through one. */
bool has_answers(const std::string& uri);

} // namespace pvdirty::cli

#endif // PVDIRTY_CLI_INCOMING_HPP
