// SPDX-License-Identifier: MIT
/* The rules of the tracker. A number in a name is the list post that the rule answers: see
   host/tracking/README.md. */
#include <catch2/catch.hpp>

#include "pvdirty/tracker.hpp"
#include "unit/tracking/test_source.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::DirtyBitmap;
using pvdirty::EverythingDirty;
using pvdirty::IovaRange;
using pvdirty::Outcome;
using pvdirty::Tracker;

namespace {

/* Two sources, and a bitmap of 64 pages. */
struct Scene {
    std::vector<std::string> journal;
    TestSource one{"one", &journal};
    TestSource two{"two", &journal};
    Tracker tracker;

    Scene() {
        REQUIRE(tracker.add(one));
        REQUIRE(tracker.add(two));
    }
    /** What a read of these pages sets in an empty bitmap. */
    Numbers read(IovaRange range, Outcome* outcome = nullptr) {
        const Bits bits(pages(0, 63));
        const auto done = tracker.read_and_clear(range, bits.view);
        REQUIRE(done);
        if (outcome != nullptr) {
            *outcome = *done;
        } else {
            CHECK(done->message().empty());
        }
        return bits.set();
    }
    int refused(IovaRange range, const DirtyBitmap& bitmap) {
        const auto done = tracker.read_and_clear(range, bitmap);
        return done ? 0 : done.error().code;
    }
};

Numbers all(std::uint64_t first, std::uint64_t last) {
    Numbers numbers;
    for (std::uint64_t page = first; page <= last; page++) {
        numbers.insert(page);
    }
    return numbers;
}

} // namespace

TEST_CASE("tracker (000): all sources start before the first read", "[tracker]") {
    Scene scene;
    CHECK(scene.journal.empty());
    CHECK(scene.tracker.start().doubts.empty());
    scene.read(pages(0, 63));
    CHECK(scene.journal ==
          std::vector<std::string>{"one start", "two start", "one read", "two read"});
}

TEST_CASE("tracker (003): start and stop are idempotent", "[tracker]") {
    Scene scene;
    scene.tracker.stop();
    CHECK(scene.journal.empty());
    scene.tracker.start();
    scene.one.dirty = {5};
    scene.tracker.start(); // and keeps what is dirty
    CHECK(scene.journal.size() == 2);
    CHECK(scene.read(pages(0, 63)) == Numbers{5});
    scene.tracker.stop();
    scene.tracker.stop();
    CHECK(scene.journal.size() == 6);
    CHECK(scene.journal.back() == "two stop");
}

TEST_CASE("tracker (003): a read before start or after stop is EINVAL, not empty", "[tracker]") {
    Scene scene;
    const Bits bits(pages(0, 63));
    scene.one.dirty = {5};
    CHECK(scene.refused(pages(0, 63), bits.view) == EINVAL);
    scene.tracker.start();
    CHECK(scene.refused(pages(0, 63), bits.view) == 0);
    scene.tracker.stop();
    CHECK(scene.refused(pages(0, 63), bits.view) == EINVAL);
    // The same of a source by itself.
    const auto alone = scene.one.read_and_clear(pages(0, 63), bits.view);
    REQUIRE_FALSE(alone);
    CHECK(alone.error().code == EINVAL);
    CHECK(alone.error().message == "dirty pages are not tracked");
}

TEST_CASE("tracker (003): a range that is not whole pages of the bitmap is EINVAL", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.dirty = {0};
    const Bits bits(pages(0, 63));
    const Bits coarse(pages(0, 63), 16 * kib4);
    const Bits fine({0, 4095}, 512);
    CHECK(scene.refused({1, 4095}, bits.view) == EINVAL);
    CHECK(scene.refused({0, 4094}, bits.view) == EINVAL);
    CHECK(scene.refused({4096, 4095}, bits.view) == EINVAL);
    CHECK(scene.refused(pages(1, 16), coarse.view) == EINVAL);
    CHECK(scene.refused(pages(60, 64), bits.view) == EINVAL);
    // Whole pages of the bitmap, and not of the source: it would forget what it cannot report.
    CHECK(scene.refused({0, 511}, fine.view) == EINVAL);
    CHECK(scene.journal.size() == 2); // nobody was asked
    CHECK(scene.refused({0, 4095}, fine.view) == 0);
    CHECK(fine.view.count() == 8);
}

TEST_CASE("tracker (003): a read sets bits, and clears none in the bitmap", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.dirty = {1, 9};
    scene.two.dirty = {2, 9};
    Bits bits(pages(0, 63));
    bits.words[0] = 0x8010;
    REQUIRE(scene.tracker.read_and_clear(pages(0, 7), bits.view));
    CHECK(bits.set() == Numbers{1, 2, 4, 15});
    CHECK(scene.one.dirty == Numbers{9});
    REQUIRE(scene.tracker.read_and_clear(pages(0, 63), bits.view));
    CHECK(bits.set() == Numbers{1, 2, 4, 9, 15});
    CHECK(scene.read(pages(0, 63)).empty());
}

TEST_CASE("tracker (003): bitmaps of other page sizes than the source's", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.dirty = {1, 40};
    const Bits coarse(pages(0, 63), 16 * kib4);
    REQUIRE(scene.tracker.read_and_clear(pages(0, 63), coarse.view));
    CHECK(coarse.set() == Numbers{0, 2});
    TestSource big("big", nullptr, 4 * kib4);
    Tracker other;
    REQUIRE(other.add(big));
    CHECK(other.page_size() == 4 * kib4);
    CHECK(scene.tracker.page_size() == kib4);
    other.start();
    big.dirty = {3};
    const Bits fine(pages(0, 63));
    REQUIRE(other.read_and_clear(pages(0, 63), fine.view));
    CHECK(fine.set() == Numbers{12, 13, 14, 15});
}

TEST_CASE("tracker (001): what is hot-plugged makes everything dirty once", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    TestSource late("late", &scene.journal);
    const auto joined = scene.tracker.add(late);
    REQUIRE(joined);
    CHECK(joined->message() == "late: joined while pages were tracked");
    CHECK(scene.journal.back() == "late start");
    Outcome outcome;
    // Once for each page, in whichever order they are asked for.
    CHECK(scene.read(pages(8, 15), &outcome) == all(8, 15));
    CHECK(outcome.message() == "late: joined while pages were tracked");
    CHECK_FALSE(outcome.all_dirty);
    late.dirty = {9, 20};
    CHECK(scene.read(pages(8, 15)) == Numbers{9});
    CHECK(scene.read(pages(0, 63), &outcome) == [] {
        Numbers numbers = all(0, 63);
        for (std::uint64_t page = 8; page <= 15; page++) {
            numbers.erase(page);
        }
        return numbers;
    }());
    CHECK(scene.read(pages(0, 63)).empty());
    CHECK(scene.tracker.add(late).error().code == EEXIST);
}

TEST_CASE("tracker (001): a device that cannot track makes its range dirty, and is named",
          "[tracker]") {
    Scene scene;
    EverythingDirty mdev("mdev0", "no driver of it tracks", pages(10, 12));
    REQUIRE(scene.tracker.add(mdev));
    CHECK(scene.tracker.page_size() == kib4);
    scene.tracker.start();
    scene.one.dirty = {3};
    Outcome outcome;
    for (int i = 0; i < 2; i++) { // at every read
        CHECK(scene.read(pages(0, 63), &outcome) ==
              (i == 0 ? Numbers{3, 10, 11, 12} : Numbers{10, 11, 12}));
        CHECK(outcome.message() == "mdev0: no driver of it tracks");
        CHECK_FALSE(outcome.all_dirty);
    }
    CHECK(scene.read(pages(11, 20), &outcome) == Numbers{11, 12});
    CHECK(scene.read(pages(20, 63)).empty());
}

TEST_CASE("tracker (001): a source that leaves hands over its last bits", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.dirty = {3};
    scene.two.dirty = {4};
    Outcome outcome;
    SECTION("over the whole bitmap; what lies outside is dirty once") {
        const Bits last(pages(0, 31));
        const auto left = scene.tracker.remove(scene.one, &last.view);
        REQUIRE(left);
        CHECK(left->message().empty());
        CHECK(last.set() == Numbers{3});
        CHECK(scene.journal.back() == "one stop");
        CHECK(scene.read(pages(0, 31)) == Numbers{4});
        CHECK(scene.read(pages(0, 63), &outcome) == all(32, 63));
        CHECK(outcome.message() == "one: left");
        CHECK(scene.read(pages(0, 63)).empty());
    }
    SECTION("without a bitmap all is dirty once") {
        REQUIRE(scene.tracker.remove(scene.one, nullptr));
        CHECK(scene.read(pages(0, 63), &outcome) == all(0, 63));
        CHECK(outcome.message() == "one: left, and its last pages were not read");
        CHECK(scene.read(pages(0, 63)).empty());
    }
    SECTION("one that cannot is an error, and all is dirty") {
        scene.one.fail_read = EIO;
        const Bits last(pages(0, 31));
        const auto left = scene.tracker.remove(scene.one, &last.view);
        REQUIRE(left);
        CHECK(left->all_dirty);
        CHECK(last.set() == all(0, 31));
        CHECK(scene.read(pages(40, 41), &outcome) == Numbers{40, 41});
        CHECK(outcome.all_dirty);
    }
    SECTION("one that is not here, or pages that it cannot read: nothing happens") {
        TestSource other("other");
        CHECK(scene.tracker.remove(other, nullptr).error().code == ENOENT);
        TestSource big("big", nullptr, 16 * kib4);
        REQUIRE(scene.tracker.add(big));
        const Bits last(pages(0, 30));
        CHECK(scene.tracker.remove(big, &last.view).error().code == EINVAL);
        CHECK(big.started());
    }
    SECTION("before the start nothing is owed") {
        scene.tracker.stop();
        REQUIRE(scene.tracker.remove(scene.one, nullptr));
        scene.tracker.start();
        CHECK(scene.read(pages(0, 63)) == Numbers{4});
    }
}

TEST_CASE("tracker: an error of any source is \"all dirty\", says so, and stays", "[tracker]") {
    Scene scene;
    Outcome outcome;
    SECTION("of a read") {
        scene.tracker.start();
        scene.one.fail_read = EIO;
        scene.two.dirty = {4};
        CHECK(scene.read(pages(0, 7), &outcome) == all(0, 7));
        CHECK(outcome.message() == "one: cannot read");
        scene.one.fail_read = 0; // what it said before may have been wrong too
    }
    SECTION("of the start") {
        scene.two.fail_start = EBUSY;
        outcome = scene.tracker.start();
        CHECK(outcome.all_dirty);
        CHECK(outcome.message() == "two: cannot start");
        CHECK(scene.one.started());
    }
    SECTION("of a start while tracking") {
        scene.tracker.start();
        TestSource late("late");
        late.fail_start = EBUSY;
        const auto joined = scene.tracker.add(late);
        REQUIRE(joined);
        CHECK(joined->all_dirty);
        REQUIRE(scene.tracker.remove(late, nullptr));
    }
    CHECK(scene.read(pages(8, 15), &outcome) == all(8, 15));
    CHECK(outcome.all_dirty);
    CHECK(scene.read(pages(8, 15), &outcome) == all(8, 15));
    // Until tracking starts anew.
    scene.tracker.stop();
    scene.two.fail_start = 0;
    scene.one.dirty = {};
    scene.two.dirty = {6};
    CHECK_FALSE(scene.tracker.start().all_dirty);
    CHECK(scene.read(pages(0, 63)) == Numbers{6});
}

TEST_CASE("tracker: a source that says that it cannot say is named, the others count",
          "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.cannot_say = "its log is full";
    scene.two.dirty = {50};
    Outcome outcome;
    CHECK(scene.read(pages(0, 3), &outcome) == all(0, 3));
    CHECK(outcome.message() == "one: its log is full");
    CHECK_FALSE(outcome.all_dirty);
    scene.one.cannot_say.clear();
    CHECK(scene.read(pages(0, 63)) == Numbers{50});
}

TEST_CASE("tracker: an error of stop is told, and tracking has stopped", "[tracker]") {
    Scene scene;
    scene.tracker.start();
    scene.one.fail_stop = EIO;
    CHECK(scene.tracker.stop().message() == "one: cannot stop");
    CHECK_FALSE(scene.tracker.tracking());
    CHECK_FALSE(scene.two.started());
}
