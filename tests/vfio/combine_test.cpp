// SPDX-License-Identifier: MIT
/*
 * vfio::DeviceLog over the kernel's VFIO, with a device that logs; and the tracker over that, a
 * mock IOMMU, a guest's marks and a device that nobody tracks.
 */
#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <random>

#include <linux/iommufd.h>
#include <linux/vfio.h>
#include <unistd.h>

#include "pvdirty/kernel_sources.hpp"
#include "pvdirty/tracker.hpp"
#include "unit/tracking/test_source.hpp"
#include "unit/vm.hpp"
#include "vfio/kernel_faults.hpp"
#include "vfio/mock_iommu.hpp"
#include "vfio/mtty.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::EverythingDirty;
using pvdirty::GuestMarks;
using pvdirty::Ioctl;
using pvdirty::IovaRange;
using pvdirty::system_ioctl;
using pvdirty::Tracker;
using pvdirty::iommufd::Hwpt;
using pvdirty::vfio::DeviceLog;

namespace {

/* The device of kmod/dma_log.c. */
class Logger {
public:
    [[nodiscard]] int fd() const { return file_.fd(); }
    void write(std::uint64_t page) const { put(page * kib4); }
    /* Its next report fails. */
    void break_log() const { put(UINT64_MAX); }

private:
    void put(std::uint64_t address) const {
        REQUIRE(::write(fd(), &address, sizeof(address)) == sizeof(address));
    }

    VfioFile file_{"/sys/devices/platform/dma_log"};
};

Numbers read(pvdirty::DirtySource& source, IovaRange range) {
    const Bits bits(pages(0, 511));
    const auto answer = source.read_and_clear(range, bits.view);
    return answer && answer->cannot_say.empty() ? bits.set() : Numbers{UINT64_MAX};
}

/*
 * Four devices, four ways, and pages that each writes.
 * @returns pages that the tracker missed or that nobody wrote
 */
Numbers wrong(const Ioctl& log_ioctl, const Ioctl& iommu_ioctl) {
    const std::uint64_t iommu_first = MockIommu::pages(0, 0).first / kib4;
    const IovaRange window = pages(0, iommu_first + 511);
    const IovaRange untracked = pages(iommu_first + 400, iommu_first + 407);
    Vm vm;
    vm.track();
    GuestMarks marks("guest", vm.domain);
    const Logger device;
    DeviceLog log("logger", device.fd(), log_ioctl);
    REQUIRE(log.map(pages(0, 255)));
    MockIommu mock;
    Hwpt iommu("iommu", mock.fd(), mock.hwpt(), kib4, iommu_ioctl);
    mock.map(MockIommu::pages(0, 255));
    REQUIRE(iommu.map(MockIommu::pages(0, 255)));
    EverythingDirty nobody("nobody", "a test", untracked);
    Tracker tracker;
    for (pvdirty::DirtySource* source :
         std::initializer_list<pvdirty::DirtySource*>{&marks, &log, &iommu, &nobody}) {
        REQUIRE(tracker.add(*source));
    }
    REQUIRE(tracker.start().doubts.empty());
    std::mt19937 random(7);
    Numbers differ;
    for (int round = 0; round < 20; round++) {
        Numbers expected;
        for (std::uint64_t page = untracked.first; page < untracked.last; page += kib4) {
            expected.insert(page / kib4);
        }
        for (unsigned i = 0; i < random() % 30; i++) {
            const std::uint64_t marked = random() % 200;
            pvd_hold(vm.guest.log.core(), marked, marked);
            pvd_release(vm.guest.log.core(), marked, marked);
            const std::uint64_t logged = random() % 256;
            device.write(logged);
            const std::uint64_t tracked = iommu_first + random() % 256;
            mock.write({tracked * kib4 + random() % 2 * io_page});
            expected.insert({marked, logged, tracked});
        }
        const Bits bits(window);
        const auto outcome = tracker.read_and_clear(window, bits.view);
        REQUIRE(outcome);
        REQUIRE(outcome->doubts.size() == 1);
        CHECK(outcome->doubts[0].source == "nobody");
        const Numbers reported = bits.set();
        std::set_symmetric_difference(reported.begin(), reported.end(), expected.begin(),
                                      expected.end(), std::inserter(differ, differ.end()));
    }
    tracker.stop();
    return differ;
}

} // namespace

TEST_CASE("device log: the kernel's bits are reported once, whatever part is asked for",
          "[combine]") {
    const Logger device;
    DeviceLog log("logger", device.fd());
    REQUIRE(log.map(pages(0, 99)));
    REQUIRE(log.map(pages(200, 255)));
    const Bits bits(pages(0, 511));
    CHECK(log.read_and_clear(pages(0, 511), bits.view).error().code == EINVAL);
    REQUIRE(log.start());
    REQUIRE(log.start()); // the device would not take a second one
    for (const std::uint64_t page : {0, 63, 64, 99, 200, 255}) {
        device.write(page);
    }
    device.write(150); // not mapped, so not told to log
    CHECK(read(log, pages(32, 127)) == Numbers{63, 64, 99});
    CHECK(read(log, pages(0, 511)) == Numbers{0, 200, 255});
    CHECK(read(log, pages(0, 511)).empty());
    REQUIRE(log.stop());
    CHECK(log.read_and_clear(pages(0, 511), bits.view).error().code == EINVAL);
    device.write(1);
    REQUIRE(log.start());
    CHECK(read(log, pages(0, 511)).empty());
    REQUIRE(log.stop());
}

TEST_CASE("device log (001): of what is mapped after the start the kernel cannot say",
          "[combine]") {
    const Logger device;
    DeviceLog log("logger", device.fd());
    REQUIRE(log.map(pages(0, 99)));
    REQUIRE(log.start());
    REQUIRE(log.map(pages(100, 103)));
    device.write(5);
    const Bits bits(pages(0, 127));
    const auto answer = log.read_and_clear(pages(0, 127), bits.view);
    REQUIRE(answer);
    CHECK_FALSE(answer->cannot_say.empty());
    CHECK(bits.set() == Numbers{5, 100, 101, 102, 103});
    REQUIRE(log.stop());
}

TEST_CASE("device log: an error of the driver is told, and all is dirty until tracking starts anew",
          "[combine]") {
    const Logger device;
    DeviceLog log("logger", device.fd());
    REQUIRE(log.map(pages(0, 99)));
    Tracker tracker;
    REQUIRE(tracker.add(log));
    REQUIRE(tracker.start().doubts.empty());
    device.break_log();
    for (int i = 0; i < 2; i++) {
        const Bits bits(pages(0, 99));
        const auto outcome = tracker.read_and_clear(pages(0, 99), bits.view);
        REQUIRE(outcome);
        CHECK(outcome->all_dirty);
        CHECK(bits.view.count() == 100);
    }
    tracker.stop();
    REQUIRE(tracker.start().doubts.empty());
    device.write(7);
    const Bits bits(pages(0, 99));
    REQUIRE(tracker.read_and_clear(pages(0, 99), bits.view));
    CHECK(bits.set() == Numbers{7});
    tracker.stop();
}

TEST_CASE("device log: a fault anywhere in the kernel is an error, or changes nothing",
          "[combine]") {
    const Logger device;
    KernelFaults faults;
    unsigned told = 0;
    const unsigned met = faults.everywhere([&] {
        DeviceLog log("logger", device.fd(), [&](int fd, unsigned long request, void* arg) {
            return faults.around([&] { return system_ioctl(fd, request, arg); });
        });
        REQUIRE(log.map(pages(0, 99)));
        bool all = false;
        if (log.start()) {
            device.write(3);
            device.write(98);
            const Bits bits(pages(0, 99));
            const auto answer = log.read_and_clear(pages(0, 99), bits.view);
            if (answer) {
                CHECK(bits.set() == Numbers{3, 98});
            }
            all = answer.has_value();
        }
        told += all ? 0 : 1;
        faults.hold();
        // Whatever it left, the next one starts.
        static_cast<void>(log.stop());
        DeviceLog end("end", device.fd());
        REQUIRE(end.map(pages(0, 99)));
        if (!end.start()) {
            std::array<std::uint8_t, sizeof(vfio_device_feature)> stop{};
            vfio_device_feature header{};
            header.argsz = sizeof(header);
            header.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
            std::memcpy(stop.data(), &header, sizeof(header));
            REQUIRE(system_ioctl(device.fd(), VFIO_DEVICE_FEATURE, stop.data()) == 0);
        } else {
            REQUIRE(end.stop());
        }
    });
    CHECK(told > 0);
    WARN(met << " faults, " << told << " of them told");
}

TEST_CASE("combine: four devices, four ways, in the kernel: no page lost and none too many",
          "[combine]") {
    const Numbers differ = wrong(system_ioctl, system_ioctl);
    CAPTURE(differ);
    CHECK(differ.empty());
}

TEST_CASE("combine: a source in the kernel that is not read is found", "[combine]") {
    const Ioctl deaf = [](int fd, unsigned long request, void* arg) {
        vfio_device_feature header{};
        if (request == VFIO_DEVICE_FEATURE) {
            std::memcpy(&header, arg, sizeof(header));
        }
        const bool reads =
            request == IOMMU_HWPT_GET_DIRTY_BITMAP ||
            (header.flags & VFIO_DEVICE_FEATURE_MASK) == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
        return reads ? 0 : system_ioctl(fd, request, arg);
    };
    SECTION("the log") {
        CHECK_FALSE(wrong(deaf, system_ioctl).empty());
    }
    SECTION("the IOMMU") {
        CHECK_FALSE(wrong(system_ioctl, deaf).empty());
    }
}

TEST_CASE("device log: mtty's starts, reports nothing, and stops", "[combine]") {
    const Mtty device;
    DeviceLog log("mtty", device.fd());
    REQUIRE(log.map(pages(0, 99)));
    REQUIRE(log.start());
    CHECK(read(log, pages(0, 127)).empty());
    REQUIRE(log.stop());
}
