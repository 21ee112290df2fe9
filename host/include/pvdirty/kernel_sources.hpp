// SPDX-License-Identifier: MIT
/**
 * Dirty pages as the kernel's VFIO and iommufd report them. What each ioctl does is as of Linux
 * 6.12, and told in host/tracking/README.md.
 */
#ifndef PVDIRTY_KERNEL_SOURCES_HPP
#define PVDIRTY_KERNEL_SOURCES_HPP

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "pvdirty/dirty_source.hpp"

namespace pvdirty {

/** ioctl(2), but a failure is returned as -errno. */
using Ioctl = std::function<int(int fd, unsigned long request, void* arg)>;
int system_ioctl(int fd, unsigned long request, void* arg);

/** Ranges that devices can reach: none overlaps another, and each was mapped as a whole. */
class Mappings {
public:
    /** @returns false: it overlaps one that is here */
    bool add(IovaRange mapping);
    /** A mapping that is here goes. */
    void remove(IovaRange mapping) { last_of_.erase(mapping.first); }
    void clear() noexcept { last_of_.clear(); }
    [[nodiscard]] std::size_t size() const noexcept { return last_of_.size(); }
    /** Does an end of the range lie inside a mapping? */
    [[nodiscard]] bool cut_by(IovaRange range) const;
    /** Those that overlap a range, ascending, each as it was mapped. */
    [[nodiscard]] std::vector<IovaRange> in(IovaRange range) const;
    /** What is mapped of a range, ascending: mappings that touch are one. */
    [[nodiscard]] std::vector<IovaRange> areas(IovaRange range = {}) const;

private:
    std::map<std::uint64_t, std::uint64_t> last_of_; // by the first address
};

/** A source that is told what its devices can reach. It has nothing to say of anything else. */
class MappedSource : public DirtySource {
protected:
    MappedSource(std::string name, int fd, Ioctl ioctl)
        : DirtySource(std::move(name)), fd_(fd), ioctl_(std::move(ioctl)) {}

    [[nodiscard]] const Mappings& mappings() const noexcept { return mappings_; }
    [[nodiscard]] int call(unsigned long request, void* arg) const {
        return ioctl_(fd_, request, arg);
    }
    /** An ioctl has returned -errno. */
    static tl::unexpected<SourceError> failed(const char* what, int result);

private:
    tl::expected<void, SourceError> do_map(IovaRange range) override;
    tl::expected<Answer, SourceError> do_unmap(IovaRange range, const DirtyBitmap* bitmap) final;
    /** The last bits of a mapping, if bitmap is not null. */
    virtual tl::expected<Answer, SourceError> do_unmap_one(IovaRange mapping,
                                                           const DirtyBitmap* bitmap) = 0;

    int fd_;
    Ioctl ioctl_;
    Mappings mappings_;
};

namespace vfio {

/**
 * VFIO_IOMMU_DIRTY_PAGES of a type1 container. The kernel reports whole mappings only: of one that
 * is asked for in part, the rest is kept here until it is asked for. unmap() removes the mappings,
 * by VFIO_IOMMU_UNMAP_DMA, since nothing else reports their last bits.
 */
class Container final : public MappedSource {
public:
    /**
     * @param fd a container with its IOMMU set; stays open while the source lives
     * @param page_size of the kernel's bitmaps: see page_size_of()
     */
    Container(std::string name, int fd, std::uint64_t page_size, Ioctl ioctl = system_ioctl)
        : MappedSource(std::move(name), fd, std::move(ioctl)), page_size_(page_size) {}

    /**
     * Asks the kernel by VFIO_IOMMU_GET_INFO for the one page size that it takes.
     * @returns ENOTSUP: it does not offer the migration capability; or what the kernel says
     */
    static tl::expected<std::uint64_t, int> page_size_of(int fd, const Ioctl& ioctl = system_ioctl);

    [[nodiscard]] std::uint64_t page_sizes() const noexcept override { return page_size_; }

private:
    tl::expected<void, SourceError> do_start() override;
    tl::expected<void, SourceError> do_stop() override;
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override;
    tl::expected<Answer, SourceError> do_unmap_one(IovaRange mapping,
                                                   const DirtyBitmap* bitmap) override;
    void take_kept(IovaRange mapping, std::vector<std::uint64_t>& words);

    std::uint64_t page_size_;
    std::map<std::uint64_t, std::vector<std::uint64_t>> kept_; // by a mapping's first address
};

/**
 * VFIO_DEVICE_FEATURE_DMA_LOGGING_*: a device that logs its own writes. It is told what to log
 * when it starts; of what is mapped later it cannot say until then. A device without a log cannot
 * say at all.
 */
class DeviceLog final : public MappedSource {
public:
    /** @param fd of the device; stays open while the source lives */
    DeviceLog(std::string name, int fd, Ioctl ioctl = system_ioctl)
        : MappedSource(std::move(name), fd, std::move(ioctl)) {}

    [[nodiscard]] std::uint64_t page_sizes() const noexcept override;

private:
    tl::expected<void, SourceError> do_start() override;
    tl::expected<void, SourceError> do_stop() override;
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override;
    tl::expected<Answer, SourceError> do_unmap_one(IovaRange mapping,
                                                   const DirtyBitmap* bitmap) override;
    tl::expected<void, SourceError> report(IovaRange range, const DirtyBitmap& bitmap);

    Mappings logged_;        // what the device was told
    std::string cannot_say_; // why it has no log
};

} // namespace vfio

namespace iommufd {

/**
 * IOMMU_HWPT_SET_DIRTY_TRACKING and IOMMU_HWPT_GET_DIRTY_BITMAP: an IOMMU that tracks. Linux 6.12
 * says nothing when a part of what is asked for is not mapped, and reports nothing behind it:
 * map() and unmap() must follow the mappings exactly. An IOMMU that does not track cannot say.
 */
class Hwpt final : public MappedSource {
public:
    /**
     * @param fd of iommufd; stays open while the source lives
     * @param hwpt_id a paging HWPT, allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING
     * @param page_size the IOAS's alignment, a power of two
     */
    Hwpt(std::string name, int fd, std::uint32_t hwpt_id, std::uint64_t page_size = 4096,
         Ioctl ioctl = system_ioctl)
        : MappedSource(std::move(name), fd, std::move(ioctl)), hwpt_id_(hwpt_id),
          page_size_(page_size) {}

    /** The smallest, and all above it. */
    [[nodiscard]] std::uint64_t page_sizes() const noexcept override { return ~(page_size_ - 1); }

private:
    tl::expected<void, SourceError> do_start() override;
    tl::expected<void, SourceError> do_stop() override;
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override;
    tl::expected<Answer, SourceError> do_unmap_one(IovaRange mapping,
                                                   const DirtyBitmap* bitmap) override;
    [[nodiscard]] int set_tracking(bool on) const;
    tl::expected<Answer, SourceError> read(IovaRange range, const DirtyBitmap& bitmap,
                                           std::uint32_t flags);

    std::uint32_t hwpt_id_;
    std::uint64_t page_size_;
    std::string cannot_say_; // why it does not track
};

} // namespace iommufd

} // namespace pvdirty

#endif // PVDIRTY_KERNEL_SOURCES_HPP
