// SPDX-License-Identifier: MIT
/** A device with a migration region, as Linux 5.8 to 5.17 documented one. */
#ifndef PVDIRTY_TESTS_DEVICE_REGION_DEVICE_HPP
#define PVDIRTY_TESTS_DEVICE_REGION_DEVICE_HPP

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "device/device.hpp"

namespace pvdirty::test {

/** Bytes [offset, offset + size) of the region. */
struct Area {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
};

struct RegionLayout {
    std::uint64_t size = 0x4000;
    bool mappable = false;
    std::vector<Area> areas;             // sparse; none, and mappable: the whole region
    std::vector<std::uint64_t> offsets;  // of data, used in turn
    std::uint64_t max_read = UINT64_MAX; // bytes that one trapped access moves
};

/**
 * Data is in the region only between the read of data_offset and the next one of pending_bytes;
 * before and after it is garbage there, and in data_size. Each transaction has another size, and
 * another place.
 */
class RegionDevice final : public DeviceModel {
public:
    static constexpr std::uint32_t stopped = 0, running = 1, saving = 2, resuming = 4, error = 6;
    static constexpr std::uint32_t kept_bits = 0xa8;
    static constexpr std::uint64_t file_offset = 0x30000000000;

    explicit RegionDevice(RegionLayout layout);

    DeviceCalls calls() override;
    void fill(DeviceContent content) override { content_ = std::move(content); }
    [[nodiscard]] std::vector<Bytes> taken() const override { return taken_; }
    [[nodiscard]] bool runs() const override { return (state & running) != 0; }
    [[nodiscard]] bool rests() const override { return state == stopped; }
    void pause() override { state = stopped; }
    [[nodiscard]] std::size_t held() const override { return mappings_; }

    /**
     * A dirty bitmap is read through the same region, as in the drafts of 2019: it has the
     * registers and the data for itself.
     */
    void read_bitmap();

    std::uint32_t state = running;
    bool refuses_maps = false;
    /** What these registers say instead of the truth, if not 0. */
    std::uint64_t false_offset = 0, false_size = 0;
    bool says_no_size = false;

private:
    int ioctl(unsigned long request, void* argument);
    std::int64_t access(void* bytes, std::size_t len, std::uint64_t offset, bool write);
    std::int64_t do_register(void* bytes, std::size_t len, std::uint64_t offset, bool write);
    std::int64_t set_state(std::uint32_t value);
    std::uint64_t begin_transaction();
    void end_transaction();
    void region_info(void* argument) const;
    void poison(std::uint8_t with);

    RegionLayout layout_;
    DeviceContent content_;
    Bytes memory_;
    std::deque<Bytes> pre_copy_, stop_copy_;
    std::vector<Bytes> taken_;
    bool open_ = false;                   // a transaction is
    std::deque<Bytes>* giving_ = nullptr; // whose first piece it gives
    std::uint64_t data_offset_ = 0, data_size_ = 0;
    std::size_t offsets_used_ = 0;
    std::size_t mappings_ = 0;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_DEVICE_REGION_DEVICE_HPP
