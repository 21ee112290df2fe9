// SPDX-License-Identifier: MIT
/* The command pvdirty compare, on files of its own. */
#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "unit/command.hpp"

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using nlohmann::json;
using pvdirty::unit::Result;
using pvdirty::unit::run;
using pvdirty::unit::Scratch;
using pvdirty::unit::slurp;

namespace {

std::string pages(std::size_t n, char fill = 'x') {
    std::string bytes;
    bytes.resize(n * 4096, fill);
    return bytes;
}

void write(const fs::path& path, const std::string& bytes) {
    std::ofstream stream(path);
    stream << bytes;
    REQUIRE(stream.flush());
}

/** A dump directory of blocks in files. */
fs::path dump(const fs::path& path, const std::vector<std::pair<std::string, std::string>>& blocks,
              const std::string& oracle = "") {
    fs::create_directory(path);
    json list = {{"pid", 1}, {"blocks", json::array()}};
    for (const auto& [name, bytes] : blocks) {
        write(path / (name + ".bin"), bytes);
        list["blocks"].push_back({{"name", name}, {"size", bytes.size()}, {"file", name + ".bin"}});
    }
    if (!oracle.empty()) {
        write(path / "oracle.bin", oracle);
        list["oracle"] = {{"file", "oracle.bin"}, {"block", "pc.ram"}};
    }
    write(path / "blocks.json", list.dump());
    return path;
}

} // namespace

TEST_CASE("compare: equal dumps", "[compare]") {
    const Scratch scratch;
    const fs::path a = dump(scratch / "a", {{"pc.ram", pages(600)}, {"vga", pages(3, 'v')}});
    const fs::path b = dump(scratch / "b", {{"vga", pages(3, 'v')}, {"pc.ram", pages(600)}});
    const Result result = run(scratch, {"compare", a, b, "--json", scratch / "j"});
    CHECK(result.code == 0);
    CHECK(result.out == "2469888 bytes compared, 0 of 603 pages differ\n");
    CHECK(result.err.empty());
    const json all = json::parse(slurp(scratch / "j"));
    CHECK(all["bytes_compared"] == 603 * 4096);
    CHECK(all["pages_total"] == 603);
    CHECK(all["pages_lost"] == 0);
    CHECK(all["ranges"].empty());
    CHECK(all["blocks"].size() == 2);
    CHECK_FALSE(all.contains("pages_lost_outside_oracle"));
}

TEST_CASE("compare: one byte is a lost page, wherever it is", "[compare]") {
    const Scratch scratch;
    const auto at = GENERATE(as<std::size_t>{}, 0, 4095, 4096, (1 << 20) - 1, 1 << 20, 600 * 4096,
                             600 * 4096 + 99);
    std::string bytes = pages(600) + std::string(100, 'x');
    const fs::path a = dump(scratch / "a", {{"pc.ram", bytes}});
    bytes[at] = 'y';
    const fs::path b = dump(scratch / "b", {{"pc.ram", bytes}});
    const Result result = run(scratch, {"compare", a, b, "--json", scratch / "j"});
    CHECK(result.code == 1);
    const json all = json::parse(slurp(scratch / "j"));
    CHECK(all["pages_lost"] == 1);
    CHECK(all["pages_total"] == 601);
    CHECK(all["ranges"] ==
          json::array({{{"block", "pc.ram"}, {"first", at / 4096}, {"last", at / 4096}}}));
}

TEST_CASE("compare: ranges, samples and the oracle", "[compare]") {
    const Scratch scratch;
    std::string bytes = pages(64);
    const fs::path a = dump(scratch / "a", {{"pc.ram", bytes}, {"vga", pages(2)}},
                            std::string("\x20\x04\0\0\0\0\0\0", 8)); // pages 5 and 10
    for (const std::size_t page : {5U, 6U, 10U}) {
        bytes[page * 4096 + 0x123] = 'A';
    }
    const fs::path b = dump(scratch / "b", {{"pc.ram", bytes}, {"vga", "!" + pages(2).substr(1)}});
    const Result result =
        run(scratch, {"compare", a, b, "--oracle", "--show", "2", "--json", scratch / "j"});
    CHECK(result.code == 1);
    CHECK(result.out ==
          "pc.ram: 3 of 64 pages differ: 0x5-0x6 0xa\n"
          "  page 0x5 at 0x120\n"
          "    A 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78\n"
          "    B 78 78 78 41 78 78 78 78 78 78 78 78 78 78 78 78\n"
          "  page 0x6 at 0x120\n"
          "    A 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78 78\n"
          "    B 78 78 78 41 78 78 78 78 78 78 78 78 78 78 78 78\n"
          "vga: 1 of 2 pages differ: 0x0\n"
          "270336 bytes compared, 4 of 66 pages differ, 2 of them not written by a covered "
          "device\n");
    CHECK(json::parse(slurp(scratch / "j"))["pages_lost_outside_oracle"] == 2);
}

TEST_CASE("compare: without an oracle, nothing was written by a device", "[compare]") {
    const Scratch scratch;
    const fs::path a = dump(scratch / "a", {{"pc.ram", pages(2)}});
    const fs::path b = dump(scratch / "b", {{"pc.ram", pages(1) + pages(1, 'y')}});
    const Result result = run(scratch, {"compare", a, b, "--oracle", "--json", scratch / "j"});
    CHECK(result.code == 1);
    CHECK(json::parse(slurp(scratch / "j"))["pages_lost_outside_oracle"] == 1);
}

TEST_CASE("compare: blocks that are missing or have another size are lost", "[compare]") {
    const Scratch scratch;
    SECTION("missing in B") {
        const fs::path a = dump(scratch / "a", {{"pc.ram", pages(2)}, {"vga", pages(3)}});
        const fs::path b = dump(scratch / "b", {{"pc.ram", pages(2)}});
        const Result result = run(scratch, {"compare", a, b});
        CHECK(result.code == 1);
        CHECK_THAT(result.out, Contains("vga: missing in B") && Contains("3 of 5 pages differ"));
    }
    SECTION("missing in A, and empty") {
        const fs::path a = dump(scratch / "a", {{"pc.ram", pages(2)}});
        const fs::path b = dump(scratch / "b", {{"pc.ram", pages(2)}, {"vga", ""}});
        const Result result = run(scratch, {"compare", a, b});
        CHECK(result.code == 1);
        CHECK_THAT(result.out, Contains("vga: missing in A"));
    }
    SECTION("another size") {
        const fs::path a = dump(scratch / "a", {{"pc.ram", pages(4)}});
        const fs::path b = dump(scratch / "b", {{"pc.ram", pages(2)}});
        const Result result = run(scratch, {"compare", a, b});
        CHECK(result.code == 1);
        CHECK_THAT(result.out, Contains("pc.ram: 16384 bytes in A, 8192 in B") &&
                                   Contains("2 of 4 pages differ: 0x2-0x3"));
    }
    SECTION("another size within a page") {
        const bool differs = GENERATE(false, true);
        std::string bytes = pages(1) + std::string(10, differs ? 'y' : 'x');
        const fs::path a = dump(scratch / "a", {{"pc.ram", pages(3)}});
        const fs::path b = dump(scratch / "b", {{"pc.ram", bytes}});
        const Result result = run(scratch, {"compare", a, b});
        CHECK(result.code == 1);
        CHECK_THAT(result.out, Contains("2 of 3 pages differ: 0x1-0x2"));
    }
}

TEST_CASE("compare: plain files, and holes in them", "[compare]") {
    const Scratch scratch;
    const fs::path a = scratch / "a";
    const fs::path b = scratch / "b";
    write(a, "");
    write(b, "");
    fs::resize_file(a, 64 << 20);
    fs::resize_file(b, 64 << 20);
    const auto poke = [](const fs::path& path, long at, char byte) {
        std::fstream stream(path, std::ios::in | std::ios::out);
        stream.seekp(at);
        stream.put(byte);
    };
    CHECK(run(scratch, {"compare", a, b}).out ==
          "67108864 bytes compared, 0 of 16384 pages differ\n");
    poke(a, (40 << 20) + 5, '\0'); // data that reads as a hole does
    CHECK(run(scratch, {"compare", a, b}).code == 0);
    poke(b, (64 << 20) - 1, '!');
    const Result result = run(scratch, {"compare", a, b});
    CHECK(result.code == 1);
    CHECK_THAT(result.out, Contains("file: 1 of 16384 pages differ: 0x3fff"));
}

TEST_CASE("compare: a block behind a process's descriptor", "[compare]") {
    const Scratch scratch;
    write(scratch / "ram", pages(2));
    const int fd = ::open((scratch / "ram").c_str(), O_RDONLY);
    REQUIRE(fd >= 0);
    fs::create_directory(scratch / "a");
    const json list = {{"pid", ::getpid()},
                       {"blocks", {{{"name", "pc.ram"}, {"size", 8192}, {"fd", fd}}}}};
    write(scratch / "a/blocks.json", list.dump());
    const fs::path b = dump(scratch / "b", {{"pc.ram", pages(2)}});
    CHECK(run(scratch, {"compare", scratch / "a", b}).code == 0);
    ::close(fd);
}

TEST_CASE("compare: dumps that cannot be read fail, with one line", "[compare]") {
    const Scratch scratch;
    const fs::path good = dump(scratch / "good", {{"pc.ram", pages(2)}});
    const fs::path bad = dump(scratch / "bad", {{"pc.ram", pages(2)}});
    const auto list = [&](const std::string& text) { write(bad / "blocks.json", text); };
    std::string words;
    SECTION("no list") {
        fs::remove(bad / "blocks.json");
        words = "cannot open";
    }
    SECTION("not JSON") {
        list("{");
        words = "parse error";
    }
    SECTION("not the expected JSON") {
        list(GENERATE(as<std::string>{}, "[]", R"({"blocks": 1})", R"({"blocks": [{}]})",
                      R"({"blocks": [{"name": "x", "size": -1, "fd": "y"}]})"));
        words = "blocks.json";
    }
    SECTION("no block") {
        list(R"({"pid": 1, "blocks": []})");
        words = "no block";
    }
    SECTION("a block's file is missing") {
        fs::remove(bad / "pc.ram.bin");
        words = "No such file";
    }
    SECTION("a block's file is short") {
        fs::resize_file(bad / "pc.ram.bin", 4096);
        words = "has 4096 bytes, not 8192";
    }
    SECTION("a block's file is no file") {
        fs::remove(bad / "pc.ram.bin");
        fs::create_directory(bad / "pc.ram.bin");
        words = "not a regular file";
    }
    SECTION("a block twice") {
        list(R"({"blocks": [{"name": "x", "size": 1, "file": "pc.ram.bin"},
                            {"name": "x", "size": 1, "file": "pc.ram.bin"}]})");
        words = "there twice";
    }
    SECTION("the oracle's file is missing") {
        list(R"({"blocks": [{"name": "x", "size": 1, "file": "pc.ram.bin"}],
                 "oracle": {"file": "none", "block": "x"}})");
        words = "No such file";
    }
    for (const auto& [a, b] : {std::pair(good, bad), std::pair(bad, good)}) {
        const Result result = run(scratch, {"compare", a, b});
        CHECK(result.code == 1);
        CHECK(result.out.empty());
        CHECK_THAT(result.err, Contains(words));
        CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    }
}

TEST_CASE("compare: a result that cannot be written fails", "[compare]") {
    const Scratch scratch;
    const fs::path a = dump(scratch / "a", {{"pc.ram", pages(1)}});
    const Result result = run(scratch, {"compare", a, a, "--json", scratch / "none" / "j"});
    CHECK(result.code == 1);
    CHECK_THAT(result.err, Contains("cannot write"));
}

TEST_CASE("compare: usage", "[compare]") {
    const Scratch scratch;
    write(scratch / "a", "x");
    const std::string a = scratch / "a";
    const std::vector<std::vector<std::string>> wrong = {
        {},
        {"compare"},
        {"compare", a},
        {"compare", a, scratch / "none"},
        {"compare", a, a, a},
        {"compare", a, a, "--show", "-1"},
        {"compare", a, a, "--show", "many"},
        {"compare", a, a, "--json"},
        {"compare", a, a, "--frobnicate"},
        {"frobnicate"},
    };
    for (const auto& args : wrong) {
        const Result result = run(scratch, args);
        INFO("arguments: " << args.size() << ", " << (args.empty() ? "" : args.back()));
        CHECK(result.code == 2);
        CHECK(result.out.empty());
        CHECK_THAT(result.err, Contains("pvdirty: "));
        CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    }
    CHECK(run(scratch, {"--help"}).code == 0);
    CHECK_THAT(run(scratch, {"--help"}).out, Contains("compare"));
    CHECK_THAT(run(scratch, {"compare", "--help"}).out, Contains("--oracle"));
}
