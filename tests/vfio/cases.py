# SPDX-License-Identifier: MIT
"""Cases with the kernel's own iommufd and mtty: `cases.py NAME`; ctest runs them."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

from support import BUILD, expect, main  # noqa: E402

from harness.base import die_with_parent  # noqa: E402
from harness.guest_image import test_module  # noqa: E402
from harness.linux import VFIO  # noqa: E402

INSIDE = Path(__file__).with_name("inside")
RUN = TOP / "tests" / "nested" / "run"
PROGRAM = BUILD / "host" / "tests" / "vfio" / "vfio-tests"


def _passes(tag: str) -> None:
    """The tests with this tag pass, in a VM with the kernel that has what they need."""
    (kernel,) = VFIO
    options = ("--kernel", kernel, "--memory", "1024", "--timeout", "800")
    module = test_module(kernel, "dma_log")
    done = subprocess.run(
        [RUN, *options, INSIDE, module, PROGRAM, "--use-colour", "no", f"[{tag}]"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent(),
        check=False,
    )
    print(done.stdout, flush=True)
    expect(done.returncode == 0, f"exit code {done.returncode}")
    passed = re.search(
        r"^All tests passed \(\d+ assertions? in (\d+) test cases?\)", done.stdout, re.MULTILINE
    )
    expect(passed is not None and int(passed[1]) > 0, "no test has run")


def _of(tag: str) -> Callable[[], None]:
    return lambda: _passes(tag)


CASES = {tag: _of(tag) for tag in ("hwpt", "mtty", "combine")}

if __name__ == "__main__":
    sys.exit(main(CASES))
