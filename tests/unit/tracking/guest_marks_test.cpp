// SPDX-License-Identifier: MIT
/* The guest's marks as a source. */
#include <catch2/catch.hpp>

#include "pvdirty/dirty_source.hpp"
#include "unit/tracking/test_source.hpp"
#include "unit/vm.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::GuestMarks;
using pvdirty::IovaRange;

namespace {

struct Scene {
    Vm vm;
    GuestMarks marks{"guest", vm.domain};

    Scene() { vm.track(); }
    void written(std::uint64_t first, std::uint64_t last) {
        pvd_hold(vm.guest.log.core(), first, last);
        pvd_release(vm.guest.log.core(), first, last);
    }
    Numbers read(IovaRange range, std::string* cannot_say = nullptr) {
        const Bits bits(pages(0, 127));
        const auto answer = marks.read_and_clear(range, bits.view);
        REQUIRE(answer);
        if (cannot_say != nullptr) {
            *cannot_say = answer->cannot_say;
        } else {
            CHECK(answer->cannot_say.empty());
        }
        return bits.set();
    }
};

} // namespace

TEST_CASE("guest marks: what a device wrote, and what is in flight at every read", "[tracking]") {
    Scene scene;
    CHECK(scene.marks.page_size() == kib4);
    REQUIRE(scene.marks.start());
    CHECK(scene.vm.guest.log.control().logging == 1);
    scene.written(3, 4);
    scene.written(70, 70);
    pvd_hold(scene.vm.guest.log.core(), 9, 9);
    pvd_hold(scene.vm.guest.log.core(), 99, 99);
    // Marks outside of the range stay, those of the same word too; so does what is in flight.
    CHECK(scene.read(pages(4, 31)) == Numbers{4, 9});
    CHECK(scene.read(pages(0, 127)) == Numbers{3, 9, 70, 99});
    CHECK(scene.read(pages(0, 127)) == Numbers{9, 99});
    pvd_release(scene.vm.guest.log.core(), 9, 9);
    CHECK(scene.read(pages(0, 63)) == Numbers{9});
    CHECK(scene.read(pages(0, 63)).empty());
    REQUIRE(scene.marks.stop());
    CHECK(scene.vm.guest.log.control().logging == 0);
}

TEST_CASE("guest marks: cannot say while a device is not tracked", "[tracking]") {
    Scene scene;
    REQUIRE(scene.marks.start());
    scene.vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, PVDIRTY_R_NO_DRIVER);
    std::string why;
    CHECK(scene.read(pages(10, 11), &why) == Numbers{10, 11});
    CHECK(why == scene.vm.domain.latched());
    CHECK_FALSE(why.empty());
    // A latch: all may look well by then.
    scene.vm.entry(7, 0x100, PVDIRTY_DEV_TRACKED);
    CHECK(scene.read(pages(12, 12), &why) == Numbers{12});
    CHECK_FALSE(why.empty());
    REQUIRE(scene.marks.stop());
    REQUIRE(scene.marks.start());
    CHECK(scene.read(pages(0, 127)).empty());
}

TEST_CASE("guest marks: in bitmaps of any page size", "[tracking]") {
    Scene scene;
    REQUIRE(scene.marks.start());
    scene.written(3, 4);
    const Bits coarse(pages(0, 127), 4 * kib4);
    REQUIRE(scene.marks.read_and_clear(pages(0, 127), coarse.view));
    CHECK(coarse.set() == Numbers{0, 1});
    scene.written(3, 3);
    const Bits fine(pages(0, 7), 1024);
    REQUIRE(scene.marks.read_and_clear(pages(0, 7), fine.view));
    CHECK(fine.set() == Numbers{12, 13, 14, 15});
}
