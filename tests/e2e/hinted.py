# SPDX-License-Identifier: MIT
"""Pages that virtio-balloon hinted at as free: QEMU takes them out of what is to be sent.

The guest holds a page that it hints at until the migration is over, or until it needs memory. A
device may write the page after that. No order of these loses what it wrote:

- The hint takes bits out of the migration's bitmap only, and only between two syncs: QEMU stops the
  hints before each sync and starts them after it (virtio_balloon_free_page_hint_notify()), under
  the lock that the hints are handled under. Harvests happen in syncs alone.
- The page is free when the guest hints, so no device owns it. One that gets it later maps it later,
  and gives it back, and so marks it, later still. That mark stands in the guest's log, where no
  hint reaches, until a later sync sets the bit again.
- A hint that QEMU handles late, when a device has the page already, clears a bit that some sync
  before has set. Either the device still has the page at the last sync, and it is in flight; or it
  gave it back since, and there is a mark. At the last sync the VM stands still, and hints are over.

So a page differs for good reason only where it is free. The guest zeroes what it frees
(init_on_free=1): a page that is zero at the source is nobody's loss.
"""

from functools import partial

import ballooned
from moving import MovingGuest
from support import expect

from harness.run import PAGE

KERNEL_OPTIONS = "init_on_free=1 init_on_alloc=0"
_BALLOON = "virtio-balloon-pci,id=balloon0,bus=pcie.0,addr=10,free-page-hint=on,iothread=hints"
DEVICE = ("-object", "iothread,id=hints", "-device", _BALLOON)


def expect_hinted(guest: MovingGuest) -> None:
    """All of RAM has been looked at, and some of it was not sent."""
    migration = guest.under_way
    assert migration
    ram = migration.info["ram"]
    unsent = ram["total"] // PAGE - ram["normal"] - ram["duplicate"]
    print(f"at least {unsent} pages were not sent", flush=True)
    expect(unsent > 0, f"nothing was hinted at: {ram}")


def excuse_free(guest: MovingGuest) -> None:
    """What differs and is zero is free."""
    guest.excuse = partial(ballooned.excuse_zeros, given_up=lambda _page: True)
