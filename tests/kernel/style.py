# SPDX-License-Identifier: MIT
"""guest/ is clean for the compiler's extra warnings, for sparse and for checkpatch."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from support import BUILD, TOP, expect

from harness import linux
from harness.steps import locked

# Of make W=1, and of sparse by C=1 for what is compiled.
CHECKED = ("W=1", "C=1")
_FINDING = re.compile(r"^.*: (?:warning|error): .*$", re.MULTILINE)
_REMARK = re.compile(r"^[A-Z]+:([A-Z_]+): (.*)\n#\d+: FILE: (\S+?):\d+:", re.MULTILINE)
# compat.h is where the kernel's version may be tested. Attributes cannot be in parentheses.
EXEMPT = {("compat.h", "LINUX_VERSION_CODE"), ("prim.h", "COMPLEX_MACRO")}
# What is appended to a file, and what must be found then.
PLANTED = """
void pvd_planted(void);
void pvd_planted(void)
{
	int nobody_reads_it;

	nobody_reads_it = 1;
}

u32 pvd_planted_order(const __le32 *word);
u32 pvd_planted_order(const __le32 *word)
{
	return *word; 
}
"""
COMPILER, SPARSE = "set but not used", "incorrect type in return expression"
CHECKPATCH = "TRAILING_WHITESPACE"
PLANT_IN = "touch.c"


def _findings(argv: list[str | Path]) -> list[str]:
    """What a build complains of; one that fails is no answer."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"$ {' '.join(map(str, argv))}  -> {done.returncode}\n{done.stdout}", flush=True)
    expect(done.returncode == 0, f"make ends with {done.returncode}")
    return _FINDING.findall(done.stdout)


def _checkpatch(version: str, guest: Path) -> list[str]:
    """What the checkpatch of this kernel says of all sources, but for what is exempt."""
    script = linux.source(version) / "scripts" / "checkpatch.pl"
    files = sorted([*guest.glob("*.[ch]"), *guest.glob("core/*.[ch]"), guest / "Kbuild"])
    argv = ["perl", script, "--no-tree", "--strict", "--show-types", "-f", *files]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    checked = re.findall(r"^total: .* lines checked$", done.stdout, re.MULTILINE)
    expect(len(checked) == len(files), f"{len(checked)} of {len(files)} files were checked")
    return [
        f"{name}: {kind}: {what}"
        for kind, what, name in _REMARK.findall(done.stdout)
        if (Path(name).name, kind) not in EXEMPT
    ]


def _expect_clean(found: list[str]) -> None:
    expect(not found, "\n".join(["not clean:", *found]))


def _expect_found(found: list[str], *words: str) -> None:
    for word in words:
        expect(any(word in line for line in found), f"planted, and not found: {word}")


def _plant(path: Path) -> None:
    # A new file: the old one may be a hard link.
    text = path.read_text() + PLANTED
    path.unlink()
    path.write_text(text)


def module_clean(version: str) -> None:
    """The module, and the text of all sources; a planted fault of each kind is found."""
    kdir = (BUILD / "headers" / version / "kdir").read_text().strip()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="style-") as scratch:
        guest, out = Path(scratch, "guest"), Path(scratch, "out")
        shutil.copytree(TOP / "guest", guest)
        shutil.copytree(TOP / "shared", Path(scratch, "shared"))
        argv = ["make", "-s", "-C", guest, f"KDIR={kdir}", f"O={out}", *CHECKED]
        _expect_clean(_findings(argv))
        _expect_clean(_checkpatch(version, guest))
        _plant(guest / PLANT_IN)
        _expect_found(_findings(argv), COMPILER, SPARSE)
        _expect_found(_checkpatch(version, guest), CHECKPATCH)


def built_in_clean(version: str) -> None:
    """The same built in, with the KUnit suites."""
    with locked():
        tree = linux.tree_of(version)
        out = linux.LINUX / version / "style"
        ours = Path("kernel", "dma", "pvdirty", "guest")
        linux.configure(tree, out, f"style-{version}.log")
        argv = linux.make(tree, out, f"{ours}/", *CHECKED)
        shutil.rmtree(out / ours, ignore_errors=True)
        _expect_clean(_findings(argv))
        try:
            _plant(tree / ours / PLANT_IN)
            _expect_found(_findings(argv), COMPILER, SPARSE)
        finally:
            linux.apply(tree, f"style-{version}.log")
