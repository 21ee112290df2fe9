// SPDX-License-Identifier: MIT
#include "device/region_device.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include <linux/vfio.h>

#include "device_state/uapi.hpp"

namespace pvdirty::test {

namespace {

constexpr std::uint32_t region_index = 2, num_regions = 4;

template <class T>
void put(Bytes& bytes, std::size_t offset, const T& value) {
    bytes.resize(std::max(bytes.size(), offset + sizeof(T)));
    std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

std::uint64_t sum(const std::deque<Bytes>& pieces) {
    return std::accumulate(pieces.begin(), pieces.end(), std::uint64_t{0},
                           [](std::uint64_t n, const Bytes& piece) { return n + piece.size(); });
}

/* What the documentation's table allows, and what QEMU 7.2 does besides. */
bool allowed(std::uint32_t from, std::uint32_t to) {
    using D = RegionDevice;
    constexpr std::uint32_t pre_copy = D::running | D::saving;
    switch (from) {
    case D::running:
        return to == D::stopped || to == pre_copy || to == D::saving || to == D::resuming;
    case pre_copy:
        return to == D::saving || to == D::running;
    case D::saving:
        return to == D::stopped || to == D::running;
    case D::stopped:
        return to == D::running || to == D::saving || to == D::resuming;
    case D::resuming:
        return to == D::running;
    default:
        return false;
    }
}

} // namespace

RegionDevice::RegionDevice(RegionLayout layout)
    : layout_(std::move(layout)), memory_(layout_.size, 0xee) {
    starts = 1;
}

DeviceCalls RegionDevice::calls() {
    DeviceCalls calls;
    calls.ioctl = [this](int fd, unsigned long request, void* argument) {
        return fd == device_fd ? ioctl(request, argument) : -EBADF;
    };
    calls.pread = [this](int, void* out, std::size_t len, std::uint64_t offset) {
        return access(out, len, offset, false);
    };
    calls.pwrite = [this](int, const void* in, std::size_t len, std::uint64_t offset) {
        return access(const_cast<void*>(in), len, offset, true);
    };
    calls.mmap = [this](int, std::size_t len, std::uint64_t offset) -> void* {
        const std::uint64_t at = offset - file_offset;
        const bool whole = layout_.areas.empty() && at == 0 && len == layout_.size;
        if (!layout_.mappable ||
            (!whole && std::none_of(layout_.areas.begin(), layout_.areas.end(), [&](Area area) {
                return area.offset == at && area.size == len;
            }))) {
            violations.emplace_back("maps what may not be mapped");
            return nullptr;
        }
        if (faults.next() != Fault::none || refuses_maps) {
            return nullptr;
        }
        mappings_++;
        return memory_.data() + at;
    };
    calls.munmap = [this](void*, std::size_t) { mappings_--; };
    calls.close = [this](int) { violations.emplace_back("closes an fd"); };
    return calls;
}

int RegionDevice::ioctl(unsigned long request, void* argument) {
    const Fault fault = faults.next();
    if (fault == Fault::fails || fault == Fault::interrupted) {
        return fault == Fault::fails ? -EIO : -EINTR;
    }
    if (request == VFIO_DEVICE_GET_INFO) {
        vfio_device_info info{};
        std::memcpy(&info, argument, sizeof(info));
        info.num_regions = num_regions;
        std::memcpy(argument, &info, sizeof(info));
    } else if (request == VFIO_DEVICE_GET_REGION_INFO) {
        region_info(argument);
    } else if (request == VFIO_DEVICE_RESET) {
        resets++;
        starts += runs() ? 0 : 1;
        state = running;
        end_transaction();
        pre_copy_.clear();
        stop_copy_.clear();
        taken_.clear();
    } else {
        return -ENOTTY;
    }
    return fault == Fault::none ? 0 : -EIO;
}

void RegionDevice::region_info(void* argument) const {
    vfio_region_info asked{};
    std::memcpy(&asked, argument, sizeof(asked));
    vfio_region_info header{};
    header.index = asked.index;
    Bytes info;
    put(info, 0, header);
    if (asked.index == region_index) {
        header.size = layout_.size;
        header.offset = file_offset;
        header.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                       VFIO_REGION_INFO_FLAG_CAPS |
                       (layout_.mappable ? VFIO_REGION_INFO_FLAG_MMAP : 0U);
        header.cap_offset = sizeof(header);
        const std::size_t sparse = sizeof(header) + sizeof(vfio_region_info_cap_type);
        vfio_region_info_cap_type type{};
        type.header.id = VFIO_REGION_INFO_CAP_TYPE;
        type.header.next = layout_.areas.empty() ? 0 : static_cast<std::uint32_t>(sparse);
        type.type = VFIO_REGION_TYPE_MIGRATION_DEPRECATED;
        type.subtype = VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED;
        put(info, sizeof(header), type);
        if (!layout_.areas.empty()) {
            vfio_info_cap_header capability{};
            capability.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
            put(info, sparse, capability);
            put(info, sparse + offsetof(vfio_region_info_cap_sparse_mmap, nr_areas),
                static_cast<std::uint32_t>(layout_.areas.size()));
            std::size_t at = sparse + offsetof(vfio_region_info_cap_sparse_mmap, areas);
            for (const Area& area : layout_.areas) {
                put(info, at, vfio_region_sparse_mmap_area{area.offset, area.size});
                at += sizeof(vfio_region_sparse_mmap_area);
            }
        }
    }
    header.argsz = static_cast<std::uint32_t>(info.size());
    put(info, 0, header);
    // As the kernel does: what does not fit is not written, but for the header.
    std::memcpy(argument, info.data(), asked.argsz < info.size() ? sizeof(header) : info.size());
}

std::int64_t RegionDevice::access(void* bytes, std::size_t len, std::uint64_t offset, bool write) {
    const Fault fault = faults.next();
    if (fault == Fault::fails || fault == Fault::interrupted) {
        return fault == Fault::fails ? -EIO : -EINTR;
    }
    if (fault == Fault::breaks) {
        state = error;
        return -EIO;
    }
    offset -= file_offset;
    if (offset > layout_.size || len > layout_.size - offset) {
        violations.emplace_back("reaches past the region");
        return -EINVAL;
    }
    std::int64_t done = 0;
    if (offset < sizeof(uapi::MigrationInfo)) {
        if (fault == Fault::falls_short) {
            return 2;
        }
        done = do_register(bytes, len, offset, write);
    } else {
        len = std::min(len, layout_.max_read);
        len = fault == Fault::falls_short && len > 1 ? len / 2 : len;
        std::memcpy(write ? memory_.data() + offset : bytes,
                    write ? bytes : memory_.data() + offset, len);
        done = static_cast<std::int64_t>(len);
    }
    return fault == Fault::fails_late ? -EIO : done;
}

std::int64_t RegionDevice::do_register(void* bytes, std::size_t len, std::uint64_t offset,
                                       bool write) {
    const bool narrow = offset == offsetof(uapi::MigrationInfo, device_state);
    if (len != (narrow ? 4U : 8U)) {
        violations.emplace_back("accesses a register by parts");
        return -EINVAL;
    }
    std::uint64_t value = 0;
    if (write) {
        std::memcpy(&value, bytes, len);
    }
    switch (offset) {
    case offsetof(uapi::MigrationInfo, device_state):
        if (write) {
            const std::int64_t result = set_state(static_cast<std::uint32_t>(value));
            return result < 0 ? result : 4;
        }
        value = state | kept_bits;
        break;
    case offsetof(uapi::MigrationInfo, pending_bytes):
        end_transaction();
        value = (state & saving) != 0 ? sum(pre_copy_) + (runs() ? 0 : sum(stop_copy_)) : 0;
        break;
    case offsetof(uapi::MigrationInfo, data_offset):
        value = false_offset != 0 ? false_offset : begin_transaction();
        break;
    case offsetof(uapi::MigrationInfo, data_size):
        if (write) {
            if (state != resuming || !open_ || value > layout_.size - data_offset_) {
                violations.emplace_back("writes a data_size that means nothing");
                return -EINVAL;
            }
            const auto at = memory_.begin() + static_cast<std::ptrdiff_t>(data_offset_);
            taken_.emplace_back(at, at + static_cast<std::ptrdiff_t>(value));
            open_ = false;
            poison(0xcc);
            return 8;
        }
        value = false_size != 0 ? false_size : says_no_size ? 0 : data_size_;
        break;
    default:
        violations.emplace_back("accesses what is no register");
        return -EINVAL;
    }
    if (write) {
        violations.emplace_back("writes a register that is read-only");
        return -EINVAL;
    }
    std::memcpy(bytes, &value, len);
    return static_cast<std::int64_t>(len);
}

std::int64_t RegionDevice::set_state(std::uint32_t value) {
    if ((value & ~uapi::region_state_mask) != kept_bits) {
        violations.emplace_back("does not keep the bits above the state");
    }
    value &= uapi::region_state_mask;
    if (value == state) {
        return 0;
    }
    if (!allowed(state, value)) {
        violations.push_back("goes from state " + std::to_string(state) + " to " +
                             std::to_string(value));
        return -EINVAL;
    }
    end_transaction();
    if ((value & saving) != 0 && (state & saving) == 0) {
        pre_copy_.assign(content_.pre_copy.begin(), content_.pre_copy.end());
        stop_copy_.assign(content_.stop_copy.begin(), content_.stop_copy.end());
    }
    if (value == resuming) {
        taken_.clear();
    }
    starts += (value & running) != 0 && !runs() ? 1 : 0;
    state = value;
    return 0;
}

/* What is left of the pre-copy's pieces when it stops is given then. */
std::uint64_t RegionDevice::begin_transaction() {
    if (!open_) {
        open_ = true;
        data_offset_ = layout_.offsets[offsets_used_++ % layout_.offsets.size()];
        data_size_ = 0;
        std::deque<Bytes>& pieces = pre_copy_.empty() && !runs() ? stop_copy_ : pre_copy_;
        if ((state & saving) != 0 && !pieces.empty()) {
            giving_ = &pieces;
            const Bytes& piece = pieces.front();
            std::copy(piece.begin(), piece.end(),
                      memory_.begin() + static_cast<std::ptrdiff_t>(data_offset_));
            data_size_ = piece.size();
        }
    }
    return data_offset_;
}

void RegionDevice::end_transaction() {
    if (!open_) {
        return;
    }
    open_ = false;
    if (giving_ != nullptr) {
        std::exchange(giving_, nullptr)->pop_front();
    }
    poison(0xdd);
    data_size_ += 8; // until the next data_offset, it says what was, or anything
}

void RegionDevice::read_bitmap() {
    poison(0xbb);
    data_size_ = 1;
    data_offset_ = layout_.offsets[offsets_used_++ % layout_.offsets.size()];
}

void RegionDevice::poison(std::uint8_t with) {
    std::fill(memory_.begin() + sizeof(uapi::MigrationInfo), memory_.end(), with);
}

} // namespace pvdirty::test
