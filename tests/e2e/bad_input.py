# SPDX-License-Identifier: MIT
"""Each kind of bad input: one line that says what to do, an exit code, nothing left."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from support import BUILD, demo, expect, expect_nothing_left, expect_refusal

from harness import guest_image, run
from harness.base import EXIT_REFUSED, HarnessError
from harness.frames import FrameGenerator
from harness.progress import Progress
from harness.rundir import RunDir
from harness.vm import PLUGIN, Vm, VmConfig

OTHER_VERSION = BUILD / "host" / "libpvdirty-qemu-other-version.so"


def options() -> None:
    """Names and sizes that the command line refuses."""
    expect_refusal(demo("--driver", "rtl8139"), 2, "rtl8139", "e1000e")
    expect_refusal(demo("--kernel", "5.10"), 2, "5.10", "6.12")
    expect_refusal(demo("--mode", "log,fast"), 2, "fast", "touch")
    expect_refusal(demo("--memory", "6"), 2, "6G")
    expect_refusal(demo("--memory", "16M"), 2, "256M")
    expect_refusal(demo("--repeat", "0"), 2, "positive")
    expect_refusal(demo("--accel", "hvf"), 2, "kvm")
    expect_refusal(demo("--driver", "nvme"), 2, "nvme", "virtio-blk")
    expect_refusal(demo("--real", "--driver", "ahci"), 2, "ahci", "e1000e")
    expect_refusal(demo("--real", "--accel", "kvm"), 2, "--real", "--accel")
    expect_refusal(demo("--frobnicate"), 2, "--help")
    expect_refusal(demo("--qemu", "/nonexistent/qemu"), 1, "/nonexistent/qemu", "install")
    expect_nothing_left(os.getpid())


def _refused_at_start(argv: list[str], directory: RunDir, *words: str) -> None:
    """QEMU must end at once with one line that holds these words."""
    try:
        with Vm("source", argv, directory.path):
            pass
    except HarnessError as error:
        message = str(error)
        print(message, flush=True)
        expect("\n" not in message, "more than one line")
        for word in words:
            expect(word in message, f"no '{word}' in: {message}")
        expect(error.code == 1, f"exit code {error.code}")
        return
    raise AssertionError("QEMU starts")


def qemu() -> None:
    """A plug-in for another QEMU; the plug-in loaded twice."""
    with RunDir("bad-qemu", keep=False) as directory:
        disk = guest_image.disk_content()
        config = VmConfig(plugins=(OTHER_VERSION,))
        argv = config.command_line("source", disk, incoming=False)
        _refused_at_start(argv, directory, "pvdirty", "7.2.0", "refuses QEMU 7.2", "build it")
        # QEMU itself takes the same path twice for one; a copy is another file.
        copy = directory.path / "copy.so"
        shutil.copy(PLUGIN, copy)
        config = VmConfig(plugins=(PLUGIN, copy))
        argv = config.command_line("source", disk, incoming=False)
        _refused_at_start(argv, directory, "pvdirty", "loaded already", "once")
    expect_nothing_left(os.getpid())


def port() -> None:
    """The test port without a shared memory backend."""
    with RunDir("bad-port", keep=False) as directory:
        config = run.config_for("log", VmConfig())
        argv = config.command_line("source", guest_image.disk_content(), incoming=False)
        backend = argv.index("-object")
        del argv[backend : backend + 2]
        argv = [a.removesuffix(",memory-backend=m0") for a in argv]
        _refused_at_start(argv, directory, "pvdirty", "x-test-untracked", "memory-backend-memfd")
    expect_nothing_left(os.getpid())


def kvm() -> None:
    """--accel kvm works, or says that it does not work here and what to do."""
    ended = demo("--accel", "kvm", "--mode", "log")
    if ended.code == 0:
        expect("log " in ended.out, "no row in the table")
    else:
        expect_refusal(ended, 1, "KVM", "--accel tcg")


@dataclass
class _Source:
    """A booted source and where to put its destination."""

    vm: Vm
    config: VmConfig
    directory: RunDir
    progress: Progress

    def destination(self, config: VmConfig, stock: bool = False) -> Vm:
        """A destination with another configuration."""
        path = self.directory.path
        argv = config.command_line("destination", path / "disk.img", incoming=True)
        if stock:
            argv = argv[:1] + argv[3:]  # without "-plugin file=..."
            argv = [
                a.removesuffix(run.UNTRACKED).replace("pvdirty-root-port", "pcie-root-port")
                for a in argv
            ]
        return Vm("destination", argv, path)

    def migration_error(self) -> HarnessError:
        """Migrates, which must fail."""
        try:
            run.migrate(self.vm, self.config.memory_bytes, self.progress)
        except HarnessError as error:
            print(error, flush=True)
            return error
        raise AssertionError("the migration succeeded")

    def expect_unharmed(self) -> None:
        """The guest goes on at the source, with its data in order."""
        before = self.vm.load()
        time.sleep(4)
        after = self.vm.load()
        expect(self.vm.call("query-status")["status"] == "running", "the source does not run")
        expect(after.io_bytes > before.io_bytes, "no I/O at the source any more")
        expect(after.errors == 0, f"{after.errors} errors in the guest's data")


@contextlib.contextmanager
def _source(config: VmConfig) -> Iterator[_Source]:
    progress = Progress("source")
    generator = FrameGenerator(run.NET_BYTES_PER_SECOND)
    with RunDir("bad-input", keep=False) as directory, contextlib.ExitStack() as stack:
        stack.callback(generator.stop)
        disk = directory.path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        vm = stack.enter_context(run.start_source(config, disk, directory.path, progress))
        run.boot(vm, config, generator, progress)
        yield _Source(vm, config, directory, progress)
    expect_nothing_left(os.getpid())


def boots() -> None:
    """A kernel that fails before it knows of pvdirty is started once more; any other guest not."""
    for options, starts, words in (
        ("rdinit=/none root=none", 2, "Kernel panic"),
        ("demo.load=nonsense", 1, "PVDIRTY fatal"),
    ):
        config = VmConfig(drivers=(), kernel_options=options)
        progress = Progress("boots")
        with RunDir("boots", keep=False) as directory:
            disk = directory.path / "disk.img"
            with run.start_source(config, disk, directory.path, progress) as vm:
                try:
                    run.boot(vm, config, FrameGenerator(1), progress)
                except HarnessError as error:
                    print(error, flush=True)
                    expect(words in str(error), f"{options}: {error}")
                else:
                    raise AssertionError(f"it boots with {options}")
                expect(vm.starts == starts, f"{options}: started {vm.starts} times")
    expect_nothing_left(os.getpid())


def _expect_destination_says(destination: Vm, *words: str) -> None:
    deadline = time.monotonic() + 10
    while destination.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    expect(not destination.alive(), "the destination still waits")
    message = destination.complaint()
    print(message, flush=True)
    for word in words:
        expect(word in message, f"no '{word}' in: {message}")


def policy() -> None:
    """No module in the guest: the default policy refuses, and names the device."""
    config = replace(run.config_for("log", VmConfig()), load_module=False)
    with _source(config) as source:
        error = source.migration_error()
        expect(error.code == EXIT_REFUSED, f"exit code {error.code}")
        expect("pvdirty" in str(error), f"whose refusal is it: {error}")
        expect("nic0 (below rp0)" in str(error), f"which device: {error}")
        source.expect_unharmed()


def destination_without_plugin() -> None:
    """A stock destination refuses the stream, and the source goes on."""
    config = run.config_for("log", VmConfig())
    with _source(config) as source, source.destination(config, stock=True) as destination:
        error = source.migration_error()
        expect(error.code == 1, f"exit code {error.code}")
        _expect_destination_says(destination, "Unknown savevm section", "pvdirty")
        source.expect_unharmed()


def destination_with_fewer_features() -> None:
    """The destination's port offers less than the guest uses."""
    config = run.config_for("log", VmConfig())
    less = replace(config, port_options=config.port_options + ",bitmap=off,inflight=off")
    with _source(config) as source, source.destination(less) as destination:
        error = source.migration_error()
        expect(error.code == 1, f"exit code {error.code}")
        _expect_destination_says(destination, "pvdirty", "features", "bitmap and inflight")
        source.expect_unharmed()
