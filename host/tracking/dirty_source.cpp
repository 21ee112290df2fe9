// SPDX-License-Identifier: MIT
/* The rules that hold for every source. */
#include "pvdirty/dirty_source.hpp"

#include <cerrno>

namespace pvdirty {

tl::unexpected<SourceError> DirtySource::error(int code, const std::string& what) {
    return tl::unexpected(SourceError{code, what});
}

std::string why_unreadable(IovaRange range, const DirtyBitmap& bitmap, std::uint64_t page_size) {
    if (range.first > range.last || !bitmap.range().contains(range)) {
        return "the range is not in the bitmap";
    }
    if (!range.aligned(page_size) || !range.aligned(bitmap.page_size())) {
        return "the range is not made of whole pages";
    }
    return "";
}

tl::expected<void, SourceError> DirtySource::start() {
    if (started_) {
        return {};
    }
    auto done = do_start();
    started_ = done.has_value();
    return done;
}

tl::expected<void, SourceError> DirtySource::stop() {
    if (!started_) {
        return {};
    }
    started_ = false;
    return do_stop();
}

tl::expected<Answer, SourceError> DirtySource::read_and_clear(IovaRange range,
                                                              const DirtyBitmap& bitmap) {
    if (!started_) {
        return error(EINVAL, "dirty pages are not tracked");
    }
    if (const std::string why = why_unreadable(range, bitmap, page_size()); !why.empty()) {
        return error(EINVAL, why);
    }
    return do_read(range, bitmap);
}

tl::expected<void, SourceError> DirtySource::map(IovaRange range) {
    if (range.first > range.last || !range.aligned(page_size())) {
        return error(EINVAL, "the mapping is not made of whole pages");
    }
    return do_map(range);
}

tl::expected<Answer, SourceError> DirtySource::unmap(IovaRange range, const DirtyBitmap* bitmap) {
    if (range.first > range.last || !range.aligned(page_size())) {
        return error(EINVAL, "the range is not made of whole pages");
    }
    if (!started_) {
        return do_unmap(range, nullptr);
    }
    if (bitmap != nullptr) {
        if (const std::string why = why_unreadable(range, *bitmap, page_size()); !why.empty()) {
            return error(EINVAL, why);
        }
    }
    return do_unmap(range, bitmap);
}

tl::expected<void, SourceError> DirtySource::do_map(IovaRange /*range*/) {
    return {};
}

tl::expected<Answer, SourceError> DirtySource::do_unmap(IovaRange range,
                                                        const DirtyBitmap* bitmap) {
    if (bitmap == nullptr) {
        return Answer{};
    }
    return do_read(range, *bitmap);
}

tl::expected<Answer, SourceError> EverythingDirty::do_read(IovaRange range,
                                                           const DirtyBitmap& bitmap) {
    if (!range.overlaps(reach_)) {
        return Answer{};
    }
    bitmap.set(range & reach_);
    return Answer{reason_};
}

} // namespace pvdirty
