// SPDX-License-Identifier: MIT
/* A domain's harvest as a source. */
#include "log/word.hpp"
#include "pvdirty/dirty_source.hpp"
#include "pvdirty/domain.hpp"

namespace pvdirty {

std::uint64_t GuestMarks::page_sizes() const noexcept {
    return PVDIRTY_PAGE_SIZE;
}

tl::expected<void, SourceError> GuestMarks::do_start() {
    domain_.set_logging(Logger::dirty_log, true);
    return {};
}

tl::expected<void, SourceError> GuestMarks::do_stop() {
    domain_.set_logging(Logger::dirty_log, false);
    return {};
}

tl::expected<Answer, SourceError> GuestMarks::do_read(IovaRange range, const DirtyBitmap& bitmap) {
    auto set = [&](std::uint64_t first_pfn, std::uint64_t mask) {
        for_each_bit(mask, [&](unsigned bit) {
            const std::uint64_t gpa = (first_pfn + bit) << PVDIRTY_PAGE_SHIFT;
            const IovaRange page{gpa, gpa + (PVDIRTY_PAGE_SIZE - 1)};
            if (range.contains(page)) { // of pages in flight the whole log is handed over
                bitmap.set(page);
            }
        });
    };
    const HarvestResult result =
        domain_.harvest(PageSink(set), PageSink(set),
                        {range.first >> PVDIRTY_PAGE_SHIFT, range.last >> PVDIRTY_PAGE_SHIFT});
    if (result.all_dirty) {
        bitmap.set(range);
        return Answer{domain_.latched()};
    }
    return Answer{};
}

} // namespace pvdirty
