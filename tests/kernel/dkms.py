# SPDX-License-Identifier: MIT
"""guest/dkms.conf: DKMS builds and installs the module for Debian's kernels."""

import re
import subprocess
import tempfile
from pathlib import Path

from support import BUILD, TOP, Ended, expect


def _run(*argv: str | Path) -> Ended:
    done = subprocess.run(
        [str(a) for a in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"$ {' '.join(map(str, argv))}  -> {done.returncode}")
    print(done.stdout + done.stderr, flush=True)
    return Ended(done.returncode, done.stdout, done.stderr)


def _release(version: str) -> tuple[str, Path]:
    """A Debian kernel's release and its headers, as provisioned."""
    release = (BUILD / "headers" / version / ".stamp").read_text()
    return release, Path((BUILD / "headers" / version / "kdir").read_text().strip())


def builds(version: str) -> None:
    """Added, built, installed; a source that does not compile is no success."""
    release, headers = _release(version)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="dkms-") as scratch:
        root = Path(scratch)
        done = _run("make", "-s", "-C", TOP / "guest", "dkms", f"DESTDIR={root}")
        expect(done.code == 0, "no package for DKMS")
        package = next((root / "usr" / "src").iterdir())
        name, number = package.name.rsplit("-", 1)
        (root / "dkms").mkdir()
        (root / "modules" / release).mkdir(parents=True)
        where = ["--dkmstree", root / "dkms", "--sourcetree", package.parent]
        where += ["--installtree", root / "modules"]
        kernel = ["-k", release, "--kernelsourcedir", headers, "--no-depmod"]
        module = f"{name}/{number}"
        expect(_run("dkms", "add", module, *where).code == 0, "dkms add")
        expect(_run("dkms", "build", module, *where, *kernel).code == 0, "dkms build")
        expect(_run("dkms", "install", module, *where, *kernel).code == 0, "dkms install")
        found = list((root / "modules" / release).rglob("pvdirty.ko*"))
        expect(len(found) == 1, f"installed: {found}")
        info = _run("modinfo", "-F", "vermagic", found[0]).out
        expect(info.split()[:1] == [release], f"built for another kernel: {info}")

        _run("dkms", "remove", module, "--all", *where, "--no-depmod")
        source = package / "guest" / "main.c"
        source.write_text(re.sub(r"\bstatic\b", "statik", source.read_text()))
        expect(_run("dkms", "add", module, *where).code == 0, "dkms add")
        expect(_run("dkms", "build", module, *where, *kernel).code != 0, "broken code is built")
