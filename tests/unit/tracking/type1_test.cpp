// SPDX-License-Identifier: MIT
/* The table of tests/conformance over Type1DirtyPages, and over broken ones; and what the table
   cannot ask, because it expects everything to be dirty. */
#include <catch2/catch.hpp>

#include "conformance/container.hpp"
#include "conformance/machine.hpp"
#include "unit/tracking/test_source.hpp"
#include "unit/tracking/type1_variants.hpp"

using Catch::Matchers::Contains;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::EverythingDirty;
using pvdirty::conformance::check_container;
using pvdirty::conformance::check_type1;
using pvdirty::conformance::Machine;
using pvdirty::conformance::Type1Report;
using pvdirty::conformance::Words;
using pvdirty::vfio::Type1DirtyPages;

namespace {

std::string lines(const Type1Report& report) {
    std::string all;
    for (const std::string& line : report.differences) {
        all += line + "\n";
    }
    return all;
}

Type1Report check(const std::function<int(Type1Call&)>& variant,
                  decltype(check_type1)& table = check_type1) {
    EverythingDirty source("all", "nobody tracks");
    Type1DirtyPages container(source);
    return table([&](unsigned long request, void* arg) {
        Type1Call call(container, request, arg, source.started());
        return variant(call);
    });
}

/* A container over a source that a test commands. */
struct Scene {
    TestSource source{"source"};
    Type1DirtyPages container{source};
    Machine machine{
        [this](unsigned long request, void* arg) { return container.ioctl(request, arg); }};
    static constexpr std::uint64_t first_page = pvdirty::conformance::base / kib4;

    Words get(const pvdirty::conformance::Get& get = {}) {
        machine.words.fill(0);
        CHECK(machine.get(get) == 0);
        return machine.words;
    }
};

} // namespace

TEST_CASE("type1 (003): every row of the table that the kernel is held to", "[type1]") {
    const Type1Report report = check([](Type1Call& call) { return call.right(); });
    CHECK(lines(report).empty());
    CHECK(report.rows > 80);
}

TEST_CASE("type1: a row finds each broken variant", "[type1]") {
    for (const Type1Variant& variant : type1_variants()) {
        INFO(variant.name);
        CHECK_THAT(lines(check(variant.call)), Catch::Matchers::Contains(variant.row));
    }
    // A source that forgets what the kernel holds dirty.
    TestSource source("empty");
    Type1DirtyPages container(source);
    const Type1Report report = check_type1(
        [&](unsigned long request, void* arg) { return container.ioctl(request, arg); });
    CHECK_THAT(lines(report), Catch::Matchers::Contains("003 GET: expected the words"));
}

TEST_CASE("container: every row that a source over the kernel's type1 is held to", "[type1]") {
    const Type1Report report = check([](Type1Call& call) { return call.right(); }, check_container);
    CHECK(lines(report).empty());
    CHECK(report.rows > 20);
}

TEST_CASE("container: a row finds what is broken below the source", "[type1]") {
    const auto found = [](const std::function<bool(const Type1Call&)>& left_out) {
        return lines(check([&](Type1Call& call) { return left_out(call) ? 0 : call.right(); },
                           check_container));
    };
    CHECK_THAT(found([](const Type1Call& call) { return call.is_get(); }),
               Contains("container: a read: expected the words"));
    CHECK_THAT(
        found([](const Type1Call& call) { return call.is(VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP); }),
        Contains("container: 003 the kernel has stopped: expected EINVAL, got 0"));
    CHECK_THAT(found([](const Type1Call& call) { return call.request == VFIO_IOMMU_UNMAP_DMA; }),
               Contains("container: 001 it goes, with its last bits: expected the words"));
    CHECK_THAT(found([](const Type1Call& call) { return call.request == VFIO_IOMMU_GET_INFO; }),
               Contains("container: 003 its page size: expected"));
}

TEST_CASE("type1: a read forgets the mappings that it reports, and no others", "[type1]") {
    Scene scene;
    REQUIRE(scene.machine.map(0, 100) == 0);
    REQUIRE(scene.machine.map(100, 28) == 0);
    REQUIRE(scene.machine.start() == 0);
    scene.source.dirty = {Scene::first_page + 1, Scene::first_page + 99, Scene::first_page + 101};
    CHECK(scene.get({.first = 100, .pages = 28}) == Words{2, 0, 0, 0});
    CHECK(scene.get() == Words{2, std::uint64_t{1} << 35, 0, 0});
    CHECK(scene.get() == Words{});
}

TEST_CASE("type1: a page of the bitmap's word that the mapping before has is kept", "[type1]") {
    Scene scene;
    REQUIRE(scene.machine.map(0, 100) == 0);
    REQUIRE(scene.machine.map(100, 28) == 0);
    REQUIRE(scene.machine.start() == 0);
    scene.source.dirty = {Scene::first_page + 99, Scene::first_page + 100};
    CHECK(scene.get() == Words{0, std::uint64_t{3} << 35, 0, 0});
}

TEST_CASE("type1: what the source cannot say, or fails to, is dirty", "[type1]") {
    Scene scene;
    REQUIRE(scene.machine.map(0, 3) == 0);
    scene.source.fail_start = ENOMEM;
    CHECK(scene.machine.start() == -ENOMEM);
    CHECK(scene.machine.get({}) == -EINVAL);
    scene.source.fail_start = 0;
    REQUIRE(scene.machine.start() == 0);
    CHECK(scene.get() == Words{});
    scene.source.cannot_say = "not now";
    CHECK(scene.get() == Words{7, 0, 0, 0});
    scene.source.cannot_say.clear();
    scene.source.fail_read = EIO;
    CHECK(scene.get() == Words{7, 0, 0, 0});
}

TEST_CASE("type1: bits that did not arrive are not lost", "[type1]") {
    Scene scene;
    REQUIRE(scene.machine.map(0, 3) == 0);
    REQUIRE(scene.machine.start() == 0);
    scene.source.dirty = {Scene::first_page + 1};
    CHECK(scene.machine.get({.data = scene.machine.nowhere()}) == -EFAULT);
    CHECK(scene.get() == Words{7, 0, 0, 0}); // all of the mapping, on doubt
    scene.source.dirty = {Scene::first_page + 1};
    CHECK(scene.machine.unmap({.data = scene.machine.nowhere()}) == -EFAULT);
    CHECK(scene.get() == Words{7, 0, 0, 0});
    CHECK(scene.get() == Words{});
}
