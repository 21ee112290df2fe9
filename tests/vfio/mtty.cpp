// SPDX-License-Identifier: MIT
#include "vfio/mtty.hpp"

#include <cstring>
#include <fstream>

#include <linux/serial_reg.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace pvdirty::test {

namespace {

const std::string bus = "/sys/bus/mdev/devices/";

void write_to(const std::string& file, const std::string& text) {
    std::ofstream out(file);
    out << text << std::flush;
    if (!out) {
        fail("writing " + file);
    }
}

std::string new_uuid() {
    std::string uuid;
    std::ifstream("/proc/sys/kernel/random/uuid") >> uuid;
    return uuid;
}

template <class Argument>
void must(int fd, unsigned long request, Argument& argument, const char* what) {
    argument.argsz = sizeof(argument);
    if (ioctl(fd, request, &argument) < 0) {
        fail(what);
    }
}

} // namespace

Mtty::Mtty(unsigned ports) : ports_(ports), uuid_(new_uuid()) {
    write_to("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-" + std::to_string(ports) +
                 "/create",
             uuid_);
    file_.emplace(bus + uuid_);
    for (unsigned port = 0; port < ports_; port++) {
        vfio_region_info info{};
        info.index = VFIO_PCI_BAR0_REGION_INDEX + port;
        must(fd(), VFIO_DEVICE_GET_REGION_INFO, info, "VFIO_DEVICE_GET_REGION_INFO");
        offset_.at(port) = info.offset;
    }
}

Mtty::~Mtty() {
    file_.reset();
    std::ofstream(bus + uuid_ + "/remove") << "1" << std::flush;
}

std::uint8_t Mtty::get(unsigned port, unsigned reg) const {
    std::uint8_t value = 0;
    if (pread(fd(), &value, 1, static_cast<off_t>(offset_.at(port) + reg)) != 1) {
        fail("reading a port of mtty");
    }
    return value;
}

void Mtty::set(unsigned port, unsigned reg, std::uint8_t value) const {
    if (pwrite(fd(), &value, 1, static_cast<off_t>(offset_.at(port) + reg)) != 1) {
        fail("writing a port of mtty");
    }
}

void Mtty::fill(std::uint8_t seed) {
    for (unsigned port = 0; port < ports_; port++) {
        const auto value = static_cast<std::uint8_t>(seed + 64 * port);
        set(port, UART_LCR, UART_LCR_DLAB); // clears the divisor
        set(port, UART_DLL, value);
        set(port, UART_DLM, static_cast<std::uint8_t>(~value));
        set(port, UART_LCR, UART_LCR_WLEN8);
        set(port, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
        set(port, UART_SCR, static_cast<std::uint8_t>(value * 3));
        for (unsigned i = 0; i + 2 < fifo_bytes; i++) {
            send(port, static_cast<std::uint8_t>(value + 7 * i));
        }
    }
}

void Mtty::send(unsigned port, std::uint8_t byte) {
    set(port, UART_TX, byte);
}

Bytes Mtty::drain() {
    Bytes seen;
    for (unsigned port = 0; port < ports_; port++) {
        seen.push_back(get(port, UART_SCR));
        seen.push_back(get(port, UART_LCR));
        while ((get(port, UART_LSR) & UART_LSR_DR) != 0) {
            seen.push_back(get(port, UART_RX));
        }
    }
    return seen;
}

std::uint32_t Mtty::state() const {
    vfio_device_feature header{};
    vfio_device_feature_mig_state state{};
    alignas(8) std::array<std::uint8_t, sizeof(header) + sizeof(state)> bytes{};
    header.argsz = bytes.size();
    header.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    std::memcpy(bytes.data(), &header, sizeof(header));
    if (ioctl(fd(), VFIO_DEVICE_FEATURE, bytes.data()) < 0) {
        fail("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE");
    }
    std::memcpy(&state, bytes.data() + sizeof(header), sizeof(state));
    return state.device_state;
}

bool Mtty::runs() const {
    const std::uint32_t now = state();
    return now == VFIO_DEVICE_STATE_RUNNING || now == VFIO_DEVICE_STATE_PRE_COPY;
}

bool Mtty::rests() const {
    return state() == VFIO_DEVICE_STATE_STOP;
}

} // namespace pvdirty::test
