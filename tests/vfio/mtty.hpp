// SPDX-License-Identifier: MIT
/** The kernel's mtty sample: a device with two serial ports that loop back, and migration states.
 */
#ifndef PVDIRTY_TESTS_VFIO_MTTY_HPP
#define PVDIRTY_TESTS_VFIO_MTTY_HPP

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "device/stream.hpp"
#include "vfio/vfio_file.hpp"

namespace pvdirty::test {

/** A mediated device of mtty, opened by its own file and bound to an iommufd. */
class Mtty {
public:
    static constexpr unsigned fifo_bytes = 16;

    /** @param ports 1 or 2 */
    explicit Mtty(unsigned ports = 2);
    Mtty(const Mtty&) = delete;
    Mtty& operator=(const Mtty&) = delete;
    ~Mtty();

    [[nodiscard]] int fd() const noexcept { return file_->fd(); }

    /** Puts ports into a state that depends on the seed: registers, divisor, bytes in the FIFO. */
    void fill(std::uint8_t seed);
    /** One byte more in a port's FIFO. */
    void send(unsigned port, std::uint8_t byte);
    /** What a guest sees of all that fill() sets; empties the FIFOs. */
    Bytes drain();

    /** VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, as the kernel has it. */
    [[nodiscard]] std::uint32_t state() const;
    [[nodiscard]] bool runs() const;
    [[nodiscard]] bool rests() const;

private:
    [[nodiscard]] std::uint8_t get(unsigned port, unsigned reg) const;
    void set(unsigned port, unsigned reg, std::uint8_t value) const;

    unsigned ports_;
    std::string uuid_;
    std::optional<VfioFile> file_;
    std::array<std::uint64_t, 2> offset_{};
};

} // namespace pvdirty::test

#endif // PVDIRTY_TESTS_VFIO_MTTY_HPP
