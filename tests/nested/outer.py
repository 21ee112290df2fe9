# SPDX-License-Identifier: MIT
"""The outer VM: under TCG it has AMD's SVM and an IOMMU, so real KVM and real VFIO run inside.

It sees the host's files read-only, runs one script and hands back its output and exit code.
"""

import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "support"))

from harness import guest_image, rundir  # noqa: E402
from harness.base import (  # noqa: E402
    BUILD,
    EXIT_FAILED,
    EXIT_TIMEOUT,
    HarnessError,
    command,
    die_with_parent,
    kill_group,
    last_lines,
    say,
)
from harness.frames import FrameGenerator  # noqa: E402
from harness.linux import VFIO  # noqa: E402

FILES = ("virtio_pci", "9pnet_virtio", "9p")
MODULES = ("kvm_amd", "vfio_iommu_type1", "vfio_pci")
# What must be there once they are loaded.
NEEDS = ("/dev/kvm", "/sys/kernel/iommu_groups/0")
VFIO_NEEDS = ("/dev/iommu", "/sys/class/mdev_bus/mtty")
INIT = Path(__file__).with_name("init")
# What a process inside may write to; gone with the VM.
WRITABLE = (Path("/tmp"), Path("/run"), rundir.RUNS)
RESULTS = "OUTER_RESULTS"  # names the directory inside whose files come back
COUNTS = "OUTER_INSTRUCTIONS"  # names the file of its counts, see instructions.c
COUNTER = BUILD / "host" / "tests" / "nested" / "libnested-instructions.so"
BEGUN = "begun"  # the file that its process 1 makes when it begins the command
BOOT_SECONDS = 150.0  # 12 to 36 were seen
# An emulated guest in an emulated machine takes no more.
NET_BYTES_PER_SECOND = 1 << 20


class NotBegun(HarnessError):
    """The outer VM did not come as far as its command."""


@dataclass(frozen=True)
class Outer:
    """An outer VM's size and the PCI devices that can be assigned inside."""

    kernel: str = "6.1"
    memory_mib: int = 2560
    cpus: int = 1  # with more, QEMU loses writes to code: README.md
    devices: tuple[str, ...] = ()  # QEMU's arguments, the PCI address among them
    nets: tuple[str, ...] = ()  # sockets of those that frames are sent to
    timeout: float = 600.0
    count: bool = False  # what it executes

    def command_line(self, initrd: Path, out: Path) -> list[str]:
        """QEMU's arguments. The first serial line is the console, the second the script's."""
        # With pass-through mode outside of VFIO, the outer kernel's own devices are as fast as ever.
        # On a busy machine the kernel's test of its timer fails, and it panics.
        append = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check "
        append += "intel_iommu=on iommu=pt oops=panic "
        append += "highres=off nohz=off "  # so the timer that QEMU may lose comes again: README.md
        append += f"outer.needs={':'.join(VFIO_NEEDS if self.kernel in VFIO else NEEDS)} "
        append += f"outer.writable={':'.join(map(str, WRITABLE))} outer.out={out}"
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "EPYC,+svm,+npt"]
        argv += ["-machine", "q35,kernel-irqchip=split", "-smp", str(self.cpus)]
        argv += ["-m", f"{self.memory_mib}M"]
        argv += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(BUILD / "kernels" / self.kernel / "vmlinuz")]
        argv += ["-initrd", str(initrd), "-append", append]
        argv += ["-serial", "file:console.log", "-serial", "stdio"]
        share = "security_model=none,multidevs=remap"
        argv += ["-virtfs", f"local,path=/,mount_tag=host,readonly=on,{share}"]
        argv += ["-virtfs", f"local,path={out},mount_tag=out,{share}"]
        if self.count:
            argv += ["-plugin", f"file={COUNTER},out={_counts(out)}"]
        return [*argv, *self.devices]


def _counts(out: Path) -> Path:
    return out / "instructions"


def initrd(kernel: str) -> Path:
    """Builds the outer VM's initramfs if it is not current, and returns it."""
    out = BUILD / "guest" / kernel / "outer.cpio"
    unpacked = BUILD / "kernels" / kernel
    release = (unpacked / ".stamp").read_text()
    ingredients = [guest_image.BUSYBOX, INIT, Path(__file__), unpacked / ".stamp"]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in ingredients)).hexdigest()
    stamp = out.with_suffix(".stamp")
    if out.exists() and stamp.exists() and stamp.read_text() == digest:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    log = f"outer-{kernel}.log"
    command("depmod", ["/sbin/depmod", "-b", unpacked, release], log)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        (root / "modules").mkdir()
        (root / "dev").mkdir()
        shutil.copy(guest_image.BUSYBOX, root / "bin" / "busybox")
        (root / "bin" / "sh").symlink_to("busybox")
        shutil.copy(INIT, root / "init")
        (root / "init").chmod(0o755)
        names = []
        wanted = (() if kernel in VFIO else MODULES) + FILES
        for module in guest_image.module_order(unpacked / "lib/modules" / release, wanted):
            names.append(module.name.removesuffix(".xz"))
            guest_image.copy_module(module, root / "modules" / names[-1])
        (root / "modules" / "order").write_text("".join(n + "\n" for n in names))
        archive = f"find . | sort | cpio -o -H newc -R 0:0 > {out}.new"
        command("cpio", ["/bin/sh", "-ec", archive], log, cwd=root, append=True)
    Path(f"{out}.new").rename(out)
    stamp.write_text(digest)
    return out


def _script(argv: Sequence[str], out: Path, results: Path, terminal: bool) -> str:
    """What the outer VM's shell is to do. Its output always goes to a terminal there."""
    variables = {RESULTS: results, COUNTS: _counts(out), "TERM": "linux" if terminal else "dumb"}
    exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())
    line = " ".join(shlex.quote(a) for a in argv)
    return f"export {exports}\ncd {shlex.quote(os.getcwd())} && exec {line}\n"


@contextlib.contextmanager
def _traffic(sockets: Sequence[Path], process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Sends frames to each of them."""
    with contextlib.ExitStack() as stack:
        for path in sockets:
            while not path.exists() and process.poll() is None:
                time.sleep(0.02)
            if path.exists():
                generator = FrameGenerator(NET_BYTES_PER_SECOND)
                stack.callback(generator.stop)
                generator.start(path)
        yield


def _wait(process: subprocess.Popen[bytes], out: Path, timeout: float) -> bool:
    """Until the VM ends, or has not begun its script when it should; True if it ran too long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(min(timeout, BOOT_SECONDS))
    if process.poll() is None and (out / BEGUN).exists() and timeout > BOOT_SECONDS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout - BOOT_SECONDS)
    return process.poll() is None


def run(outer: Outer, argv: Sequence[str], results: Path | None = None) -> int:
    """Runs a command inside; returns its exit code.

    Its output goes to stdout as it comes. Files that it leaves in the directory that it finds in
    RESULTS are copied to `results`. Without an exit code (the VM crashed, or took too long) it is a
    HarnessError. A VM whose kernel does not come as far as the command gets one more try: nothing
    of ours runs until then, and QEMU 7.2 may lose what a vCPU writes to the code of another.
    """
    try:
        return _run(outer, argv, results)
    except NotBegun as error:
        say(f"{error}: it did nothing of ours yet, so once more")
        return _run(outer, argv, results)


def _run(outer: Outer, argv: Sequence[str], results: Path | None) -> int:
    image = initrd(outer.kernel)
    with rundir.RunDir("outer", keep=False) as directory:
        # Mount points must exist where the host's files are read-only.
        out = directory.path / "out"
        inside = out / "results"
        inside.mkdir(parents=True)
        (out / "command").write_text(_script(argv, out, inside, sys.stdout.isatty()))
        with (directory.path / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                outer.command_line(image, out),
                cwd=directory.path,
                stdin=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=die_with_parent(),
            )
        try:
            with _traffic([directory.path / n for n in outer.nets], process):
                timed_out = _wait(process, out, outer.timeout)
        finally:
            kill_group(process)
            if results:
                shutil.copytree(inside, results, dirs_exist_ok=True)
        status = out / "status"
        if status.exists() and status.read_text().strip():
            return int(status.read_text())
        begun = (out / BEGUN).exists()
        say(last_lines(directory.path / "console.log", 60))
        last = [last_lines(directory.path / f"{n}.log") for n in ("console", "qemu")]
        said = [x for text in last for x in text.splitlines() if " warning: " not in x][-3:]
        directory.keep = True
    seconds = outer.timeout if begun else min(outer.timeout, BOOT_SECONDS)
    what = f"took more than {seconds:.0f} s" if timed_out else "ended without an exit code"
    raise (HarnessError if begun or outer.timeout < BOOT_SECONDS else NotBegun)(
        f"the outer VM {what}: {'; '.join(said)} (logs: {directory.kept})",
        EXIT_TIMEOUT if timed_out else EXIT_FAILED,
    )
