# SPDX-License-Identifier: MIT
"""Debian's Linux sources, and small kernels of our own: with pvdirty built in, or for VFIO.

build/linux/<version>/ has source (Debian's, never written to), tree (the same by
hard links, and pvdirty in it) and where make writes: out, without, vfio, and
the names of CHECKERS.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from .base import BUILD, SUPPORT, TOP, HarnessError, Phase, command
from .steps import fresh, locked, stamp, unpack

LINUX = BUILD / "linux"
CONFIG = SUPPORT / "kernel.config"
VFIO_CONFIG = SUPPORT / "vfio.config"
# Names of our kernels, as of Debian's in provision.KERNELS.
BUILT_IN = {"built-in-6.1": "6.1", "built-in-6.12": "6.12"}
# The same with CONFIG_PVDIRTY off, to compare with.
WITHOUT = {"without-6.1": "6.1", "without-6.12": "6.12"}
# Checkers that the kernel has, and what turns each of them on beside CONFIG_PVDIRTY.
CHECKERS = {
    "kasan": {"KASAN": "y", "KASAN_INLINE": "y", "KASAN_VMALLOC": "y", "SLUB_TINY": "n"},
    "kcsan": {
        "DEBUG_KERNEL": "y",
        "KCSAN": "y",
        # Stricter than it is by default: a plain write may be torn, and an interrupt may race.
        "KCSAN_ASSUME_PLAIN_WRITES_ATOMIC": "n",
        "KCSAN_INTERRUPT_WATCHER": "y",
    },
    "lockdep": {
        "DEBUG_KERNEL": "y",
        "PROVE_LOCKING": "y",  # PROVE_RCU with it
        "DEBUG_ATOMIC_SLEEP": "y",
        "DMA_API_DEBUG": "y",
        "DMA_API_DEBUG_SG": "y",
    },
}
CHECKED = {f"{checker}-6.12": "6.12" for checker in CHECKERS}
OURS = BUILT_IN | WITHOUT | CHECKED
# Debian's source alone, with the kernel's own test drivers for iommufd and VFIO.
VFIO = {"vfio-6.12": "6.12"}
VERSIONS = tuple(BUILT_IN.values())
OFF = {"PVDIRTY": "n", "PVDIRTY_STATS": "n", "PVDIRTY_KUNIT_TEST": "n"}


def source(version: str) -> Path:
    """The unpacked source of Debian's kernel of this series; nobody is to write there."""
    with locked():
        return _source(version)


def _source(version: str) -> Path:
    directory = LINUX / version / "source"
    package = f"linux-source-{version}"
    if stamp(directory) == package:
        return directory / package
    with Phase(f"getting the source of Linux {version}"):
        log = f"{package}.log"
        unpack([package], fresh(directory), log)
        archive = directory / "usr" / "src" / f"{package}.tar.xz"
        command(f"unpacking {archive.name}", ["tar", "-xJf", archive, "-C", directory], log)
        shutil.rmtree(directory / "usr")
        (directory / ".stamp").write_text(package)
    return directory / package


def make(tree: Path, out: Path, *targets: str) -> list[str | Path]:
    """The command that makes something of a tree, elsewhere.

    ccache finds what was compiled from the same files in other directories.
    """
    base = os.environ.get("CCACHE_BASEDIR", str(BUILD))
    return [
        *("env", f"CCACHE_BASEDIR={base}", "CCACHE_NOHASHDIR=1"),
        *("make", "-s", "-C", tree, f"O={out}", f"-j{os.cpu_count() or 1}"),
        *("CC=ccache gcc-12", "HOSTCC=ccache gcc-12"),
        *targets,
    ]


def configure(tree: Path, out: Path, log: str, base: Path = CONFIG, /, **options: str) -> None:
    """Writes out/.config: the base, but for these options (without CONFIG_)."""
    wanted = [
        line
        for line in base.read_text().splitlines()
        if re.match(r"(?:# )?CONFIG_", line) and line.split("_", 1)[1].split("=")[0] not in options
    ]
    wanted += [
        f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"
        for name, value in options.items()
    ]
    config = out / ".config"
    out.mkdir(parents=True, exist_ok=True)
    command("configuring Linux", make(tree, out, "tinyconfig"), log)
    config.write_text(config.read_text() + "".join(f"{line}\n" for line in wanted))
    command("configuring Linux", make(tree, out, "olddefconfig"), log, append=True)
    lines = set(config.read_text().splitlines())
    # A symbol that is off may also be out of reach.
    missing = [line for line in wanted if line not in lines and not line.startswith("#")]
    if missing:
        raise HarnessError(f"this Linux does not take {', '.join(missing)}")


def apply(tree: Path, log: str) -> None:
    """Puts pvdirty into a tree, or brings it up to date."""
    command("guest/apply", [TOP / "guest" / "apply", tree], log)


def tree_of(version: str) -> Path:
    """build/linux/<version>/tree, with pvdirty as it is now. The caller holds the lock."""
    original = _source(version)
    tree = LINUX / version / "tree"
    log = f"linux-tree-{version}.log"
    if not tree.exists():
        copy = tree.with_suffix(".new")
        shutil.rmtree(copy, ignore_errors=True)
        command("copying the source of Linux", ["cp", "-al", original, copy], log)
        copy.rename(tree)
    apply(tree, log)
    return tree


def _ingredients(name: str) -> str:
    digest = hashlib.sha256()
    paths = [VFIO_CONFIG]
    if name in OURS:
        ours = [p for d in ("guest", "shared") for p in (TOP / d).rglob("*") if p.is_file()]
        paths = [*sorted(ours), TOP / "Kconfig", CONFIG]
    for path in [*paths, Path(__file__)]:
        digest.update(f"{path.relative_to(TOP)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def out_of(name: str) -> Path:
    """Where a kernel of ours is built; modules for it are built against that."""
    if name in VFIO:
        return LINUX / VFIO[name] / "vfio"
    return LINUX / OURS[name] / ("out" if name in BUILT_IN else name.partition("-")[0])


def functions(name: str) -> set[str]:
    """Names of pvdirty's functions in a kernel of ours that has it."""
    objects = sorted((out_of(name) / "kernel" / "dma" / "pvdirty").rglob("*.o"))
    argv = ["nm", "--defined-only", *objects]
    listed = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    names = set(re.findall(r" [tT] (\S+)$", listed, re.MULTILINE))
    if "__pvdirty_unmap" not in names:
        raise HarnessError(f"{name} has no hook of pvdirty: {sorted(names)}")
    return names


def build(name: str) -> None:
    """build/kernels/<name>: vmlinuz, and in lib/modules what is built in.

    The caller holds the lock.
    """
    version = (OURS | VFIO)[name]
    kernel = BUILD / "kernels" / name
    made_from = kernel / ".built-from"
    ingredients = _ingredients(name)
    if stamp(kernel) and made_from.exists() and made_from.read_text() == ingredients:
        return
    log = f"linux-{name}.log"
    with Phase(f"building the kernel {name}"):
        out = out_of(name)
        if name in VFIO:
            tree = _source(version)
            configure(tree, out, log, VFIO_CONFIG)
        else:
            tree = tree_of(version)
            options = OFF if name in WITHOUT else CHECKERS.get(name.partition("-")[0], {})
            configure(tree, out, log, CONFIG, **options)
        # There are no modules; it writes what modules of others are built against.
        command(f"building Linux {version}", make(tree, out, "bzImage", "modules"), log)
        release = (out / "include" / "config" / "kernel.release").read_text().strip()
        modules = fresh(kernel) / "lib" / "modules" / release
        modules.mkdir(parents=True)
        shutil.copyfile(out / "arch" / "x86" / "boot" / "bzImage", kernel / "vmlinuz")
        shutil.copyfile(out / "modules.builtin", modules / "modules.builtin")
        (modules / "modules.order").touch()
        (kernel / ".stamp").write_text(release)
        made_from.write_text(ingredients)
