// SPDX-License-Identifier: MIT
#include "device_state/region_info.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "device_state/uapi.hpp"

namespace pvdirty {

namespace {

/* Far above what a device has, and enough to end every loop over what the kernel says. */
constexpr std::uint32_t max_regions = 1024;
constexpr std::uint32_t max_info_bytes = std::uint32_t{64} << 10;

using Info = std::vector<std::uint8_t>;

/* What the kernel wrote at an offset of the info; nothing if that is not within it. */
template <class T>
std::optional<T> at(const Info& info, std::uint64_t offset) {
    if (offset > info.size() || info.size() - offset < sizeof(T)) {
        return std::nullopt;
    }
    T value{};
    std::memcpy(&value, info.data() + offset, sizeof(T));
    return value;
}

/* A region's info with all its capabilities. */
Result<Info> region_info(const DeviceFd& device, std::uint32_t index) {
    const std::string what = "VFIO_DEVICE_GET_REGION_INFO of region " + std::to_string(index);
    std::uint32_t bytes = sizeof(vfio_region_info);
    for (;;) {
        vfio_region_info header{};
        header.argsz = bytes;
        header.index = index;
        Info info(bytes);
        std::memcpy(info.data(), &header, sizeof(header));
        if (const int result = device.ioctl(VFIO_DEVICE_GET_REGION_INFO, info.data()); result < 0) {
            return failed(what, result);
        }
        std::memcpy(&header, info.data(), sizeof(header));
        if (header.argsz <= bytes) {
            return info;
        }
        if (header.argsz > max_info_bytes) {
            return tl::unexpected(what + " wants " + std::to_string(header.argsz) + " bytes");
        }
        bytes = header.argsz;
    }
}

/* Offset of a capability in the info; nothing: it has none, or its chain leads nowhere. */
std::optional<std::uint64_t> find_capability(const Info& info, std::uint16_t id) {
    const auto header = *at<vfio_region_info>(info, 0);
    std::uint64_t offset = (header.flags & VFIO_REGION_INFO_FLAG_CAPS) != 0 ? header.cap_offset : 0;
    while (offset != 0) {
        const auto capability = at<vfio_info_cap_header>(info, offset);
        if (!capability) {
            break;
        }
        if (capability->id == id) {
            return offset;
        }
        // Only forwards, so that every chain ends.
        offset = capability->next > offset ? capability->next : 0;
    }
    return std::nullopt;
}

bool is_migration_region(const Info& info) {
    const auto offset = find_capability(info, VFIO_REGION_INFO_CAP_TYPE);
    const auto type = offset ? at<vfio_region_info_cap_type>(info, *offset) : std::nullopt;
    return type && type->type == VFIO_REGION_TYPE_MIGRATION_DEPRECATED &&
           type->subtype == VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED;
}

/* Areas that may be mapped: those of the sparse capability, or else the whole region. */
Result<std::vector<RegionArea>> mappable(const Info& info) {
    const auto header = *at<vfio_region_info>(info, 0);
    std::vector<RegionArea> areas;
    if ((header.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0) {
        return areas;
    }
    const auto offset = find_capability(info, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
    if (!offset) {
        areas.push_back({0, header.size});
        return areas;
    }
    using Sparse = vfio_region_info_cap_sparse_mmap;
    const auto count = at<std::uint32_t>(info, *offset + offsetof(Sparse, nr_areas)).value_or(0);
    for (std::uint64_t i = 0; i < count; i++) {
        const auto area = at<vfio_region_sparse_mmap_area>(
            info, *offset + offsetof(Sparse, areas) + i * sizeof(vfio_region_sparse_mmap_area));
        if (!area || area->offset > header.size || area->size > header.size - area->offset) {
            return tl::unexpected("the migration region's mappable area " + std::to_string(i) +
                                  " is not within the region");
        }
        if (area->size != 0) {
            areas.push_back({area->offset, area->size});
        }
    }
    std::sort(areas.begin(), areas.end(),
              [](const auto& a, const auto& b) { return a.offset < b.offset; });
    for (std::size_t i = 1; i < areas.size(); i++) {
        if (areas[i].offset - areas[i - 1].offset < areas[i - 1].size) {
            return tl::unexpected(
                std::string("two mappable areas of the migration region overlap"));
        }
    }
    return areas;
}

} // namespace

Result<std::optional<RegionInfo>> find_migration_region(const DeviceFd& device) {
    vfio_device_info device_info{};
    device_info.argsz = sizeof(device_info);
    if (const int result = device.ioctl(VFIO_DEVICE_GET_INFO, &device_info); result < 0) {
        return failed("VFIO_DEVICE_GET_INFO", result);
    }
    if (device_info.num_regions > max_regions) {
        return tl::unexpected("the device says that it has " +
                              std::to_string(device_info.num_regions) + " regions");
    }
    for (std::uint32_t index = 0; index < device_info.num_regions; index++) {
        const auto info = region_info(device, index);
        if (!info) {
            return tl::unexpected(info.error());
        }
        if (!is_migration_region(*info)) {
            continue;
        }
        const auto header = *at<vfio_region_info>(*info, 0);
        constexpr std::uint32_t both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        if ((header.flags & both) != both || header.size <= sizeof(uapi::MigrationInfo) ||
            header.size > INT64_MAX || header.offset > INT64_MAX - header.size) {
            return tl::unexpected("the migration region cannot be read and written, or has " +
                                  std::to_string(header.size) + " bytes");
        }
        auto areas = mappable(*info);
        if (!areas) {
            return tl::unexpected(areas.error());
        }
        return RegionInfo{header.offset, header.size, std::move(*areas)};
    }
    return std::nullopt;
}

} // namespace pvdirty
