# SPDX-License-Identifier: MIT
"""kernel/dma/mapping.o with pvdirty applied: the same while CONFIG_PVDIRTY is off."""

from pathlib import Path

from support import expect

from harness import linux
from harness.base import command
from harness.steps import locked

OBJECT = "kernel/dma/mapping.o"


def _compile(tree: Path, out: Path, version: str, **options: str) -> bytes:
    """The object file of a tree, with these options."""
    log = f"mapping-{version}.log"
    linux.configure(tree, out, log, **options)
    command(f"compiling {OBJECT}", linux.make(tree, out, OBJECT), log, append=True)
    return (out / OBJECT).read_bytes()


def same_when_off(version: str) -> None:
    """Byte for byte: kernel.config has no debug information and no line numbers in BUG()."""
    with locked():
        tree = linux.tree_of(version)
        source = linux.LINUX / version / "source" / f"linux-source-{version}"
        out = linux.LINUX / version / "mapping"
        plain = _compile(source, out / "plain", version, **linux.OFF)
        expect(b"pvdirty" not in plain, "Debian's source has pvdirty")
        same = _compile(tree, out / "off", version, **linux.OFF)
        expect(same == plain, f"{OBJECT} is another with CONFIG_PVDIRTY off")
        differs = _compile(tree, out / "on", version)
        expect(differs != plain, "the comparison does not see CONFIG_PVDIRTY=y")
        expect(b"__pvdirty_unmap" in differs, "nothing is called with CONFIG_PVDIRTY=y")
