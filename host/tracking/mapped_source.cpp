// SPDX-License-Identifier: MIT
/* What sources in the kernel have in common: calls, and mappings. */
#include <cerrno>
#include <cstring>

#include <sys/ioctl.h>

#include "pvdirty/kernel_sources.hpp"

namespace pvdirty {

int system_ioctl(int fd, unsigned long request, void* arg) {
    const int result = ::ioctl(fd, request, arg);
    return result < 0 ? -errno : result;
}

bool Mappings::add(IovaRange mapping) {
    if (!in(mapping).empty()) {
        return false;
    }
    last_of_.emplace(mapping.first, mapping.last);
    return true;
}

bool Mappings::cut_by(IovaRange range) const {
    for (const IovaRange& mapping : in(range)) {
        if (!range.contains(mapping)) {
            return true;
        }
    }
    return false;
}

std::vector<IovaRange> Mappings::in(IovaRange range) const {
    std::vector<IovaRange> found;
    auto next = last_of_.upper_bound(range.first);
    if (next != last_of_.begin() && std::prev(next)->second >= range.first) {
        --next;
    }
    for (; next != last_of_.end() && next->first <= range.last; ++next) {
        found.push_back({next->first, next->second});
    }
    return found;
}

std::vector<IovaRange> Mappings::areas(IovaRange range) const {
    std::vector<IovaRange> areas;
    for (const IovaRange& mapping : in(range)) {
        const IovaRange part = mapping & range;
        if (!areas.empty() && areas.back().last + 1 == part.first) {
            areas.back().last = part.last;
        } else {
            areas.push_back(part);
        }
    }
    return areas;
}

tl::unexpected<SourceError> MappedSource::failed(const char* what, int result) {
    return error(-result, std::string(what) + ": " + std::strerror(-result));
}

tl::expected<void, SourceError> MappedSource::do_map(IovaRange range) {
    if (!mappings_.add(range)) {
        return error(EEXIST, "the mapping overlaps another");
    }
    return {};
}

tl::expected<Answer, SourceError> MappedSource::do_unmap(IovaRange range,
                                                         const DirtyBitmap* bitmap) {
    if (mappings_.cut_by(range)) {
        return error(EINVAL, "the range cuts a mapping in two");
    }
    Answer answer;
    for (const IovaRange& mapping : mappings_.in(range)) {
        auto one = do_unmap_one(mapping, bitmap);
        if (!one) {
            return one;
        }
        if (answer.cannot_say.empty()) {
            answer = *one;
        }
        mappings_.remove(mapping);
    }
    return answer;
}

} // namespace pvdirty
