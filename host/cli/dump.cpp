// SPDX-License-Identifier: MIT
#include "cli/dump.hpp"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace pvdirty::cli {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/* Where a block's bytes are: a file in the dump, or a descriptor of the VM's process. */
fs::path block_path(const fs::path& directory, const json& list, const json& entry) {
    if (entry.contains("fd")) {
        return fmt::format("/proc/{}/fd/{}", list.at("pid").get<int>(), entry.at("fd").get<int>());
    }
    return directory / entry.at("file").get<std::string>();
}

/* Throws json::exception when the list does not have the expected form. */
tl::expected<Dump, std::string> read_list(const fs::path& directory, const json& list) {
    Dump dump;

    for (const json& entry : list.at("blocks")) {
        const auto name = entry.at("name").get<std::string>();
        const auto size = entry.at("size").get<std::uint64_t>();
        auto file = File::open(block_path(directory, list, entry));
        if (!file) {
            return tl::unexpected(fmt::format("block {}: {}", name, file.error()));
        }
        if (file->size() < size) {
            return tl::unexpected(
                fmt::format("block {}: its file has {} bytes, not {}", name, file->size(), size));
        }
        if (std::any_of(dump.blocks.begin(), dump.blocks.end(),
                        [&](const Block& other) { return other.name == name; })) {
            return tl::unexpected(fmt::format("block {} is there twice", name));
        }
        dump.blocks.push_back({name, size, std::move(*file)});
    }
    if (dump.blocks.empty()) {
        return tl::unexpected<std::string>("the dump has no block");
    }
    if (list.contains("oracle")) {
        const json& entry = list.at("oracle");
        auto file = File::open(directory / entry.at("file").get<std::string>());
        if (!file) {
            return tl::unexpected(file.error());
        }
        dump.oracle.block = entry.at("block").get<std::string>();
        dump.oracle.bits.resize(file->size());
        if (auto read = file->read(0, std::as_writable_bytes(std::span(dump.oracle.bits))); !read) {
            return tl::unexpected(read.error());
        }
    }
    return dump;
}

} // namespace

tl::expected<Dump, std::string> open_dump(const fs::path& path) {
    if (!fs::is_directory(path)) {
        auto file = File::open(path);
        if (!file) {
            return tl::unexpected(file.error());
        }
        Dump dump;
        const std::uint64_t size = file->size();
        dump.blocks.push_back({"file", size, std::move(*file)});
        return dump;
    }
    const fs::path list = path / "blocks.json";
    std::ifstream stream(list);
    if (!stream) {
        return tl::unexpected(fmt::format("cannot open {}", list.string()));
    }
    try {
        auto dump = read_list(path, json::parse(stream));
        if (!dump) {
            return tl::unexpected(fmt::format("{}: {}", path.string(), dump.error()));
        }
        return dump;
    } catch (const json::exception& error) {
        return tl::unexpected(fmt::format("{}: {}", list.string(), error.what()));
    }
}

} // namespace pvdirty::cli
