// SPDX-License-Identifier: MIT
/* VFIO_DEVICE_FEATURE_DMA_LOGGING_*: drivers/vfio/vfio_main.c of Linux 6.12. */
#include <algorithm>
#include <cerrno>
#include <cstddef>

#include <linux/vfio.h>

#include "pvdirty/kernel_sources.hpp"
#include "tracking/vfio_arguments.hpp"

namespace pvdirty::vfio {

namespace {

/* The smallest page that a report may be asked for. */
constexpr std::uint64_t report_page = 4096;

/* As many ranges as every kernel takes: LOG_MAX_RANGES of drivers/vfio/vfio_main.c at 4 KiB. */
constexpr std::size_t max_ranges = 256;

/* Logging more than is mapped is harmless, so the ranges with the smallest gaps become one. */
void combine(std::vector<IovaRange>& ranges) {
    while (ranges.size() > max_ranges) {
        std::size_t best = 1;
        for (std::size_t i = 2; i < ranges.size(); i++) {
            if (ranges[i].first - ranges[i - 1].last < ranges[best].first - ranges[best - 1].last) {
                best = i;
            }
        }
        ranges[best - 1].last = ranges[best].last;
        ranges.erase(ranges.begin() + static_cast<std::ptrdiff_t>(best));
    }
}

} // namespace

std::uint64_t DeviceLog::page_sizes() const noexcept {
    return ~(report_page - 1);
}

tl::expected<void, SourceError> DeviceLog::do_start() {
    cannot_say_.clear();
    logged_.clear();
    std::vector<IovaRange> ranges = mappings().areas();
    if (ranges.empty()) {
        return {}; // the kernel takes no empty list, and what is mapped later is not logged anyway
    }
    combine(ranges);
    std::vector<vfio_device_feature_dma_logging_range> list;
    list.reserve(ranges.size());
    for (const IovaRange& range : ranges) {
        list.push_back({range.first, range.size()});
    }
    vfio_device_feature_dma_logging_control control{};
    control.page_size = report_page;
    control.num_ranges = static_cast<std::uint32_t>(list.size());
    control.ranges = reinterpret_cast<std::uintptr_t>(list.data());
    auto start = feature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, control);
    const int result = call(VFIO_DEVICE_FEATURE, start.data());
    if (result == -ENOTTY) {
        cannot_say_ = "the device has no DMA log";
        return {};
    }
    if (result < 0) {
        return failed("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", result);
    }
    for (const IovaRange& range : ranges) {
        logged_.add(range);
    }
    return {};
}

tl::expected<void, SourceError> DeviceLog::do_stop() {
    if (logged_.size() == 0) {
        return {};
    }
    logged_.clear();
    vfio_device_feature stop{};
    stop.argsz = sizeof(stop);
    stop.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP;
    if (const int result = call(VFIO_DEVICE_FEATURE, &stop); result < 0) {
        return failed("VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP", result);
    }
    return {};
}

tl::expected<void, SourceError> DeviceLog::report(IovaRange range, const DirtyBitmap& bitmap) {
    std::vector<std::uint64_t> words(DirtyBitmap::words_for(range, report_page));
    vfio_device_feature_dma_logging_report report{};
    report.iova = range.first;
    report.length = range.size();
    report.page_size = report_page;
    report.bitmap = reinterpret_cast<std::uintptr_t>(words.data());
    auto get = feature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report);
    if (const int result = call(VFIO_DEVICE_FEATURE, get.data()); result < 0) {
        return failed("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", result);
    }
    bitmap.merge(*DirtyBitmap::over(range, report_page, words));
    return {};
}

tl::expected<Answer, SourceError> DeviceLog::do_read(IovaRange range, const DirtyBitmap& bitmap) {
    Answer answer{cannot_say_};
    for (const IovaRange& area : mappings().areas(range)) {
        const std::vector<IovaRange> logged = logged_.areas(area);
        for (const IovaRange& part : logged) {
            if (auto done = report(part, bitmap); !done) {
                return tl::unexpected(done.error());
            }
        }
        // What lies between was not mapped when the device was told.
        std::uint64_t next = area.first;
        for (const IovaRange& part : logged) {
            if (part.first > next) {
                bitmap.set({next, part.first - 1});
            }
            next = part.last + 1;
        }
        const bool to_the_end = !logged.empty() && logged.back().last == area.last;
        if (!to_the_end) {
            bitmap.set({next, area.last});
        }
        const bool whole = to_the_end && logged.size() == 1 && logged.front() == area;
        if (!whole && answer.cannot_say.empty()) {
            answer.cannot_say = "memory was mapped after its logging began";
        }
    }
    return answer;
}

tl::expected<Answer, SourceError> DeviceLog::do_unmap_one(IovaRange mapping,
                                                          const DirtyBitmap* bitmap) {
    return bitmap != nullptr ? do_read(mapping, *bitmap)
                             : tl::expected<Answer, SourceError>(Answer{});
}

} // namespace pvdirty::vfio
