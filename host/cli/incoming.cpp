// SPDX-License-Identifier: MIT
#include "cli/incoming.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

namespace pvdirty::cli {

namespace {

using Kind = MonitorError::Kind;

} // namespace

PrivateDirectory::~PrivateDirectory() {
    if (!path_.empty()) {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
}

const std::filesystem::path& PrivateDirectory::make() {
    std::error_code none;
    const auto top = std::filesystem::temp_directory_path(none);
    std::string name = ((none ? "/tmp" : top) / "pvdirty-XXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) {
        path_ = name;
    }
    return path_;
}

MonitorResult<std::string> incoming_uri(const Vm& destination, PrivateDirectory& directory) {
    const auto state = destination.run_state();
    if (!state) {
        return tl::unexpected(state.error());
    }
    if (*state != "inmigrate") {
        return tl::unexpected(MonitorError{
            Kind::refused, fmt::format("it is {} and waits for no migration: start it with "
                                       "-incoming defer",
                                       *state)});
    }
    const auto migration = destination.migration();
    if (!migration) {
        return tl::unexpected(migration.error());
    }
    if (!migration->addresses.empty()) {
        return migration->addresses.front();
    }
    const auto& path = directory.make();
    if (path.empty()) {
        return tl::unexpected(MonitorError{
            Kind::refused, "no temporary directory: " + std::generic_category().message(errno)});
    }
    std::string uri = "unix:" + (path / "migrate").string();
    if (const auto waits = destination.migrate_incoming(uri); !waits) {
        return tl::unexpected(waits.error());
    }
    return uri;
}

bool has_answers(const std::string& uri) {
    constexpr std::array<std::string_view, 3> sockets{"unix:", "tcp:", "vsock:"};
    return std::any_of(sockets.begin(), sockets.end(), [&](const std::string_view scheme) {
        return uri.compare(0, scheme.size(), scheme) == 0;
    });
}

} // namespace pvdirty::cli
