# SPDX-License-Identifier: MIT
"""Installing and building: from which sources, by whom, and only once."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from support import BUILD, TOP, demo, expect

PACKAGES = TOP / "tests" / "support" / "packages.sh"

ONE_LINE = """\
# deb http://archive.example/commented bookworm main
deb [signed-by=/usr/share/keyrings/other.gpg] https://apt.vendor.example bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [arch=amd64,i386 signed-by=/k/debian-archive-keyring.gpg] http://m.example/debian/ bookworm main contrib # here
deb http://m.example/debian-security bookworm-security main
"""
DEB822 = """\
Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb deb-src
# a comment inside
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
  bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 bWFpbg==
 -----END PGP PUBLIC KEY BLOCK-----
"""


def _derived(name: str, content: str) -> tuple[int, list[dict[str, str]], str]:
    """Exit code, stanzas and stderr of `packages.sh sources`."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        path = Path(scratch, name)
        path.write_text(content)
        done = subprocess.run(
            [PACKAGES, "sources", path], capture_output=True, text=True, check=False
        )
    stanzas = []
    for text in done.stdout.split("\n\n"):
        if text.strip():
            lines = [line for line in text.splitlines() if not line.startswith(" ")]
            stanzas.append({key: value for key, _, value in (x.partition(": ") for x in lines)})
    print(done.stdout + done.stderr)
    return done.returncode, stanzas, done.stderr


def sources() -> None:
    """The machine's own archive entries, of both formats, and no others."""
    code, stanzas, _ = _derived("a.list", ONE_LINE)
    expect(code == 0, "a.list is refused")
    expect(
        {s["Suites"]: s["URIs"] for s in stanzas}
        == {
            "bookworm": "http://m.example/debian/",
            "bookworm-updates": "http://m.example/debian/",
            "bookworm-security": "http://m.example/debian-security",
            "bookworm-backports": "http://m.example/debian/",
        },
        f"one-line entries: {stanzas}",
    )
    expect(all(s["Types"] == "deb deb-src" for s in stanzas), "no source packages")
    expect(stanzas[0]["Architectures"] == "amd64 i386", "arch= is lost")
    expect(stanzas[0]["signed-by"] == "/k/debian-archive-keyring.gpg", "signed-by= is lost")

    code, stanzas, _ = _derived("b.sources", DEB822)
    expect(code == 0, "b.sources is refused")
    expect(
        [s["Suites"] for s in stanzas] == ["bookworm", "bookworm-updates", "bookworm-backports"],
        f"deb822 suites: {stanzas}",
    )
    expect(
        all(s["URIs"] == "mirror+file:///etc/apt/mirrors/debian.list" for s in stanzas),
        f"deb822 entries: {stanzas}",
    )
    expect(all("Signed-By:" in s for s in stanzas), "the key in the entry is lost")

    code, _, error = _derived("c.list", "deb http://m.example/debian trixie main\n")
    expect(code == 1 and error.count("\n") == 1, f"no bookworm: {code} {error}")


def _shims(directory: Path, commands: Iterable[str], script: str) -> dict[str, str]:
    """An environment in which these commands are a script of ours."""
    for name in commands:
        shim = directory / name
        shim.write_text(f"#!/bin/sh\n{script}\n")
        shim.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def not_root() -> None:
    """A user without root is told the one command, once, and nothing is tried."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        env = _shims(Path(scratch), ["dpkg-query"], "exit 1")
        env |= _shims(Path(scratch), ["id"], "echo 1000")
        env |= _shims(Path(scratch), ["apt-get"], 'touch "$0.called"')
        ended = demo(env=env)
        expect(not Path(scratch, "apt-get.called").exists(), "apt-get was called")
    expect(ended.code == 1, f"exit code {ended.code}")
    lines = [line for line in ended.err.splitlines() if "sudo" in line]
    expect(lines == [f"  sudo {PACKAGES} install"], f"the command: {lines}")


def second_start() -> None:
    """All is there: nothing is fetched, nothing is built."""
    tools = ["apt-get", "apt-cache", "dpkg-deb", "make", "cmake", "gcc", "cpio", "depmod"]
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        env = _shims(Path(scratch), tools, 'echo "$0 $*" >>"${0%/*}/called"; exit 1')
        ended = demo("--qemu", "/nonexistent/qemu", env=env)
        called = Path(scratch, "called")
        expect(not called.exists(), called.exists() and called.read_text() or "")
    # It came as far as starting QEMU.
    expect(ended.code == 1 and "/nonexistent/qemu" in ended.err, f"{ended.err}")
