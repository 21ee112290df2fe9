# SPDX-License-Identifier: MIT
"""Pages that virtio-balloon discarded: which of those that differ are nobody's loss.

A page that the guest puts into the balloon is given back to the host: QEMU 7.2 punches a hole
where it was, by fallocate() (balloon_inflate_page(), ram_block_discard_range()). It reads as zeros
at the source from then on, and counts as dirty only when somebody writes it again. So a migration
that has sent it before leaves the old content at the destination, and may: the guest has given the
page up, and expects nothing of it when it takes it back out.

That is all that may differ: a page that QEMU says it discarded since the migration began, and that
is still a page of zeros at the source. One that was written since is not, and must be equal.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.run import PAGE
from harness.vm import Vm

TRACE = "virtio_balloon_handle_output"
DEVICE = (
    *("-device", "virtio-balloon-pci,id=balloon0,bus=pcie.0,addr=10"),
    *("-trace", TRACE),
)
_TRACED = re.compile(rf"{TRACE} section name: (\S+) gpa: 0x([0-9a-f]+)")


class Discards:
    """What goes into a VM's balloon, and out of it, from now on; a guest's below 2 GiB of RAM."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._from = len(self._log())

    def _log(self) -> str:
        return self._vm.log.read_text(errors="replace")

    def pages(self) -> set[int]:
        """Page frame numbers: below the PCI hole the same in the guest and in its RAM block."""
        return {int(gpa, 16) // PAGE for _, gpa in _TRACED.findall(self._log()[self._from :])}

    def excuse(self, found: dict[str, Any], dump: Path) -> None:
        """Takes what may differ out of what was found to differ from this dump of the VM."""
        discarded = self.pages()
        excuse_zeros(found, dump, lambda page: page in discarded)


def excuse_zeros(found: dict[str, Any], dump: Path, given_up: Callable[[int], bool]) -> None:
    """Takes pages of zeros that the guest has given up out of what differs from this dump."""
    listed = json.loads((dump / "blocks.json").read_text())
    oracle = listed["oracle"]
    written = (dump / oracle["file"]).read_bytes()
    (ram,) = [block for block in listed["blocks"] if block["name"] == oracle["block"]]
    found["pages_given_up"] = 0
    with open(f"/proc/{listed['pid']}/fd/{ram['fd']}", "rb", buffering=0) as memory:
        for page in _pages(found["ranges"], ram["name"]):
            if given_up(page) and not any(os.pread(memory.fileno(), PAGE, page * PAGE)):
                found["pages_given_up"] += 1
                found["pages_lost"] -= 1
                if not written[page // 8] >> page % 8 & 1:
                    found["pages_lost_outside_oracle"] -= 1


def _pages(ranges: list[dict[str, Any]], block: str) -> Iterator[int]:
    """Of one block."""
    for pages in ranges:
        if pages["block"] == block:
            yield from range(pages["first"], pages["last"] + 1)
