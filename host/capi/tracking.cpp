// SPDX-License-Identifier: MIT
/* The C API of sources, tracker and type1. */
#include "pvdirty/tracking.h"

#include <memory>

#include "capi/handles.hpp"
#include "pvdirty/kernel_sources.hpp"
#include "pvdirty/tracker.hpp"
#include "pvdirty/type1.hpp"

using pvdirty::Answer;
using pvdirty::DirtyBitmap;
using pvdirty::Ioctl;
using pvdirty::IovaRange;
using pvdirty::Outcome;
using pvdirty::SourceError;
using pvdirty::capi::copy_text;

struct pvd_source {
    std::unique_ptr<pvdirty::DirtySource> source;
};

struct pvd_tracker {
    pvdirty::Tracker tracker;
};

struct pvd_type1 {
    pvdirty::vfio::Type1DirtyPages container;
};

namespace {

struct pvd_source* handle(std::unique_ptr<pvdirty::DirtySource> source) {
    return std::make_unique<pvd_source>(pvd_source{std::move(source)}).release();
}

Ioctl ioctl_of(const pvd_kernel& kernel) {
    if (kernel.ioctl == nullptr) {
        return pvdirty::system_ioctl;
    }
    return [kernel](int fd, unsigned long request, void* arg) {
        return kernel.ioctl(kernel.opaque, fd, request, arg);
    };
}

tl::expected<DirtyBitmap, int> bitmap_of(const pvd_bitmap& bitmap) {
    return IovaRange::of(bitmap.iova, bitmap.size).and_then([&](IovaRange range) {
        return DirtyBitmap::over(range, bitmap.page_size, {bitmap.words, bitmap.nwords});
    });
}

int refused(int error, const char* what, char* message, size_t len) {
    copy_text(what, message, len);
    return -error;
}

int told(const SourceError& error, char* message, size_t len) {
    copy_text(error.message, message, len);
    return -error.code;
}

int told(const Outcome& outcome, char* message, size_t len) {
    copy_text(outcome.message(), message, len);
    if (outcome.all_dirty) {
        return PVD_REPORT_ALL;
    }
    return outcome.doubts.empty() ? PVD_REPORT_EXACT : PVD_REPORT_DOUBT;
}

int told(const tl::expected<Outcome, SourceError>& outcome, char* message, size_t len) {
    return outcome ? told(*outcome, message, len) : told(outcome.error(), message, len);
}

} // namespace

struct pvd_source* pvd_source_everything(const char* name, const char* reason, uint64_t first,
                                         uint64_t last) noexcept {
    return handle(std::make_unique<pvdirty::EverythingDirty>(name, reason, IovaRange{first, last}));
}

struct pvd_source* pvd_source_guest_marks(const char* name, struct pvd_domain* d) noexcept {
    return handle(std::make_unique<pvdirty::GuestMarks>(name, d->domain));
}

struct pvd_source* pvd_source_container(const char* name, struct pvd_kernel container,
                                        uint64_t page_size) noexcept {
    return handle(std::make_unique<pvdirty::vfio::Container>(name, container.fd, page_size,
                                                             ioctl_of(container)));
}

int pvd_container_page_size(struct pvd_kernel container, uint64_t* page_size) noexcept {
    const auto size = pvdirty::vfio::Container::page_size_of(container.fd, ioctl_of(container));
    if (!size) {
        return -size.error();
    }
    *page_size = *size;
    return 0;
}

struct pvd_source* pvd_source_device_log(const char* name, struct pvd_kernel device) noexcept {
    return handle(std::make_unique<pvdirty::vfio::DeviceLog>(name, device.fd, ioctl_of(device)));
}

struct pvd_source* pvd_source_hwpt(const char* name, struct pvd_kernel iommufd, uint32_t hwpt_id,
                                   uint64_t page_size) noexcept {
    return handle(std::make_unique<pvdirty::iommufd::Hwpt>(name, iommufd.fd, hwpt_id, page_size,
                                                           ioctl_of(iommufd)));
}

void pvd_source_free(struct pvd_source* s) noexcept {
    delete s;
}

int pvd_source_map(struct pvd_source* s, uint64_t iova, uint64_t size) noexcept {
    const auto range = IovaRange::of(iova, size);
    if (!range) {
        return -range.error();
    }
    const auto mapped = s->source->map(*range);
    return mapped ? 0 : -mapped.error().code;
}

int pvd_source_unmap(struct pvd_source* s, uint64_t iova, uint64_t size,
                     const struct pvd_bitmap* last, char* message, size_t len) noexcept {
    const auto range = IovaRange::of(iova, size);
    if (!range) {
        return refused(range.error(), "no range", message, len);
    }
    tl::expected<Answer, SourceError> answer;
    if (last != nullptr) {
        const auto bitmap = bitmap_of(*last);
        if (!bitmap) {
            return refused(bitmap.error(), "no bitmap", message, len);
        }
        answer = s->source->unmap(*range, &*bitmap);
    } else {
        answer = s->source->unmap(*range, nullptr);
    }
    if (!answer) {
        return told(answer.error(), message, len);
    }
    copy_text(answer->cannot_say, message, len);
    return answer->cannot_say.empty() ? PVD_REPORT_EXACT : PVD_REPORT_DOUBT;
}

struct pvd_tracker* pvd_tracker_new(void) noexcept {
    return std::make_unique<pvd_tracker>().release();
}

void pvd_tracker_free(struct pvd_tracker* t) noexcept {
    delete t;
}

int pvd_tracker_add(struct pvd_tracker* t, struct pvd_source* s, char* message,
                    size_t len) noexcept {
    return told(t->tracker.add(*s->source), message, len);
}

int pvd_tracker_remove(struct pvd_tracker* t, struct pvd_source* s, const struct pvd_bitmap* last,
                       char* message, size_t len) noexcept {
    if (last == nullptr) {
        return told(t->tracker.remove(*s->source, nullptr), message, len);
    }
    const auto bitmap = bitmap_of(*last);
    if (!bitmap) {
        return refused(bitmap.error(), "no bitmap", message, len);
    }
    return told(t->tracker.remove(*s->source, &*bitmap), message, len);
}

int pvd_tracker_start(struct pvd_tracker* t, char* message, size_t len) noexcept {
    return told(t->tracker.start(), message, len);
}

int pvd_tracker_stop(struct pvd_tracker* t, char* message, size_t len) noexcept {
    return told(t->tracker.stop(), message, len);
}

uint64_t pvd_tracker_page_size(const struct pvd_tracker* t) noexcept {
    return t->tracker.page_size();
}

int pvd_tracker_read(struct pvd_tracker* t, uint64_t iova, uint64_t size,
                     const struct pvd_bitmap* bitmap, char* message, size_t len) noexcept {
    const auto range = IovaRange::of(iova, size);
    if (!range) {
        return refused(range.error(), "no range", message, len);
    }
    const auto words = bitmap_of(*bitmap);
    if (!words) {
        return refused(words.error(), "no bitmap", message, len);
    }
    return told(t->tracker.read_and_clear(*range, *words), message, len);
}

int pvd_bitmap_convert(const struct pvd_bitmap* to, const struct pvd_bitmap* from) noexcept {
    const auto target = bitmap_of(*to);
    if (!target) {
        return -target.error();
    }
    const auto source = bitmap_of(*from);
    if (!source) {
        return -source.error();
    }
    target->merge(*source);
    return 0;
}

struct pvd_type1* pvd_type1_new(struct pvd_source* s, uint64_t page_size) noexcept {
    return std::make_unique<pvd_type1>(
               pvd_type1{pvdirty::vfio::Type1DirtyPages(*s->source, page_size)})
        .release();
}

void pvd_type1_free(struct pvd_type1* c) noexcept {
    delete c;
}

int pvd_type1_ioctl(struct pvd_type1* c, unsigned long request, void* arg) noexcept {
    return c->container.ioctl(request, arg);
}
