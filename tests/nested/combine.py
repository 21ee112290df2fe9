#!/usr/bin/python3 -sB
# SPDX-License-Identifier: MIT
"""Inside the outer VM: combine.py MODULE PLUGIN migrates a guest with three kinds of devices.

An NVMe disk whose pages the guest marks; a VFIO device that logs, MODULE; and one that nobody
tracks. PLUGIN, combined_harvest.c, asks a tracker of all three. Without the log, or without what
stands for the third, the migration loses pages of that device and no others.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from inner import Setup, ask, expect, main, pair, with_second_try

from harness.run import PAGE

# The guest leaves it alone. Each of the two other devices writes to a half.
WINDOW = 128 << 20
HALF_PAGES = 256
FIRST = {"log": WINDOW // PAGE, "everything": WINDOW // PAGE + HALF_PAGES}


def _lost(found: dict[str, Any]) -> set[int]:
    """Numbers of the pages that differ: the guest's RAM ends below the hole, so it begins at 0."""
    return {
        page
        for rng in found["ranges"]
        if rng["block"] == "m0"
        for page in range(rng["first"], rng["last"] + 1)
    }


def migrate(plugin: Path, deaf: str, title: str) -> None:
    """One migration; deaf is the source that is left out."""
    os.environ |= {"COMBINED_WINDOW": str(WINDOW), "COMBINED_DEAF": deaf}
    reserved = f"memmap={2 * HALF_PAGES * PAGE >> 20}M${WINDOW >> 20}M"
    with pair(Setup(plugin=plugin, kernel_options=reserved), title) as at:
        ended = at.migrate()
        found = at.compare()
        said = at.source.log.read_text()
        wrote = re.search(r"combined: (\d+) pages written by each device", said)
        others = re.findall(r"combined: (?!\d+ pages).*", said)
        expect(wrote is not None, "the other devices have not begun")
        pages = int(wrote[1]) if wrote else 0
        print(
            f"{title}: {ask(at.source, 'pages-marked')} marked, {pages} written by each of the "
            f"others, {ended.report['passes']} passes, {found['pages_lost']} lost",
            flush=True,
        )
        expect(pages >= HALF_PAGES, "the other devices have not written to all of their pages")
        expect(ask(at.source, "pages-marked") > 0, "nothing was marked")
        expect(not others, f"a source failed: {others}")
        expect(ask(at.source, "answered-all-dirty") == 0, "a harvest answered all-dirty")
        lost = _lost(found)
        if deaf:
            theirs = set(range(FIRST[deaf], FIRST[deaf] + HALF_PAGES))
            expect(bool(lost), f"no page was lost without {deaf}: the judge proves nothing")
            expect(lost <= theirs, f"others are lost: {sorted(lost - theirs)[:9]}")
        else:
            expect(found["pages_lost"] == 0, f"{found['pages_lost']} pages are lost")
            at.go_on()


def body() -> None:
    """With all three sources, then without each that the guest does not mark for."""
    module, plugin = sys.argv[1:]
    subprocess.run(["/sbin/insmod", module], check=True)
    for deaf in ("", *FIRST):
        title = f"without {deaf}" if deaf else "all sources"
        with_second_try(functools.partial(migrate, Path(plugin), deaf, title), title)


if __name__ == "__main__":
    sys.exit(main(body))
