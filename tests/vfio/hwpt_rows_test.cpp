// SPDX-License-Identifier: MIT
/* What iommufd itself answers: the column HWPT of host/tracking/README.md, row by row. */
#include <catch2/catch.hpp>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <linux/iommufd.h>
#include <sys/mman.h>

#include "pvdirty/kernel_sources.hpp"
#include "vfio/mock_iommu.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::IovaRange;

namespace {

using Call = std::function<int(unsigned long request, void* arg)>;
using Words = std::array<std::uint64_t, 4>;

/* Pages 0..63 and 96..127 are mapped: IO pages 0..127 and 192..255, one word each 64. */
const IovaRange window = MockIommu::pages(0, 127);

struct Table {
    MockIommu iommu;
    Call call;
    Words words{};

    explicit Table(const std::function<Call(MockIommu&)>& through) : call(through(iommu)) {
        iommu.map(MockIommu::pages(0, 63));
        iommu.map(MockIommu::pages(96, 127));
    }

    [[nodiscard]] int track(std::uint32_t flags) const {
        iommu_hwpt_set_dirty_tracking set{};
        set.size = sizeof(set);
        set.flags = flags;
        set.hwpt_id = iommu.hwpt();
        return call(IOMMU_HWPT_SET_DIRTY_TRACKING, &set);
    }
    [[nodiscard]] int enable() const { return track(IOMMU_HWPT_DIRTY_TRACKING_ENABLE); }

    struct Get {
        std::uint64_t iova = window.first;
        std::uint64_t length = window.size();
        std::uint64_t page_size = io_page;
        std::uint32_t flags = 0;
        void* data = nullptr; ///< null: the words
    };
    int get(const Get& get) {
        iommu_hwpt_get_dirty_bitmap bitmap{};
        bitmap.size = sizeof(bitmap);
        bitmap.hwpt_id = iommu.hwpt();
        bitmap.flags = get.flags;
        bitmap.iova = get.iova;
        bitmap.length = get.length;
        bitmap.page_size = get.page_size;
        bitmap.data =
            reinterpret_cast<std::uintptr_t>(get.data != nullptr ? get.data : words.data());
        return call(IOMMU_HWPT_GET_DIRTY_BITMAP, &bitmap);
    }
    /* Into words that are filled like this, after these IO pages were written. */
    int written_get(const std::vector<std::uint64_t>& pages, const Get& get,
                    std::uint64_t fill = 0) {
        std::set<std::uint64_t> addresses;
        for (const std::uint64_t page : pages) {
            addresses.insert(window.first + page * io_page);
        }
        iommu.write(addresses);
        words.fill(fill);
        return this->get(get);
    }
};

struct Row {
    const char* name;
    std::function<int(Table&)> call;
    int result;
    Words words;
};

/* The words are looked at after each row, and cleared before it. */
std::vector<Row> rows() {
    using T = Table;
    constexpr std::uint64_t bit0 = 1;
    constexpr std::uint64_t last = std::uint64_t{1} << 63;
    return {
        {"read while off", [](T& t) { return t.get({}); }, 0, {}},
        {"enable with a flag that is unknown", [](T& t) { return t.track(2); }, -EOPNOTSUPP, {}},
        {"enable", [](T& t) { return t.enable(); }, 0, {}},
        {"read",
         [](T& t) {
             return t.written_get({0, 127}, {.length = 64 * 4096});
         },
         0,
         {bit0, last}},
        {"read again", [](T& t) { return t.get({.length = 64 * 4096}); }, 0, {}},
        {"read and do not clear",
         [](T& t) {
             return t.written_get(
                 {1}, {.length = 64 * 4096, .flags = IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR});
         },
         0,
         {2}},
        {"it is still dirty", [](T& t) { return t.get({.length = 64 * 4096}); }, 0, {2}},
        {"enable again: bits are cleared",
         [](T& t) {
             t.iommu.write({window.first});
             const int result = t.enable();
             return result != 0 ? result : t.get({.length = 64 * 4096});
         },
         0,
         {}},
        {"what lies behind a hole is not reported",
         [](T& t) {
             return t.written_get({0, 192}, {});
         },
         0,
         {bit0}},
        {"though it is dirty",
         [](T& t) { return t.get({.iova = window.first + 96 * 4096, .length = 32 * 4096}); },
         0,
         {bit0}},
        {"a range that is not mapped",
         [](T& t) { return t.get({.iova = window.first + 64 * 4096, .length = 32 * 4096}); },
         0,
         {}},
        {"a part of a mapping",
         [](T& t) {
             return t.written_get({2, 10}, {.iova = window.first + 4096, .length = 4096});
         },
         0,
         {bit0}},
        {"the rest of it", [](T& t) { return t.get({.length = 64 * 4096}); }, 0, {1U << 10}},
        {"bits are added",
         [](T& t) { return t.written_get({5}, {.length = 64 * 4096}, 0xf00f); },
         0,
         {0xf00f | 1U << 5, 0xf00f, 0xf00f, 0xf00f}},
        {"a larger page size",
         [](T& t) {
             return t.written_get({2, 127}, {.length = 64 * 4096, .page_size = 4096});
         },
         0,
         {2 | last}},
        {"page size 0", [](T& t) { return t.get({.page_size = 0}); }, -EINVAL, {}},
        {"empty range", [](T& t) { return t.get({.length = 0}); }, -EINVAL, {}},
        {"iova not aligned", [](T& t) { return t.get({.iova = window.first + 512}); }, -EINVAL, {}},
        {"length not aligned", [](T& t) { return t.get({.length = 512}); }, -EINVAL, {}},
        {"not aligned to the page size",
         [](T& t) { return t.get({.length = io_page, .page_size = 4096}); },
         -EINVAL,
         {}},
        {"wraps", [](T& t) { return t.get({.length = 0 - io_page}); }, -EOVERFLOW, {}},
        {"a flag that is unknown", [](T& t) { return t.get({.flags = 2}); }, -EOPNOTSUPP, {}},
        {"a bitmap that is not accessible: bits are lost",
         [](T& t) {
             void* nowhere = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             const int result = t.written_get({3}, {.length = 64 * 4096, .data = nowhere});
             munmap(nowhere, 4096);
             return result != 0 ? result : t.get({.length = 64 * 4096});
         },
         0,
         {}},
        {"disable", [](T& t) { return t.track(0); }, 0, {}},
        {"disable again", [](T& t) { return t.track(0); }, 0, {}},
        {"read after that", [](T& t) { return t.get({.length = 64 * 4096}); }, 0, {}},
    };
}

std::vector<std::string> differences(const std::function<Call(MockIommu&)>& through) {
    std::vector<std::string> found;
    Table table(through);
    for (const Row& row : rows()) {
        table.words.fill(0);
        const int result = row.call(table);
        if (result != row.result) {
            found.push_back(std::string(row.name) + ": expected " + std::to_string(row.result) +
                            ", got " + std::to_string(result));
        } else if (table.words != row.words) {
            found.push_back(std::string(row.name) + ": other words");
        }
    }
    return found;
}

} // namespace

TEST_CASE("hwpt rows: iommufd answers as the documentation says", "[hwpt]") {
    const auto found = differences([](MockIommu& iommu) {
        return [&](unsigned long request, void* arg) { return iommu.call(request, arg); };
    });
    CAPTURE(found);
    CHECK(found.empty());
}

TEST_CASE("hwpt rows: another answer is found", "[hwpt]") {
    const auto found = differences([](MockIommu& iommu) {
        return [&](unsigned long request, void* arg) {
            const int result = iommu.call(request, arg);
            return request == IOMMU_HWPT_GET_DIRTY_BITMAP && result == -EOVERFLOW ? -EINVAL
                                                                                  : result;
        };
    });
    REQUIRE(found.size() == 1);
    CHECK_THAT(found[0], Catch::Contains("wraps"));
}
