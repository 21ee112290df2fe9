// SPDX-License-Identifier: MIT
/* Each code of the wire format in words, for all codes that its header has. */
#include <catch2/catch.hpp>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>

#include "pvdirty/error.hpp"

using Catch::Matchers::Contains;

namespace {

/* Names of codes, and what an operator must be told of each. */
using Table = std::map<std::string, std::string>;

const Table errors{
    {"PVDIRTY_OK", "no error"},
    {"PVDIRTY_E_STATE", "not writable in this state"},
    {"PVDIRTY_E_FEATURES", "features"},
    {"PVDIRTY_E_LOG_ADDR", "log not aligned"},
    {"PVDIRTY_E_LOG_SIZE", "too small"},
    {"PVDIRTY_E_LOG_HEADER", "signature or version"},
    {"PVDIRTY_E_SECTION_COUNT", "no section"},
    {"PVDIRTY_E_SECTION_RANGE", "window"},
    {"PVDIRTY_E_SECTION_ADDR", "marks or counters"},
    {"PVDIRTY_E_LOG_BUSY", "another log"},
    {"PVDIRTY_E_LOG_GONE", "was removed"},
};

const Table device_reasons{
    {"PVDIRTY_R_NONE", "does not track it"},
    {"PVDIRTY_R_NO_DRIVER", "no driver bound"},
    {"PVDIRTY_R_EARLY_DRIVER", "bound before the layer"},
    {"PVDIRTY_R_IOMMU", "vIOMMU"},
    {"PVDIRTY_R_USER_DMA", "user space"},
    {"PVDIRTY_R_COHERENT_MEM", "coherent memory of its own"},
    {"PVDIRTY_R_OTHER_OPS", "DMA operations of its own"},
    {"PVDIRTY_R_NO_MEMORY", "no memory"},
    {"PVDIRTY_R_NO_LOG", "only touches pages"},
    {"PVDIRTY_R_NO_DMA_API", "DMA API"},
    {"PVDIRTY_R_CHILD", "child device"},
    {"PVDIRTY_R_OUTSIDE", "outside every section"},
};

const Table incomplete_bits{
    {"PVDIRTY_I_OUTSIDE", "outside every section"},
    {"PVDIRTY_I_UNDERFLOW", "unmapped more often than mapped"},
    {"PVDIRTY_I_CHILD", "child device"},
    {"PVDIRTY_I_DEVICES", "more devices"},
    {"PVDIRTY_I_NO_MEMORY", "no memory"},
};

/* The codes that the header has, enumerators or macros; pattern: of their names. */
std::map<std::string, unsigned> codes(const std::string& pattern) {
    std::ifstream header(PVDIRTY_ABI_HEADER);
    REQUIRE(header);
    const std::regex code("\\s*(?:#define\\s+)?(" + pattern + ")(?:\\s*=)?\\s*(\\d+)\\b.*");
    const std::regex any("\\s*(?:#define\\s+)?" + pattern + "\\b.*");
    std::map<std::string, unsigned> found;
    for (std::string line; std::getline(header, line);) {
        std::smatch match;
        if (std::regex_match(line, match, code)) {
            found[match[1]] = static_cast<unsigned>(std::stoul(match[2]));
        } else if (std::regex_match(line, any)) {
            FAIL("a code without a number: " << line);
        }
    }
    return found;
}

/* Header and table have the same codes; the words of each say what they must, and are its own. */
template <typename Describe>
void check(const Table& table, const std::string& pattern, Describe describe) {
    const auto found = codes(pattern);
    std::set<std::string> words;
    for (const auto& [name, code] : found) {
        INFO(name);
        const auto row = table.find(name);
        REQUIRE(row != table.end());
        const std::string said(describe(code));
        CHECK_THAT(said, Contains(row->second));
        CHECK(words.insert(said).second);
    }
    CHECK(found.size() == table.size());
}

} // namespace

TEST_CASE("describe: each error of a registration", "[describe]") {
    check(errors, "PVDIRTY_(?:OK|E_\\w+)",
          [](unsigned code) { return pvdirty::describe(static_cast<pvdirty_error>(code)); });
}

TEST_CASE("describe: each reason why a device is not tracked", "[describe]") {
    check(device_reasons, "PVDIRTY_R_\\w+", pvdirty::describe_device_reason);
    CHECK_THAT(std::string(pvdirty::describe_device_reason(0xff)), Contains("does not track it"));
}

TEST_CASE("describe: each reason why a log is incomplete", "[describe]") {
    check(incomplete_bits, "PVDIRTY_I_\\w+",
          [](unsigned bit) { return pvdirty::describe_incomplete(1U << bit); });
    CHECK_THAT(std::string(pvdirty::describe_incomplete(1U << 31)), Contains("log is incomplete"));
}
