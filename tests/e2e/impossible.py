# SPDX-License-Identifier: MIT
"""What the guest cannot track: it says so, the host names the device, and nothing is lost.

QEMU's edu device writes, in one way or another, to pages that the log does not see. Under the
default policy no migration starts, and every place where that is said is looked at. A blind host
shows that pages would be lost. Under all-dirty nothing is.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from faults import ALL_DIRTY, Guest
from support import BUILD, expect, expect_nothing_left

from harness import guest_image, run
from harness.progress import Progress
from harness.qmp import QmpError
from harness.rundir import RunDir
from harness.topology import PORTS, ROOT_PORTS
from harness.vm import VmConfig

WRITES = 20  # of edu, before anything is judged
UIO = "/sys/bus/pci/drivers/uio_pci_generic"
FIND_EDU = "D=$(dirname $(grep -l 0x11e8 /sys/bus/pci/devices/*/device))"
# A new log: the old one never forgets what it missed.
UNLOAD = "until rmmod pvdirty 2>/dev/null; do usleep 100000; done"
LOAD = "load_module pvdirty.ko"
RENEW = f"{UNLOAD}; {LOAD}"


EDU = ("-device", f"edu,id=edu0,bus={PORTS[0]},dma_mask={2**64 - 1}")
INSERT = "insmod /modules/edu_dma.ko"
WITH_DISK = ("virtio-blk",)
# Bytes per second, so that the disk makes work for a second pass: a blind host has no other.
SLOW = 32 << 20


@dataclass(frozen=True)
class Way:
    """How edu comes by the addresses that it writes to."""

    name: str
    begin: str  # a line for the guest
    end: str  # another one
    count: str  # prints how often edu has written; nothing if it does not
    says: str = ""  # the host, of edu0; nothing if all is well
    log: tuple[str, ...] = ()  # what the guest's kernel says
    incomplete: str = "0x0"  # in the guest's debugfs
    debugfs: str = ""  # says the same there, if not in the host's words


def module(
    how: str,
    says: str = "",
    log: tuple[str, ...] = (),
    incomplete: str = "0x0",
    writes: bool = True,
) -> Way:
    """The test module drives edu."""
    begin = f"{INSERT} how={how}"
    count = "cat /sys/module/edu_dma/parameters/writes" if writes else ""
    return Way(how, begin, "rmmod edu_dma", count, says, log, incomplete)


CHILD = ("a child device of it does DMA of its own", "0x4 child")
CHILD_LOG = "NOT tracked: a child device of it does DMA of its own"
SPOILT = "a device below a port may do DMA of its own, the log is incomplete from now on"
USER = "driven from user space"
USER_LOG = ("NOT tracked: driven from user space",)

OWN = module("own")
QUIET_CHILD = module("quiet-auxiliary")
IDLE_DOMAIN = module("idle-domain")
PROGRAM = Way(
    "uio_pci_generic",
    f"{FIND_EDU}; echo 1234 11e8 >{UIO}/new_id; >/run/edu; edu $D >/run/edu & P=$!",
    f"kill $P; wait $P; echo ${{D##*/}} >{UIO}/unbind; echo 1234 11e8 >{UIO}/remove_id",
    "wc -l </run/edu",
    USER,
    USER_LOG,
)
OTHER_UIO = module("uio", USER, USER_LOG, writes=False)
AUXILIARY = module("auxiliary", CHILD[0], (f"edu_dma.child.0: {SPOILT}", CHILD_LOG), CHILD[1])
PLATFORM = module("platform", CHILD[0], (f"edu_child: {SPOILT}", CHILD_LOG), CHILD[1])
DOMAIN = module("domain", CHILD[0], ("10000:00:00.0: covered, not tracked", CHILD_LOG), CHILD[1])
AUXILIARY_OPS = replace(AUXILIARY, name="auxiliary-ops", begin=f"{INSERT} how=auxiliary-ops")
OWN_OPS = replace(
    module("own-ops", "uses DMA operations of its own", ("NOT tracked: has other DMA operations",)),
    debugfs="has other DMA operations",
)
# The driver and its child were there before the module.
EARLY = replace(
    module("early", "driver bound before the layer came"),
    log=("NOT tracked: its driver was bound before pvdirty came",),
    begin=f"{UNLOAD}; {INSERT} how=auxiliary; {LOAD}",
    debugfs="its driver was bound before pvdirty came",
)
WRITING = (AUXILIARY, PROGRAM, PLATFORM, DOMAIN, AUXILIARY_OPS, OWN_OPS)
HOLES = (*WRITING, OTHER_UIO)


def ask(guest: Guest, line: str) -> str:
    """What a line prints in the guest."""
    before = len(guest.vm.serial)
    guest.order(line)
    printed = guest.vm.serial[before:]
    print(f"$ {line}\n{printed}", flush=True)
    return printed


def expect_said(guest: Guest, way: Way) -> None:
    """Wherever an operator of the guest or of the host would look."""
    words = f"edu0 (below {PORTS[0]}): {way.says}"
    guest.until(
        f"'{words}' from the host",
        lambda: words in str(guest.vm.port(PORTS[0], "why-incomplete")),
        10,
    )
    try:
        guest.vm.call("migrate", uri="unix:migrate")
    except QmpError as error:
        print(error, flush=True)
        expect(words in str(error), f"refused for another reason: {error}")
    else:
        raise AssertionError(f"a migration starts: {way.name}")
    log = ask(guest, "dmesg | grep pvdirty")
    for words in way.log:
        expect(words in log, f"{way.name}: no '{words}' in the kernel's log")
    debugfs = ask(guest, "cat /sys/kernel/debug/pvdirty/*")
    said = "untracked" in debugfs and (way.debugfs or way.says) in debugfs
    expect(said, f"{way.name}: no reason in debugfs")
    expect(f"incomplete: {way.incomplete}\n" in debugfs, f"{way.name}: another log in debugfs")


def begin(guest: Guest, way: Way) -> None:
    """Has edu write in this way."""
    guest.order("dmesg -c >/dev/null")
    guest.order(way.begin)
    go_on(guest, way)


def go_on(guest: Guest, way: Way) -> None:
    """Waits until edu has written more."""
    if way.count:
        enough = f"[ $({way.count}) -gt $((n + {WRITES})) ]"
        guest.order(f"n=$({way.count}); until {enough}; do usleep 100000; done")


@contextlib.contextmanager
def guest_with_edu(
    name: str, kernel: str, drivers: tuple[str, ...] = (), **more: Any
) -> Iterator[Guest]:
    """A guest with edu below one port, and perhaps a disk below the other."""
    base = VmConfig(kernel=kernel, drivers=drivers, control=True, disk_writes=False, more=EDU)
    config = run.config_for("log", replace(base, **more))
    with RunDir(name, keep=False) as directory, contextlib.ExitStack() as stack:
        disk = directory.path / "disk.img"
        shutil.copyfile(guest_image.disk_content(), disk)
        progress = Progress(name)
        vm = stack.enter_context(run.start_source(config, disk, directory.path, progress))
        guest = Guest(vm, config, stack)
        try:
            guest.boot()
            guest.order("mkdir -p /run; load_modules uio")
            yield guest
        except BaseException:
            print(f"--- the end of the guest's console:\n{vm.serial[-6000:]}", flush=True)
            raise
    expect_nothing_left(os.getpid())


def refused(kernel: str) -> None:
    """No migration starts, and it is said why; where the guest tracks all, one loses nothing."""
    with guest_with_edu("refused", kernel) as guest:
        for way in (QUIET_CHILD, IDLE_DOMAIN):
            begin(guest, way)
            guest.start()
            guest.complete_equal()
            guest.resume_source()
            guest.order(way.end)
            guest.order(RENEW)
        for way in HOLES:
            begin(guest, way)
            expect_said(guest, way)
            guest.order(way.end)
            guest.order(RENEW)
        begin(guest, EARLY)
        expect_said(guest, EARLY)
        guest.order(EARLY.end)
        # That log has missed nothing of a tracked device: no new one is needed.
        begin(guest, OWN)
        guest.until("tracked device", lambda: guest.vm.port(PORTS[0], "complete"), 10)
        guest.order(OWN.end)


def blind(kernel: str, *ways: Way, **more: Any) -> None:
    """The control: a host that trusts silence loses what edu wrote, and nothing else."""
    with guest_with_edu("blind", kernel, WITH_DISK, port_options=run.BLIND, **more) as guest:
        for way in ways:
            begin(guest, way)
            guest.start(passes=1, bandwidth=SLOW)
            go_on(guest, way)
            guest.expect_held()
            found = guest.complete()
            expect(found["pages_lost"] > 0, f"{way.name}: nothing is lost, this proves nothing")
            expect(found["x-oracle-uncovered"] > 0, f"{way.name}: the oracle saw nothing")
            outside = found["pages_lost_outside_oracle"]
            expect(outside == 0, f"{outside} lost pages were not written by a device")
            guest.resume_source()
            guest.order(way.end)


def all_dirty(kernel: str, *ways: Way) -> None:
    """The migration completes with all of RAM in its last pass."""
    with guest_with_edu("all-dirty", kernel, WITH_DISK, plugin_options=ALL_DIRTY) as guest:
        for way in ways:
            begin(guest, way)
            guest.start(passes=1, bandwidth=SLOW)
            go_on(guest, way)
            guest.complete_equal(all_dirty=True)
            guest.resume_source()
            guest.order(way.end)


VIOMMU = replace(ROOT_PORTS, options=("-device", "intel-iommu,intremap=off"))
TRANSLATED = replace(
    OWN,
    says="a vIOMMU translates its DMA",
    log=("NOT tracked: a virtual IOMMU translates its DMA",),
    debugfs="a virtual IOMMU translates its DMA",
)
VFIO_PCI = "/sys/bus/pci/drivers/vfio-pci"
VFIO = Way(
    "vfio-pci",
    f"load_modules vfio; {FIND_EDU}; echo 1234 11e8 >{VFIO_PCI}/new_id",
    f"echo ${{D##*/}} >{VFIO_PCI}/unbind; echo 1234 11e8 >{VFIO_PCI}/remove_id",
    "",
    USER,
    USER_LOG,
)


def viommu(kernel: str) -> None:
    """Refused where a vIOMMU translates, and where user space has the device through it."""
    with guest_with_edu(
        "viommu", kernel, topology=VIOMMU, kernel_options="intel_iommu=on"
    ) as guest:
        for way in (TRANSLATED, VFIO):
            begin(guest, way)
            expect_said(guest, way)
            guest.order(way.end)


def viommu_blind(kernel: str) -> None:
    """The control, through the translations of the vIOMMU."""
    # No device's pages are in any log here: the CPU makes work for a second pass.
    more = {"topology": VIOMMU, "kernel_options": "intel_iommu=on", "cpu_pages_per_second": 2000}
    blind(kernel, TRANSLATED, **more)


def viommu_identity(kernel: str) -> None:
    """A domain that translates nothing is no obstacle."""
    with guest_with_edu(
        "identity", kernel, WITH_DISK, topology=VIOMMU, kernel_options="intel_iommu=on iommu=pt"
    ) as guest:
        begin(guest, OWN)
        domain = ask(guest, f"{FIND_EDU}; cat $D/iommu_group/type")
        expect("identity" in domain, f"another domain: {domain}")
        guest.start()
        go_on(guest, OWN)
        guest.complete_equal()


def not_here(kernel: str) -> None:
    """What Debian's kernels lack cannot be tried; with one that has it this must be extended."""
    config = next((BUILD / "kernels" / kernel / "boot").glob("config-*")).read_text()
    for option in ("DMA_DECLARE_COHERENT", "VFIO_NOIOMMU"):
        expect(f"CONFIG_{option}=" not in config, f"{kernel} has {option}: try it")
    expect("CONFIG_UIO=" in config, "this is no kernel's configuration")


_CASES: dict[str, Callable[[str], None]] = {
    "impossible-refused": refused,
    "impossible-blind": lambda kernel: blind(kernel, WRITING[0]),
    "impossible-blind-rest": lambda kernel: blind(kernel, *WRITING[1:]),
    "impossible-all-dirty": lambda kernel: all_dirty(kernel, *WRITING),
    "impossible-not-here": not_here,
    "impossible-viommu": viommu,
    "impossible-viommu-blind": viommu_blind,
    "impossible-viommu-identity": viommu_identity,
}
CASES: dict[str, Callable[[], None]] = {
    name + suffix: partial(case, kernel)
    for name, case in _CASES.items()
    for kernel, suffix in (("6.1", ""), ("6.12", "-6.12"))
}
