// SPDX-License-Identifier: MIT
/** iommufd's test driver: a device behind an IOMMU that is told which of its pages are dirty. */
#ifndef PVDIRTY_TESTS_VFIO_MOCK_IOMMU_HPP
#define PVDIRTY_TESTS_VFIO_MOCK_IOMMU_HPP

#include <cstdint>
#include <set>

#include "pvdirty/dirty_bitmap.hpp"

namespace pvdirty::test {

/** Pages of the mock IOMMU: half of a CPU's (MOCK_IO_PAGE_SIZE). */
inline constexpr std::uint64_t io_page = 2048;

/** With one IOAS, one device and one HWPT; addresses count from the IOMMU's first. */
class MockIommu {
public:
    /** CPU pages of memory behind it. */
    static constexpr std::uint64_t memory_pages = 1024;

    /** @param tracks the HWPT is one with dirty tracking */
    explicit MockIommu(bool tracks = true);
    MockIommu(const MockIommu&) = delete;
    MockIommu& operator=(const MockIommu&) = delete;
    ~MockIommu();

    [[nodiscard]] int fd() const noexcept { return fd_; }
    [[nodiscard]] std::uint32_t hwpt() const noexcept { return hwpt_; }

    /** Addresses of CPU pages first..last. */
    [[nodiscard]] static IovaRange pages(std::uint64_t first, std::uint64_t last) noexcept;
    void map(IovaRange range) const;
    void unmap(IovaRange range) const;
    /**
     * The device writes to these IO pages, given by their addresses.
     * @returns how many of them are mapped
     */
    std::uint64_t write(const std::set<std::uint64_t>& addresses) const;

    /** An ioctl of iommufd: 0 or -errno. */
    int call(unsigned long request, void* arg) const;

private:
    int fd_;
    std::uint8_t* memory_;
    std::uint32_t ioas_ = 0;
    std::uint32_t hwpt_ = 0;
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_VFIO_MOCK_IOMMU_HPP
