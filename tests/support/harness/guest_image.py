# SPDX-License-Identifier: MIT
"""The guest's initramfs, one for each kernel, and the content of its disk."""

import array
import hashlib
import lzma
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from . import devices
from .base import BUILD, SUPPORT, TOP, HarnessError, Phase, command
from .devices import DRIVERS
from .linux import CHECKED, OURS, VFIO

# Lists of modules for tests that load them themselves.
EXTRA = {
    "balloon": ("virtio_pci", "virtio_balloon"),
    "button": ("evdev", "button"),  # to press the power button
    "uio": ("uio_pci_generic",),
    "vfio": ("vfio_pci",),
}
GUEST = SUPPORT / "guest"
BENCH = TOP / "tests" / "bench" / "guest"
# Modules for tests, and where their sources are.
TEST_MODULES = {
    "edu_dma": GUEST / "kmod",
    "dma_cost": BENCH,
    "dma_log": TOP / "tests" / "vfio" / "kmod",
    "planted": GUEST / "planted",
}
OWN_KERNELS = ("dma_cost",)  # also for kernels of our own
CHECKED_KERNELS = ("planted",)  # only for those with checkers
OUTER_KERNELS = ("6.1", *VFIO)  # in which VFIO devices can log; they get dma_log, not in a guest
BUSYBOX = Path("/usr/bin/busybox")
DISK_BYTES = 64 << 20


def initrd(version: str) -> Path:
    """Where build() puts the initramfs of a kernel."""
    return BUILD / "guest" / version / "initramfs.cpio"


def test_modules(version: str) -> tuple[str, ...]:
    """Names of the modules for tests in a kernel's initramfs."""
    if version in VFIO:
        return ()
    if version in CHECKED:
        return CHECKED_KERNELS
    return OWN_KERNELS if version in OURS else ("edu_dma", "dma_cost")


def outer_modules(version: str) -> tuple[str, ...]:
    """Names of the modules for tests that tests/nested's outer VM finds outside."""
    return ("dma_log",) if version in OUTER_KERNELS else ()


def test_module(version: str, name: str) -> Path:
    """Where provision.py builds a module for tests."""
    return BUILD / "guest" / version / name / f"{name}.ko"


def disk_content() -> Path:
    """Where build() puts the disk's initial content, to be copied for a run."""
    return BUILD / "guest" / "disk.img"


def module_order(modules: Path, names: Iterable[str]) -> list[Path]:
    """Modules below lib/modules/<release> by their names, dependencies first."""
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        depends[name] = rest.split()
    builtin = {
        Path(p).stem.replace("-", "_") for p in (modules / "modules.builtin").read_text().split()
    }
    paths = {Path(p).name.split(".")[0].replace("-", "_"): p for p in depends}
    order: list[str] = []

    def add(path: str) -> None:
        for dependency in reversed(depends[path]):
            if dependency not in order:
                add(dependency)
        if path not in order:
            order.append(path)

    for name in names:
        if name in paths:
            add(paths[name])
        elif name not in builtin:
            raise HarnessError(f"the kernel {modules.name} has no module {name}")
    return [modules / p for p in order]


def _program(name: str, sources: list[Path]) -> Path:
    """Compiles a program for the guest, statically; returns it."""
    out = BUILD / "guest" / name
    newest = max(p.stat().st_mtime for p in sources[0].parent.glob("*.[ch]"))
    if not out.exists() or out.stat().st_mtime < newest:
        out.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror"]
        argv = ["gcc", *flags, "-o", out, *sources]
        command(f"building the guest's {name}", argv, f"{name}.log")
    return out


def _programs() -> list[Path]:
    """The workload, and what some tests need beside it."""
    single = [GUEST / "kexec.c", GUEST / "edu.c"]
    load = sorted(p for p in GUEST.glob("*.c") if p not in single)
    return [_program("load", load), *(_program(p.stem, [p]) for p in (*single, BENCH / "io.c"))]


def _disk() -> None:
    """The disk: every 64-bit word holds its own byte offset (disk.c, generation 0)."""
    path = disk_content()
    if path.exists() and path.stat().st_size == DISK_BYTES:
        return
    partial = path.with_suffix(".new")
    with partial.open("wb") as out:
        for start in range(0, DISK_BYTES, 1 << 20):
            out.write(array.array("Q", range(start, start + (1 << 20), 8)).tobytes())
    partial.rename(path)


def copy_module(source: Path, target: Path) -> None:
    if source.suffix == ".xz":
        target.write_bytes(lzma.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, target)


def build(version: str) -> None:
    """Makes the initramfs for a kernel from what provision.py has built."""
    out = initrd(version)
    programs = _programs()
    _disk()
    kernel = BUILD / "kernels" / version
    release = (kernel / ".stamp").read_text()
    modules = kernel / "lib" / "modules" / release
    ours = [test_module(version, name) for name in test_modules(version)]
    if version not in OURS:
        ours.append(BUILD / "guest" / version / "pvdirty.ko")
    ingredients = [BUSYBOX, *programs, *ours, GUEST / "init", Path(__file__)]
    ingredients += [kernel / ".stamp", Path(devices.__file__)]
    digest = hashlib.sha256()
    for path in ingredients:
        digest.update(path.read_bytes())
    stamp = out.with_suffix(".stamp")
    if out.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    with Phase(f"building the initramfs for {version}"):
        log = f"initramfs-{version}.log"
        command("depmod", ["/sbin/depmod", "-b", kernel, release], log)
        root = BUILD / "guest" / version / "root"
        shutil.rmtree(root, ignore_errors=True)
        (root / "bin").mkdir(parents=True)
        (root / "modules").mkdir()
        (root / "dev").mkdir()
        shutil.copy(BUSYBOX, root / "bin" / "busybox")
        (root / "bin" / "sh").symlink_to("busybox")
        for program in programs:
            shutil.copy(program, root / "bin")
        shutil.copy(GUEST / "init", root / "init")
        os.chmod(root / "init", 0o755)
        lists = {name: driver.modules for name, driver in DRIVERS.items()}
        # A kernel of ours has no drivers that hand devices to user space.
        absent = ("uio", "vfio") if version in OURS else ()
        lists |= {name: modules for name, modules in EXTRA.items() if name not in absent}
        for name, wanted in lists.items():
            names = []
            for module in module_order(modules, wanted):
                names.append(re.sub(r"\.xz$", "", module.name))
                copy_module(module, root / "modules" / names[-1])
            (root / "modules" / f"{name}-order").write_text("".join(n + "\n" for n in names))
        for module in ours:
            copy_module(module, root / "modules" / module.name)
        archive = f"find . | sort | cpio -o -H newc -R 0:0 > {out}.new"
        command("cpio", ["/bin/sh", "-ec", archive], log, cwd=root, append=True)
        Path(f"{out}.new").rename(out)
        shutil.rmtree(root)
        stamp.write_text(digest.hexdigest())


def add_kernel(version: str, out: Path) -> Path:
    """Writes an initramfs that also holds /kexec/vmlinuz and /kexec/initrd.

    So the guest can start a second kernel, with the same initramfs but for these two.
    """
    root = out.with_suffix(".root")
    (root / "kexec").mkdir(parents=True)
    (root / "kexec" / "vmlinuz").symlink_to(BUILD / "kernels" / version / "vmlinuz")
    (root / "kexec" / "initrd").symlink_to(initrd(version))
    shutil.copyfile(initrd(version), out)
    archive = f"find . | sort | cpio -L -o -H newc -R 0:0 >> {out}"
    command("cpio", ["/bin/sh", "-ec", archive], "initramfs-kexec.log", cwd=root)
    shutil.rmtree(root)
    return out
