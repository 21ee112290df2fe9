// SPDX-License-Identifier: MIT
/*
 * A VM with a guest-marked device, one that logs, one behind an IOMMU that tracks and one that
 * nobody tracks, under random writes, reads and hot-plugs: what the tracker reports is exactly
 * what was written and not yet reported, and what it may not know.
 */
#include "property/check.hpp"
#include "pvdirty/tracker.hpp"
#include "unit/tracking/kernel_models.hpp"
#include "unit/vm.hpp"

using namespace pvdirty::test; // NOLINT(google-build-using-namespace): all of it is for tests
using pvdirty::EverythingDirty;
using pvdirty::GuestMarks;
using pvdirty::Ioctl;
using pvdirty::IovaRange;
using pvdirty::Tracker;
using pvdirty::iommufd::Hwpt;
using pvdirty::vfio::DeviceLog;

namespace {

constexpr std::uint64_t ram_pages = 256;

/** A step of a VM's life; page and more mean what the kind makes of them. */
struct Step {
    enum class Kind : std::uint8_t {
        guest_writes,
        logger_writes,
        iommu_writes,
        read,
        plug,
        unplug,
        unplug_unread,
        restart
    };
    Kind kind = Kind::read;
    std::uint64_t page = 0;
    std::uint64_t more = 0;
};

std::ostream& operator<<(std::ostream& out, const Step& step) {
    return out << "kind " << static_cast<int>(step.kind) << " page " << step.page << " more "
               << step.more;
}

rc::Gen<Step> any_step() {
    using Kind = Step::Kind;
    return rc::gen::construct<Step>(rc::gen::weightedElement<Kind>({{6, Kind::guest_writes},
                                                                    {6, Kind::logger_writes},
                                                                    {6, Kind::iommu_writes},
                                                                    {6, Kind::read},
                                                                    {1, Kind::plug},
                                                                    {1, Kind::unplug},
                                                                    {1, Kind::unplug_unread},
                                                                    {1, Kind::restart}}),
                                    rc::gen::inRange<std::uint64_t>(0, ram_pages),
                                    rc::gen::inRange<std::uint64_t>(0, 128));
}

/** The VM, and what its pages are by a model. */
class World {
public:
    explicit World(const std::function<Ioctl(Ioctl)>& broken)
        : logger_("nic0", 17, broken(device_.ioctl())),
          iommu_("iommu", 18, 5, kib4, iommufd_.ioctl()) {
        vm_.track();
        // Mappings of the one have a hole, the other's do not.
        for (const IovaRange& range : {pages(0, 99), pages(120, ram_pages - 1)}) {
            iommufd_.mapped.add(range);
            RC_ASSERT(iommu_.map(range));
        }
        RC_ASSERT(logger_.map(pages(0, ram_pages - 1)));
        for (pvdirty::DirtySource* source :
             std::initializer_list<pvdirty::DirtySource*>{&guest_, &logger_, &iommu_, &nobody_}) {
            RC_ASSERT(tracker_.add(*source));
        }
        RC_ASSERT(tracker_.start().doubts.empty());
    }

    void run(const Step& step) {
        switch (step.kind) {
        case Step::Kind::guest_writes:
            pvd_hold(vm_.guest.log.core(), step.page, step.page);
            pvd_release(vm_.guest.log.core(), step.page, step.page);
            dirty_.insert(step.page);
            return;
        case Step::Kind::logger_writes:
            device_.write(step.page);
            dirty_.insert(step.page);
            return;
        case Step::Kind::iommu_writes:
            if (step.page < 100 || step.page >= 120) {
                iommufd_.write(step.page);
                dirty_.insert(step.page);
            }
            return;
        case Step::Kind::read:
            read(step.page, std::min(step.page + step.more, ram_pages - 1));
            return;
        case Step::Kind::plug: // or, when it is there, only a write of its own
            if (!plugged_) {
                RC_ASSERT(tracker_.add(late_));
                owe_all();
            }
            plugged_ = true;
            late_.dirty.insert(step.page);
            return;
        case Step::Kind::unplug: {
            const Bits last(pages(0, ram_pages - 1));
            const Numbers expected = late_.dirty;
            RC_ASSERT(tracker_.remove(late_, &last.view).has_value() == plugged_);
            RC_ASSERT(last.set() == expected);
            plugged_ = false;
            return;
        }
        case Step::Kind::unplug_unread:
            RC_ASSERT(tracker_.remove(late_, nullptr).has_value() == plugged_);
            if (plugged_) {
                owe_all();
            }
            late_.dirty.clear();
            plugged_ = false;
            return;
        case Step::Kind::restart: // all is sent anew
            tracker_.stop();
            late_.dirty.clear();
            RC_ASSERT(tracker_.start().doubts.empty());
            dirty_.clear();
            owed_.clear();
            return;
        }
    }

private:
    void owe_all() {
        for (std::uint64_t page = 0; page < ram_pages; page++) {
            owed_.insert(page);
        }
    }
    void read(std::uint64_t first, std::uint64_t last) {
        const Bits bits(pages(0, ram_pages - 1));
        const Numbers late = late_.dirty;
        const auto outcome = tracker_.read_and_clear(pages(first, last), bits.view);
        RC_ASSERT(outcome);
        RC_ASSERT(!outcome->all_dirty);
        Numbers expected;
        for (std::uint64_t page = first; page <= last; page++) {
            const bool untracked = nobody_first <= page && page <= nobody_last;
            const auto reported = dirty_.erase(page) + owed_.erase(page);
            if (reported != 0 || untracked || late.count(page) != 0) {
                expected.insert(page);
            }
        }
        RC_ASSERT(bits.set() == expected);
    }

    static constexpr std::uint64_t nobody_first = 60;
    static constexpr std::uint64_t nobody_last = 66;

    Vm vm_;
    DeviceModel device_;
    IommufdModel iommufd_;
    GuestMarks guest_{"guest", vm_.domain};
    DeviceLog logger_;
    Hwpt iommu_;
    EverythingDirty nobody_{"mdev0", "nobody tracks it", pages(nobody_first, nobody_last)};
    TestSource late_{"late"};
    Tracker tracker_;
    Numbers dirty_; // written, and not reported since
    Numbers owed_;  // reported once whatever was written
    bool plugged_ = false;
};

auto reports_exactly(const std::function<Ioctl(Ioctl)>& broken) {
    return [broken] {
        World world(broken);
        for (const Step& step : *rc::gen::container<std::vector<Step>>(any_step())) {
            world.run(step);
        }
        world.run({Step::Kind::read, 0, ram_pages});
        world.run({Step::Kind::read, 0, ram_pages}); // nothing twice
    };
}

} // namespace

TEST_CASE("combine: four devices, four ways, no page lost and none too many", "[combine]") {
    holds(reports_exactly([](Ioctl ioctl) { return ioctl; }), 2000);
}

TEST_CASE("combine: a device whose log loses or invents pages is noticed", "[combine]") {
    const auto changed = [](std::uint64_t keep, std::uint64_t add) {
        return [keep, add](const Ioctl& ioctl) -> Ioctl {
            return [=](int fd, unsigned long request, void* arg) {
                auto* const feature = static_cast<vfio_device_feature*>(arg);
                const int result = ioctl(fd, request, arg);
                if ((feature->flags & VFIO_DEVICE_FEATURE_MASK) ==
                    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT) {
                    vfio_device_feature_dma_logging_report report{};
                    std::memcpy(&report, feature->data, sizeof(report));
                    auto& word = *user_pointer<std::uint64_t>(report.bitmap);
                    word = (word & keep) | add;
                }
                return result;
            };
        };
    };
    is_refuted(reports_exactly(changed(~std::uint64_t{2}, 0)), 2000);
    is_refuted(reports_exactly(changed(UINT64_MAX, 1)), 2000);
}
