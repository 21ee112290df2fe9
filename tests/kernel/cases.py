# SPDX-License-Identifier: MIT
"""Cases of pvdirty in a kernel's source tree: `cases.py NAME`."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from support import main  # noqa: E402

import apply  # noqa: E402
import dkms  # noqa: E402
import kunit  # noqa: E402
import mapping  # noqa: E402
import style  # noqa: E402
from harness.linux import VERSIONS  # noqa: E402

CASES = {
    f"{name}-{version}": functools.partial(case, version)
    for name, case in (
        ("apply", apply.there_and_back),
        ("moved", apply.moved),
        ("dkms", dkms.builds),
        ("mapping", mapping.same_when_off),
        ("kunit", kunit.passes),
        ("style", style.module_clean),
        ("style-built-in", style.built_in_clean),
    )
    for version in VERSIONS
}

if __name__ == "__main__":
    sys.exit(main(CASES))
