// SPDX-License-Identifier: MIT
/** Where dirty pages come from: the interface of a source, and two sources without a kernel. */
#ifndef PVDIRTY_DIRTY_SOURCE_HPP
#define PVDIRTY_DIRTY_SOURCE_HPP

#include <cstdint>
#include <string>

#include <tl/expected.hpp>

#include "pvdirty/dirty_bitmap.hpp"

namespace pvdirty {

class Domain;

/** Why a call failed. */
struct SourceError {
    int code = 0;        /**< an errno value */
    std::string message; /**< one line, without the source's name */
};

/** What a source says of the pages that it was asked for. */
struct Answer {
    /** Why it cannot say which pages are dirty, so that all it knows of are set; "": it can. */
    std::string cannot_say;
};

/**
 * Something that knows which pages a device, or several, wrote. What is asked and answered is as
 * in VFIO:
 * - start() and stop() may be repeated, and do nothing then;
 * - a read before start() or after stop() is EINVAL, not an empty bitmap;
 * - a read reports and forgets the pages of its range, and leaves those outside of it alone. It
 *   only ever sets bits, in a bitmap of any page size: a page of the source that is larger sets
 *   all pages of the bitmap in it. When it returns, the pages may be read;
 * - a source that cannot say sets the bits of all pages that it may have missed, and says why;
 * - after an error nothing that it says or said since start() is of use: all memory counts as
 *   dirty, until tracking starts anew (as <linux/vfio.h> has it of DMA logging).
 *
 * Threads: serialised by the caller.
 */
class DirtySource {
public:
    /** @param name for messages */
    explicit DirtySource(std::string name) : name_(std::move(name)) {}
    DirtySource(const DirtySource&) = delete;
    DirtySource& operator=(const DirtySource&) = delete;
    virtual ~DirtySource() = default;

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] bool started() const noexcept { return started_; }
    /** Sizes of pages of which it keeps account, or-ed together like VFIO's pgsize_bitmap. */
    [[nodiscard]] virtual std::uint64_t page_sizes() const noexcept = 0;
    /** The smallest of them: ranges must be aligned to it. */
    [[nodiscard]] std::uint64_t page_size() const noexcept {
        return page_sizes() & (~page_sizes() + 1);
    }

    tl::expected<void, SourceError> start();
    tl::expected<void, SourceError> stop();
    /**
     * @param range to be reported; whole pages of the bitmap and of page_size()
     * @param bitmap covers the range
     * @returns EINVAL: not started, or one of the arguments is not so; or what the kernel says
     */
    tl::expected<Answer, SourceError> read_and_clear(IovaRange range, const DirtyBitmap& bitmap);

    /**
     * The devices behind this source can reach the range from now on: to be called after the
     * mapping is made. Sources that know by themselves what they track ignore it.
     * @returns EINVAL: not aligned to page_size(); EEXIST: it overlaps a mapping
     */
    tl::expected<void, SourceError> map(IovaRange range);
    /**
     * Hands over the last bits of all mappings in a range and forgets the mappings: to be called
     * before they are removed (vfio::Container removes them itself).
     * @param bitmap covers the range; may be null, and the bits are dropped. Without effect unless
     *               started
     * @returns EINVAL: as read_and_clear(), or the range cuts a mapping in two
     */
    tl::expected<Answer, SourceError> unmap(IovaRange range, const DirtyBitmap* bitmap);

protected:
    static tl::unexpected<SourceError> error(int code, const std::string& what);

private:
    virtual tl::expected<void, SourceError> do_start() = 0;
    virtual tl::expected<void, SourceError> do_stop() = 0;
    /** Started, and the arguments have been checked. */
    virtual tl::expected<Answer, SourceError> do_read(IovaRange range,
                                                      const DirtyBitmap& bitmap) = 0;
    virtual tl::expected<void, SourceError> do_map(IovaRange range);
    /** bitmap: null unless started. */
    virtual tl::expected<Answer, SourceError> do_unmap(IovaRange range, const DirtyBitmap* bitmap);

    std::string name_;
    bool started_ = false;
};

/**
 * Is this a read that may be asked?
 * @returns what is wrong, or "": the range is not in the bitmap, or not made of whole pages of the
 *          bitmap and of page_size
 */
std::string why_unreadable(IovaRange range, const DirtyBitmap& bitmap, std::uint64_t page_size);

/** Devices that nobody tracks: whatever they can reach is dirty at every read. */
class EverythingDirty final : public DirtySource {
public:
    /**
     * @param reason why they are not tracked, for messages
     * @param reach what they can write
     */
    EverythingDirty(std::string name, std::string reason, IovaRange reach = {})
        : DirtySource(std::move(name)), reason_(std::move(reason)), reach_(reach) {}

    [[nodiscard]] std::uint64_t page_sizes() const noexcept override { return UINT64_MAX; }

private:
    tl::expected<void, SourceError> do_start() override { return {}; }
    tl::expected<void, SourceError> do_stop() override { return {}; }
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override;

    std::string reason_;
    IovaRange reach_;
};

/**
 * The marks of a domain's guest, and at every read the pages in flight too: a device may write
 * those at any moment. Addresses are guest-physical. While the domain's log is not complete it
 * cannot say.
 */
class GuestMarks final : public DirtySource {
public:
    /** @param domain outlives the source, which logs as its Logger::dirty_log */
    GuestMarks(std::string name, Domain& domain) : DirtySource(std::move(name)), domain_(domain) {}

    [[nodiscard]] std::uint64_t page_sizes() const noexcept override;

private:
    tl::expected<void, SourceError> do_start() override;
    tl::expected<void, SourceError> do_stop() override;
    tl::expected<Answer, SourceError> do_read(IovaRange range, const DirtyBitmap& bitmap) override;

    Domain& domain_;
};

} // namespace pvdirty

#endif // PVDIRTY_DIRTY_SOURCE_HPP
