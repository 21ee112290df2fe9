// SPDX-License-Identifier: MIT
/*
 * The largest log there may be: what it costs the host is counted, in bytes of memory and pages of
 * guest RAM that are touched, since time cannot be asserted.
 */
#include <catch2/catch.hpp>

#include <sys/mman.h>
#include <sys/resource.h>

#include "unit/vm.hpp"

using pvdirty::Logger;
using pvdirty::PageSink;
using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests

// The address sanitizer's own; GCC has no header for them.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*,
                                                                           std::size_t),
                                                         void (*on_free)(const volatile void*));
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t marks_words = PVDIRTY_WINDOW_PAGES / 64;

/** Bytes that all threads have allocated since it was made, whether freed by now or not. */
class Allocated {
public:
    Allocated() { hooked(); }

    [[nodiscard]] std::uint64_t bytes() const { return total() - before_; }

private:
    static std::uint64_t& total() {
        static std::uint64_t bytes = 0;
        return bytes;
    }
    static void hooked() {
        static const int hooks = __sanitizer_install_malloc_and_free_hooks(
            [](const volatile void*, std::size_t size) { total() += size; },
            [](const volatile void*) {});
        REQUIRE(hooks != 0);
    }

    std::uint64_t before_ = total();
};

long page_faults() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

std::vector<SectionSpec> full_sections(std::uint32_t count) {
    std::vector<SectionSpec> sections;
    for (std::uint32_t i = 0; i < count; i++) {
        sections.push_back({i, PVDIRTY_WINDOW_PAGES});
    }
    return sections;
}

/** A VM of so many GiB whose log is registered; none of its RAM has been touched but the table. */
struct LargeVm {
    Guest guest;
    pvdirty::Domain domain{guest.ram, 1};
    pvdirty::Port& rp0 = domain.add_port("rp0", PVDIRTY_FEATURES_ALL);
    std::uint64_t sink_calls = 0;

    explicit LargeVm(std::uint32_t gib) : guest(full_sections(gib)) {
        // One fault for each page of 4 KiB that is touched.
        ::madvise(guest.ram.at<void>(guest.ram.gpa()), guest.ram.size(), MADV_NOHUGEPAGE);
    }

    pvdirty::HarvestResult harvest() {
        auto count = [this](std::uint64_t, std::uint64_t) { sink_calls++; };
        return domain.harvest(PageSink(count), PageSink(count));
    }
    void set_root() const { std::memset(&guest.log.top(), 0xff, sizeof(pvdirty_top)); }
    void set_summaries() const {
        std::memset(&guest.log.summary(0), 0xff,
                    guest.log.sections().size() * sizeof(pvdirty_summary));
    }
};

} // namespace

TEST_CASE("hostile size: memory for the largest log", "[hostile]") {
    LargeVm vm(PVDIRTY_MAX_SECTIONS);
    REQUIRE(vm.guest.ram.size() > 4ULL << 30);
    const Allocated allocated;
    const std::size_t before = __sanitizer_get_current_allocated_bytes();
    register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages());
    REQUIRE(vm.domain.log());
    CHECK(vm.guest.ram.holds() == 1 + 2 * int{PVDIRTY_MAX_SECTIONS});
    CHECK(allocated.bytes() > PVDIRTY_MAX_SECTIONS * 64); // the hook sees the table's copy
    CHECK(allocated.bytes() < PVDIRTY_MAX_SECTIONS * 192);
    for (int i = 0; i < 3; i++) {
        vm.set_root();
        static_cast<void>(vm.harvest());
    }
    CHECK(allocated.bytes() < PVDIRTY_MAX_SECTIONS * 192);

    // Unregistered, and refused at the last section: nothing stays.
    unregister_port(vm.rp0);
    vm.guest.log.section(PVDIRTY_MAX_SECTIONS - 1).counts = 0;
    register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages());
    CHECK(read_cap(vm.rp0).error == PVDIRTY_E_SECTION_ADDR);
    CHECK(vm.guest.ram.holds() == 0);
    CHECK(__sanitizer_get_current_allocated_bytes() < before + 4 * kib);
}

TEST_CASE("hostile size: a TiB costs what is summarised", "[hostile]") {
    constexpr std::uint32_t sections = 1024;
    LargeVm vm(sections);
    register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages());
    REQUIRE(vm.domain.log());
    const auto faults_of_a_harvest = [&vm] {
        const long before = page_faults();
        static_cast<void>(vm.harvest());
        return page_faults() - before;
    };
    const auto log_pages = static_cast<long>(vm.guest.ram.size() / PVDIRTY_PAGE_SIZE);
    REQUIRE(log_pages > 73000);
    static_cast<void>(vm.harvest()); // what is touched first: code, the root

    CHECK(faults_of_a_harvest() < 16);
    vm.set_root(); // a lie: no summary has a bit
    CHECK(faults_of_a_harvest() < 16 + vm.guest.log.pages());
    CHECK(vm.sink_calls == 0);

    // Every summary lies too. Now the whole log is read, for the guest's own memory, and once.
    vm.set_root();
    vm.set_summaries();
    const long all = faults_of_a_harvest();
    CHECK(all > log_pages / 2);
    CHECK(all < log_pages + log_pages / 8);
    CHECK(vm.sink_calls == 0);
    // It has been cleared: the next one is idle again.
    CHECK(faults_of_a_harvest() < 16);
}

TEST_CASE("hostile size: the largest log, all ones", "[hostile]") {
    // The marks of four sections; what is counted for each of them holds for all.
    constexpr std::uint32_t sections = 4;
    LargeVm vm(sections);
    register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages());
    const auto scribble = [&vm] {
        vm.set_root();
        vm.set_summaries();
        for (std::size_t i = 0; i < sections; i++) {
            std::memset(vm.guest.log.marks(i), 0x55, PVDIRTY_MARKS_BYTES(PVDIRTY_WINDOW_PAGES));
            std::memset(vm.guest.log.counts(i), 0xff, PVDIRTY_COUNTS_BYTES(PVDIRTY_WINDOW_PAGES));
        }
    };
    scribble();
    const int written = vm.guest.ram.written_calls();
    const auto result = vm.harvest();
    CHECK(result.pages_marked == sections * (PVDIRTY_WINDOW_PAGES / 2));
    CHECK(result.pages_in_flight == sections * PVDIRTY_WINDOW_PAGES);
    CHECK(vm.sink_calls == 2 * sections * marks_words);
    // Marks, summary, for each section; the root.
    CHECK(vm.guest.ram.written_calls() - written <= 2 * int{sections} + 2);

    // A guest that sets everything again inside each callback gains nothing within one harvest.
    vm.sink_calls = 0;
    vm.guest.ram.on_written(scribble);
    CHECK(vm.harvest().pages_in_flight == sections * PVDIRTY_WINDOW_PAGES);
    CHECK(vm.sink_calls <= 2 * sections * marks_words);
}

TEST_CASE("hostile size: years of misbehaviour take no memory", "[hostile]") {
    Vm vm;
    vm.domain.set_logging(Logger::session, true);
    std::size_t before = 0;
    for (int round = 0; round < 2000; round++) {
        if (round == 200) {
            before = __sanitizer_get_current_allocated_bytes();
        }
        vm.track();
        vm.entry(7, 0x100, PVDIRTY_DEV_UNTRACKED, static_cast<pvdirty_dev_reason>(round % 12));
        vm.guest.log.control().incomplete = 1U << (round % 32);
        static_cast<void>(vm.harvest());
        static_cast<void>(vm.domain.why_incomplete());
        unregister_port(vm.rp0);
        register_port(vm.rp0, vm.guest.log.addr(), vm.guest.log.pages() + 1);
        vm.rp1.enumerated();
    }
    vm.guest.ram.take_written();
    CHECK(__sanitizer_get_current_allocated_bytes() < before + 4 * kib);
}
