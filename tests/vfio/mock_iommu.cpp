// SPDX-License-Identifier: MIT
/* The calls are those of drivers/iommu/iommufd/selftest.c of Linux 6.12; iommufd_test.h is from its
   source, as it is nobody's interface. */
#include "vfio/mock_iommu.hpp"

#include <cerrno>
#include <stdexcept>
#include <string>
#include <vector>

#include <fcntl.h>
#include <iommufd_test.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace pvdirty::test {

namespace {

constexpr std::uint64_t cpu_page = 4096;

template <class Argument>
void must(const MockIommu& iommu, unsigned long request, Argument& argument, const char* what) {
    argument.size = sizeof(argument);
    if (const int result = iommu.call(request, &argument); result != 0) {
        throw std::runtime_error(std::string(what) + " failed: " + std::to_string(result));
    }
}

iommu_test_cmd command(std::uint32_t op, std::uint32_t id) {
    iommu_test_cmd command{};
    command.op = op;
    command.id = id;
    return command;
}

} // namespace

MockIommu::MockIommu(bool tracks)
    : fd_(open("/dev/iommu", O_RDWR | O_CLOEXEC)),
      memory_(
          static_cast<std::uint8_t*>(mmap(nullptr, memory_pages * cpu_page, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    iommu_ioas_alloc ioas{};
    must(*this, IOMMU_IOAS_ALLOC, ioas, "IOMMU_IOAS_ALLOC");
    ioas_ = ioas.out_ioas_id;
    auto device = command(IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, ioas_);
    device.mock_domain_flags.dev_flags = tracks ? 0 : MOCK_FLAGS_DEVICE_NO_DIRTY;
    must(*this, IOMMU_TEST_CMD, device, "IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS");
    iommu_hwpt_alloc hwpt{};
    hwpt.flags = tracks ? IOMMU_HWPT_ALLOC_DIRTY_TRACKING : 0;
    hwpt.dev_id = device.mock_domain_flags.out_idev_id;
    hwpt.pt_id = ioas_;
    must(*this, IOMMU_HWPT_ALLOC, hwpt, "IOMMU_HWPT_ALLOC");
    hwpt_ = hwpt.out_hwpt_id;
    auto attach = command(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, device.mock_domain_flags.out_stdev_id);
    attach.mock_domain_replace.pt_id = hwpt_;
    must(*this, IOMMU_TEST_CMD, attach, "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE");
}

MockIommu::~MockIommu() {
    close(fd_);
    munmap(memory_, memory_pages * cpu_page);
}

int MockIommu::call(unsigned long request, void* arg) const {
    return ioctl(fd_, request, arg) < 0 ? -errno : 0;
}

IovaRange MockIommu::pages(std::uint64_t first, std::uint64_t last) noexcept {
    constexpr std::uint64_t base = MOCK_APERTURE_START;
    return {base + first * cpu_page, base + last * cpu_page + (cpu_page - 1)};
}

void MockIommu::map(IovaRange range) const {
    iommu_ioas_map map{};
    map.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    map.ioas_id = ioas_;
    map.user_va = reinterpret_cast<std::uintptr_t>(memory_) + (range.first - MOCK_APERTURE_START);
    map.length = range.size();
    map.iova = range.first;
    must(*this, IOMMU_IOAS_MAP, map, "IOMMU_IOAS_MAP");
}

void MockIommu::unmap(IovaRange range) const {
    iommu_ioas_unmap unmap{};
    unmap.ioas_id = ioas_;
    unmap.iova = range.first;
    unmap.length = range.size();
    must(*this, IOMMU_IOAS_UNMAP, unmap, "IOMMU_IOAS_UNMAP");
}

std::uint64_t MockIommu::write(const std::set<std::uint64_t>& addresses) const {
    std::vector<std::uint64_t> words(memory_pages * cpu_page / io_page / 64);
    for (const std::uint64_t address : addresses) {
        const std::uint64_t number = (address - MOCK_APERTURE_START) / io_page;
        words.at(number / 64) |= std::uint64_t{1} << number % 64;
    }
    auto dirty = command(IOMMU_TEST_OP_DIRTY, hwpt_);
    dirty.dirty.iova = MOCK_APERTURE_START;
    dirty.dirty.length = memory_pages * cpu_page;
    dirty.dirty.page_size = io_page;
    dirty.dirty.uptr = reinterpret_cast<std::uintptr_t>(words.data());
    must(*this, IOMMU_TEST_CMD, dirty, "IOMMU_TEST_OP_DIRTY");
    return dirty.dirty.out_nr_dirty;
}

} // namespace pvdirty::test
