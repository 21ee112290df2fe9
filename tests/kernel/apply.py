# SPDX-License-Identifier: MIT
"""guest/apply: a source tree gets pvdirty, and is restored exactly."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import BUILD, TOP, Ended, expect

from harness.linux import source

APPLY = TOP / "guest" / "apply"
OURS = Path("kernel/dma/pvdirty")
MAPPING = Path("kernel/dma/mapping.c")
DEVICE = Path("include/linux/device.h")
EDITED = (MAPPING, DEVICE, Path("kernel/dma/Kconfig"), Path("kernel/dma/Makefile"))


def tree_hash(tree: Path) -> str:
    """Of all names, modes, link targets and contents."""
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        digest.update(f"{path.relative_to(tree)}\0{status.st_mode:o}\0".encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def scratch_tree(version: str, whole: bool) -> Iterator[Path]:
    """A copy of a source tree, by hard links; or of the files that are edited."""
    original = source(version)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="tree-") as directory:
        tree = Path(directory, "linux")
        if whole:
            subprocess.run(["cp", "-al", original, tree], check=True)
        else:
            for path in EDITED:
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original / path, tree / path)
        yield tree


def apply(tree: Path, *options: str, env: dict[str, str] | None = None) -> Ended:
    """Runs guest/apply on a tree."""
    done = subprocess.run(
        [APPLY, *options, tree],
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
        check=False,
    )
    print(f"$ guest/apply {' '.join(options)} {tree.name}  -> {done.returncode}")
    print(done.stdout + done.stderr, flush=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def expect_done(ended: Ended, words: str) -> None:
    """Success, and one line that says so."""
    expect(ended.code == 0, f"exit code {ended.code}")
    expect(words in ended.out and ended.out.count("\n") == 1, f"no '{words}': {ended.out}")


def there_and_back(version: str) -> None:
    """Applied, applied again, and reverted: the whole tree is as it was."""
    original = source(version)
    before = tree_hash(original)
    with scratch_tree(version, whole=True) as tree:
        expect_done(apply(tree), "files changed")
        applied = tree_hash(tree)
        expect(applied != before, "the hash does not see what was applied")
        expect((tree / OURS / "guest" / "core" / "log.c").exists(), "our files are not there")
        expect_done(apply(tree), "nothing to do")
        expect(tree_hash(tree) == applied, "applied twice the tree is another")
        dma = tree_hash(tree / "kernel" / "dma")

        # An older version of ours is brought up to date, by what differs alone.
        ours = tree / OURS / "guest"
        (ours / "main.c").write_text("older\n")
        (ours / "gone.c").write_text("no longer\n")
        age = (tree / MAPPING).stat().st_mtime_ns
        expect_done(apply(tree), "2 files changed")
        expect(tree_hash(tree / "kernel" / "dma") == dma, "brought up to date the tree is another")
        expect((tree / MAPPING).stat().st_mtime_ns == age, "mapping.c was written for nothing")

        # What others do to the same files meanwhile stays.
        note = "\n/* somebody else's */\n"
        mapping = tree / MAPPING
        mapping.write_text(mapping.read_text() + note)
        expect_done(apply(tree, "--revert"), "removed")
        expect(mapping.read_text() == (original / MAPPING).read_text() + note, "a change is lost")
        mapping.write_text((original / MAPPING).read_text())
        expect(tree_hash(tree) == before, "reverted the tree is another")
        expect(apply(tree, "--revert").code == 1, "what is not there is reverted")
    expect(tree_hash(original) == before, "the source was written to")


@dataclass(frozen=True)
class Moved:
    """A kernel that is not as hooks.cocci expects it."""

    what: str
    change: Callable[[str], str]
    says: str  # in the message
    path: Path = MAPPING


def _replaced(pattern: str, by: str) -> Callable[[str], str]:
    return lambda text: re.sub(rf"(?<!\w){pattern}", by, text, flags=re.M)


NEW_FUNCTION = """
void dma_map_new(struct device *dev, dma_addr_t addr)
{
	debug_dma_map_new(dev, addr);
}
"""
NEW_CHOICE = """
void dma_set_new(struct device *dev)
{
	dev->dma_skip_sync = true;
}
"""
BEFORE_UNMAP_SG = r"^\tBUG_ON\(!valid_dma_direction\(dir\)\);\n(?=\t(?:debug|trace)_dma_unmap_sg)"
MOVED = (
    Moved(
        "a function has another name",
        _replaced("dma_unmap_page_attrs", "dma_unmap_phys"),
        "dma_unmap_phys() does DMA",
    ),
    Moved(
        "a function without debug call has another name",
        _replaced("(?:__)?dma_need_sync", "dma_wants_sync"),
        "no functions dma_need_sync()",
    ),
    Moved(
        "another parameter",
        _replaced(r"void dma_free_pages\(", "void dma_free_pages(int node, "),
        "dma_free_pages() is not what",
    ),
    Moved(
        "a debug call is gone",
        _replaced(r"^\tdebug_dma_alloc_coherent\(.*\n", ""),
        "dma_alloc_attrs() is not what",
    ),
    Moved("a check is gone", _replaced(BEFORE_UNMAP_SG, ""), "dma_unmap_sg_attrs() is not what"),
    Moved("a new function", lambda text: text + NEW_FUNCTION, "dma_map_new() does DMA"),
    Moved("a new choice of syncs", lambda text: text + NEW_CHOICE, "dma_set_new() sets"),
    Moved("no such header", _replaced(r'^#include "direct.h"\n', ""), "direct.h"),
    Moved(
        "no such member",
        _replaced(r"^\tconst struct bus_dma_region.*\n", ""),
        "not one line like",
        DEVICE,
    ),
)


def moved(version: str) -> None:
    """A later kernel, or a missing tool: a message that says what, and nothing is written."""
    for case in MOVED:
        with scratch_tree(version, whole=False) as tree:
            path = tree / case.path
            text = path.read_text()
            path.write_text(case.change(text))
            expect(path.read_text() != text, f"{case.what}: the tree is the same")
            _refused(tree, case.what, str(case.path), case.says)
    with scratch_tree(version, whole=False) as tree, tempfile.TemporaryDirectory() as nothing:
        _refused(tree, "no spatch", "spatch", "coccinelle", env={"PATH": nothing})
        (tree / MAPPING).unlink()
        _refused(tree, "no kernel", "no Linux source tree", str(MAPPING))
    with scratch_tree(version, whole=False) as tree:
        expect_done(apply(tree), "files changed")
        mapping = tree / MAPPING
        mapping.write_text(mapping.read_text().replace("pvdirty_unmap(dev,", "other(dev,"))
        _refused(tree, "our lines changed", str(MAPPING), "changed since")
        _refused(tree, "our lines changed", str(MAPPING), "changed since", options=["--revert"])


def _refused(
    tree: Path,
    what: str,
    *words: str,
    env: dict[str, str] | None = None,
    options: list[str] | None = None,
) -> None:
    before = tree_hash(tree)
    ended = apply(tree, *(options or []), env=env)
    expect(ended.code == 1, f"{what}: exit code {ended.code}")
    for word in words:
        expect(word in ended.err, f"{what}: no '{word}' in: {ended.err}")
    expect(tree_hash(tree) == before, f"{what}: the tree was written to")
