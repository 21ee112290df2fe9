# SPDX-License-Identifier: MIT
"""Cases with real KVM and VFIO: `cases.py NAME`; ctest runs them one at a time."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

from support import expect, main  # noqa: E402

from harness.base import die_with_parent  # noqa: E402

RUN = Path(__file__).with_name("run")
INSIDE = Path(__file__).with_name("inside")


def _run(*args: str) -> tuple[int, str]:
    """Exit code and output of tests/nested/run."""
    done = subprocess.run(
        [RUN, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent(),
        check=False,
    )
    print(f"$ {RUN} {' '.join(args)}  -> {done.returncode}\n{done.stdout}", flush=True)
    return done.returncode, done.stdout


def runner() -> None:
    """A script's output and exit code, what it finds, and that it cannot spoil the host's files."""
    code, out = _run("--device", "nvme", "--device", "e1000e", str(INSIDE), "7")
    expect(code == 7, f"exit code {code}, not the script's")
    lines = out.splitlines()
    expect("kvm 2" in lines, "no KVM on two CPUs")
    for device in ("0000:00:10.0 0x1b36", "0000:00:11.0 0x8086"):
        expect(f"device {device} alone 1" in lines, f"{device} is not alone in an IOMMU group")
    expect("writable tmp " in lines, "what can be written is not /tmp alone")
    code, out = _run("--timeout", "1", str(INSIDE), "0")
    expect(code == 4 and "took more than 1 s" in out, "a VM that takes too long is not told")
    code, out = _run("/no/such/script")
    expect(code == 2, "a script that is not there")


def _migration(mode: str) -> None:
    devices = ["--device", "nvme"] * 2
    code, out = _run(*devices, str(Path(__file__).with_name("migrate.py")), mode)
    expect(code == 0, f"exit code {code}")
    expect(f"{mode}: " in out, "no result")


CASES = {
    "runner": runner,
    "nvme": lambda: _migration("log"),
    "nvme-control": lambda: _migration("off"),
}

if __name__ == "__main__":
    sys.exit(main(CASES))
