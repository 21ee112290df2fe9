// SPDX-License-Identifier: MIT
/** Arguments of VFIO's ioctls whose structures end in a flexible array. */
#ifndef PVDIRTY_TRACKING_VFIO_ARGUMENTS_HPP
#define PVDIRTY_TRACKING_VFIO_ARGUMENTS_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <linux/vfio.h>

namespace pvdirty::vfio {

/** Head and tail, one right behind the other, as the kernel wants them. */
template <class Head, class Tail>
class Arguments {
public:
    Arguments(const Head& head, const Tail& tail) noexcept {
        std::memcpy(bytes_.data(), &head, sizeof(head));
        std::memcpy(bytes_.data() + sizeof(head), &tail, sizeof(tail));
    }

    [[nodiscard]] void* data() noexcept { return bytes_.data(); }
    /** As the kernel has left them. */
    [[nodiscard]] Head head() const noexcept {
        Head head{};
        std::memcpy(&head, bytes_.data(), sizeof(head));
        return head;
    }
    [[nodiscard]] Tail tail() const noexcept {
        Tail tail{};
        std::memcpy(&tail, bytes_.data() + sizeof(Head), sizeof(tail));
        return tail;
    }

private:
    alignas(8) std::array<std::byte, sizeof(Head) + sizeof(Tail)> bytes_{};
};

/** Of VFIO_DEVICE_FEATURE. */
template <class Data>
Arguments<vfio_device_feature, Data> feature(std::uint32_t flags, const Data& data) noexcept {
    vfio_device_feature head{};
    head.argsz = sizeof(head) + sizeof(data);
    head.flags = flags;
    return {head, data};
}

} // namespace pvdirty::vfio

#endif // PVDIRTY_TRACKING_VFIO_ARGUMENTS_HPP
