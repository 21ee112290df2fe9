// SPDX-License-Identifier: MIT
/** All sources of a VM's dirty pages as one. */
#ifndef PVDIRTY_TRACKER_HPP
#define PVDIRTY_TRACKER_HPP

#include <string>
#include <vector>

#include "pvdirty/dirty_source.hpp"

namespace pvdirty {

/** A source whose pages were all reported, and why. */
struct Doubt {
    std::string source;
    std::string reason;
};

/** How much a report of the tracker is worth. */
struct Outcome {
    /** A source failed: all that was asked for is set, and will be until tracking starts anew. */
    bool all_dirty = false;
    /** Sources that failed, cannot say, or have just joined. Empty: every bit that is set was
        reported by somebody. */
    std::vector<Doubt> doubts;

    /** The doubts in one line, or "". */
    [[nodiscard]] std::string message() const;
};

/**
 * Combines sources: a page is dirty when one of them says so. On doubt it reports more:
 * - start() starts all sources before anything can be read. A source that fails then, or at any
 *   later call, makes every read answer "all dirty", until tracking is stopped and started;
 * - a source that joins while pages are tracked makes all pages dirty once: its device may have
 *   written any of them before;
 * - a source that leaves hands over its last bits.
 *
 * Threads: serialised by the caller.
 */
class Tracker {
public:
    /**
     * @param source outlives its place here; nobody else starts, stops or reads it
     * @returns EEXIST: it is here. While tracking, the outcome says that it joined
     */
    tl::expected<Outcome, SourceError> add(DirtySource& source);
    /**
     * Its devices are gone. While tracking, its last pages are set in the bitmap, over all of the
     * bitmap's range; what lies outside, or everything without a bitmap, is dirty at the next read.
     * @returns ENOENT: it is not here; EINVAL: see DirtySource::read_and_clear(), and it stays here
     */
    tl::expected<Outcome, SourceError> remove(DirtySource& source, const DirtyBitmap* last);

    /** Does nothing when started. */
    Outcome start();
    /** Does nothing when stopped. A source that cannot be stopped is a doubt, and is let be. */
    Outcome stop();
    [[nodiscard]] bool tracking() const noexcept { return tracking_; }
    /** In pages of this size nobody's bits are spread; ranges must be aligned to it. */
    [[nodiscard]] std::uint64_t page_size() const noexcept;

    /**
     * Sets the bits of pages that any source reports, and has the sources forget them.
     * @param range whole pages of the bitmap and of page_size()
     * @param bitmap covers the range; bits are set in the range only
     * @returns EINVAL: not started, or one of the arguments is not so. No source is asked then
     */
    tl::expected<Outcome, SourceError> read_and_clear(IovaRange range, const DirtyBitmap& bitmap);

private:
    void owe(IovaRange range, const std::string& source, const std::string& reason);
    void pay(IovaRange range, const DirtyBitmap& bitmap, Outcome& outcome);
    void fail(const DirtySource& source, const SourceError& error);
    [[nodiscard]] Outcome failure() const { return {!failed_.empty(), failed_}; }

    /** Pages that are dirty at the next read of them, whatever the sources say. */
    struct Owed {
        IovaRange range;
        Doubt doubt;
    };

    std::vector<DirtySource*> sources_;
    std::vector<Owed> owed_;
    std::vector<Doubt> failed_; // since tracking started
    bool tracking_ = false;
};

} // namespace pvdirty

#endif // PVDIRTY_TRACKER_HPP
