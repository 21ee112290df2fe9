// SPDX-License-Identifier: MIT
/**
 * The state of a VFIO device itself, saved and loaded in a migration as a VMM drives it: one
 * interface and one stream format (host/device_state/FORMAT.md) over two protocols of the kernel,
 * the migration region of Linux 5.8 to 5.17 ("v1") and the migration states since 5.18 ("v2").
 */
#ifndef PVDIRTY_DEVICE_STATE_HPP
#define PVDIRTY_DEVICE_STATE_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <tl/expected.hpp>

namespace pvdirty {

/**
 * Everything that is done to a device, and to the data fds that it gives: a value, so that tests
 * and VMMs can put themselves in between. Each call behaves like the system call of its name, but
 * returns -errno when it fails. They are called on the caller's thread and must not call back.
 */
struct DeviceCalls {
    std::function<int(int fd, unsigned long request, void* argument)> ioctl;
    /** @param offset bytes from the start of `fd` */
    std::function<std::int64_t(int fd, void* out, std::size_t len, std::uint64_t offset)> pread;
    std::function<std::int64_t(int fd, const void* in, std::size_t len, std::uint64_t offset)>
        pwrite;
    std::function<std::int64_t(int fd, void* out, std::size_t len)> read;
    std::function<std::int64_t(int fd, const void* in, std::size_t len)> write;
    /** Shared, readable and writable. @returns nullptr when refused */
    std::function<void*(int fd, std::size_t len, std::uint64_t offset)> mmap;
    std::function<void(void* address, std::size_t len)> munmap;
    std::function<void(int fd)> close;
};

/** The system's own calls. */
DeviceCalls system_calls();

/** Takes all of these bytes. @returns false: the stream has failed */
using ByteSink = std::function<bool(std::span<const std::uint8_t>)>;
/** Fills all of these bytes. @returns false: the stream has ended before, or failed */
using ByteSource = std::function<bool(std::span<std::uint8_t>)>;

/** The kernel's protocol for a device; the value is that in the stream. */
enum class DeviceProtocol : std::uint32_t {
    region = 1, /**< v1: a migration region, driven by its registers */
    states = 2, /**< v2: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE and a data fd */
};

/** What a stream may bring at most, before it is refused. */
struct DeviceStateLimits {
    /** Bytes of device data, in all. */
    std::uint64_t data_bytes = std::uint64_t{1} << 40;
};

/** The VMM's own state of a device in a stream (its config space): at most so many bytes. */
inline constexpr std::size_t max_device_config_bytes = std::size_t{64} << 10;

/** Bytes that are still to be saved: the device's own estimates. */
struct DevicePending {
    std::uint64_t pre_copy = 0; /**< can be had while the device runs */
    /** With the device stopped; nothing: the device cannot say. */
    std::optional<std::uint64_t> stop_copy;

    friend bool operator==(const DevicePending&, const DevicePending&) = default;
};

/** What a device may do. */
enum class DeviceActivity : std::uint8_t {
    running,
    /**
     * It runs, and takes DMA of other devices, but begins none to them: VFIO's P2P quiescent state.
     * A device without it runs.
     */
    quiesced,
    stopped, /**< no DMA, no interrupts */
};

class DeviceStateProtocol; // host/device_state/protocol.hpp
class DeviceStreamReader;  // host/device_state/record.hpp
class DeviceStreamWriter;

/**
 * One VFIO device in a migration.
 *
 * Source: save_setup(), then save_pending() and save_iterate() while the VM runs, stop() with the
 * VM, then the last read of the dirty bitmap, save_complete(), cleanup(). To give up, at any point:
 * cleanup(), and run() where the VM goes on. Destination: load() until it says that the state is
 * whole, cleanup(), run() with the VM. A VM that is paused all along is saved by the same calls,
 * and its device never runs.
 *
 * Several devices of a VM may do DMA to each other, and one that is stopped cannot take any. So
 * quiesce() must have succeeded on all of them before the first stop(), and run_quiesced() before
 * the first run(). When stop() fails on one, the others are to be stopped all the same.
 *
 * Errors: one line that says what failed and why, and what became of the device if that is not what
 * the table in FORMAT.md says: a failed call leaves it running if it ran, except in stop(),
 * save_complete(), load(), run_quiesced() and run(), which leave it stopped. What the kernel lets
 * be recovered by nothing else is reset (device_was_reset()); when that fails too, every later call
 * is refused but cleanup(), which tries once more.
 *
 * Threads: calls must be serialised by the caller, except lock(), try_lock() and unlock().
 */
class DeviceState {
public:
    /**
     * @param device_fd stays the caller's, and must stay open
     * @returns why the device cannot be migrated: it has neither protocol, or says what the kernel
     *          does not allow
     */
    static tl::expected<std::unique_ptr<DeviceState>, std::string>
    open(int device_fd, const DeviceCalls& calls, DeviceStateLimits limits = {});

    DeviceState(const DeviceState&) = delete;
    DeviceState& operator=(const DeviceState&) = delete;
    /** As cleanup(); errors are lost. */
    ~DeviceState();

    [[nodiscard]] DeviceProtocol protocol() const noexcept;

    /** The migration begins: a running device gathers its state from now on, and runs on. */
    tl::expected<void, std::string> save_setup(const ByteSink& out);
    /** What is still to come. Sends nothing, and changes nothing. */
    tl::expected<DevicePending, std::string> save_pending();
    /**
     * Sends some of what there is: one transaction of a migration region, or up to a MiB.
     * @returns bytes of device data; 0: nothing for now
     */
    tl::expected<std::uint64_t, std::string> save_iterate(const ByteSink& out);
    /**
     * The device is quiesced if it runs and can be; a stopped one stays so. To be called on all
     * devices of a VM with its CPUs stopped, before the first stop(). Not needed for one alone.
     */
    tl::expected<void, std::string> quiesce();
    /**
     * The device stops: no DMA, no interrupts. To be called with the VM's CPUs stopped and *before*
     * the last read of the dirty bitmap. Also without a migration, when the VM is paused.
     */
    tl::expected<void, std::string> stop();
    /**
     * Sends the rest, and the end. Stops the device first if stop() did not.
     * @param config the VMM's own part, at most max_device_config_bytes; may be empty
     */
    tl::expected<void, std::string> save_complete(const ByteSink& out,
                                                  std::span<const std::uint8_t> config);

    /**
     * Takes what one call of a save_ function sent. The bytes are not trusted: whatever is wrong
     * with them is an error, after which the device is reset and stopped.
     * @returns true: the state is whole, and so is config()
     */
    tl::expected<bool, std::string> load(const ByteSource& in);
    /** What the source's VMM gave to save_complete(). */
    [[nodiscard]] const std::vector<std::uint8_t>& config() const noexcept { return config_; }

    /**
     * Ends what was begun. A save that is not complete: the device runs, or is quiesced or stopped
     * as these calls have left it. A load that is not whole: the device is reset and stopped.
     * Harmless at any time.
     */
    tl::expected<void, std::string> cleanup();

    /**
     * The first half of run(), for all devices of a VM before the first run(): the device runs,
     * quiesced if it can be. Refused while it is being saved.
     */
    tl::expected<void, std::string> run_quiesced();
    /** The VM goes on here: the device runs. Refused while one that does not is being saved. */
    tl::expected<void, std::string> run();

    /** A reset has cost the device its state since open(). */
    [[nodiscard]] bool device_was_reset() const noexcept;

    /**
     * From lock() to unlock(), no call on another thread uses the device. A dirty bitmap that is
     * read through the same migration region needs that: both use its registers. The sink and the
     * source are called under this lock.
     */
    void lock() { mutex_.lock(); }
    bool try_lock() { return mutex_.try_lock(); }
    void unlock() { mutex_.unlock(); }

private:
    enum class Phase {
        idle,
        saving,
        saved,
        save_failed,
        loading,
        loaded,
        load_failed,
    };

    DeviceState(std::unique_ptr<DeviceStateProtocol> protocol, DeviceStateLimits limits);

    tl::unexpected<std::string> fail(std::string why, DeviceActivity to, bool reset);
    tl::unexpected<std::string> fail_save(std::string why);
    tl::unexpected<std::string> fail_stopped(Phase next, std::string why, bool reset);
    tl::expected<void, std::string> settle(DeviceActivity to, bool reset);
    [[nodiscard]] tl::expected<void, std::string> expect(Phase phase, const char* call) const;
    tl::expected<void, std::string> look();
    tl::expected<void, std::string> stop_device();
    tl::expected<void, std::string> start_device(DeviceActivity to, const char* call);
    tl::expected<bool, std::string> load_section(const ByteSource& in);

    std::mutex mutex_;
    std::unique_ptr<DeviceStateProtocol> protocol_;
    DeviceStateLimits limits_;
    Phase phase_ = Phase::idle;
    DeviceActivity activity_ = DeviceActivity::running; // in a save: as calls have left it
    bool broken_ = false;                               // even a reset failed
    std::unique_ptr<DeviceStreamWriter> writer_;
    std::unique_ptr<DeviceStreamReader> reader_;
    std::vector<std::uint8_t> config_;
};

} // namespace pvdirty

#endif // PVDIRTY_DEVICE_STATE_HPP
