# SPDX-License-Identifier: MIT
"""Whole I/O paths of real drivers: what a guest executes for a read of a disk, or for a frame."""

import contextlib
import itertools
import re
import socket
import struct
import subprocess
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import count
from count import BASE, Machine, NotExact, counting, machine

from harness.base import BUILD, HarnessError
from harness.linux import BUILT_IN, OURS, functions, out_of
from harness.qmp import connect_unix
from harness.topology import PORTS, ROOT_PORTS, UNCOVERED, Topology
from harness.vm import VmConfig

COUNTER = BUILD / "host" / "tests" / "bench" / "libpvdirty-executed.so"
PROGRAM = BUILD / "guest" / "io"
COUNTS = "executed"  # in the directory of a run
DISK, NIC = "/dev/nvme0n1", "eth0"
GUEST_IP, HOST_IP = "192.0.2.1", "192.0.2.2"
HOST_MAC = "02:00:00:00:00:01"
STREAM = 64
DATAGRAM_BYTES = 1472  # as in guest/io.c
DISK_KIB_PER_SECOND = 1024  # slow enough that a read waits


@dataclass(frozen=True)
class Loop:
    """What the guest's program does, and how many times."""

    text: str
    arguments: str
    count: int


# The columns.
LOOPS = {
    "read": Loop("NVMe: 4 KiB read", f"read {DISK} 512", 512),
    "alone": Loop("e1000e: frame sent, frame received", f"receive {HOST_IP} 256 1", 256),
    "stream": Loop(f"e1000e: frame of {STREAM} received", f"receive {HOST_IP} 4096 {STREAM}", 4096),
}
# Of two runs: how many frames an interrupt brings and how long the host takes is not up to us, and
# new buffers are mapped by sixteens.
SPREAD = 0.1
Ranges = Sequence[range]
USER = range(1 << 47)
# By state and loop: instructions of each I/O, "all" of them and pvdirty's "own".
Paths = dict[str, dict[str, dict[str, float]]]
# The rows.
STATES = {
    BASE: "without pvdirty",
    "no-port": "no port",
    "uncovered": "devices not below a port, another one is",
    "off": "covered, host not logging",
    "on": "covered, host logging",
}
# The largest part of an I/O, in percent, that may be pvdirty's own while the host logs. Frames of a
# stream share an interrupt, a wake-up and a poll, so of each not much more is left than its mapping
# and its way through UDP: there the goal is not reached.
GOAL = 2.0
LIMITS = {"read": GOAL, "alone": GOAL, "stream": 4.5}
KNOWN_ROUNDS, KNOWN_EACH = 1000, 12
WAIT_MS, WAIT_MOST = 20, 1_000_000  # instructions that may be work of the kernel meanwhile
TRIES = 3


def _answer(frame: bytes) -> bytes:
    """Frames for a frame of a UDP datagram over IPv4: as many as it asks for. None for others."""
    ether, ip, udp = frame[:14], frame[14:34], frame[34:42]
    if ether[12:] != b"\x08\0" or ip[0] != 0x45 or ip[9] != socket.IPPROTO_UDP:
        return b""
    lengths = len(ip) + len(udp) + DATAGRAM_BYTES, len(udp) + DATAGRAM_BYTES
    head = struct.pack(">BBHHHBBH", 0x45, 0, lengths[0], 0, 0, 64, socket.IPPROTO_UDP, 0)
    head += ip[16:20] + ip[12:16]
    total = sum(struct.unpack(">10H", head))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack(">H", checksum) + head[12:]
    # A datagram without a checksum of its own.
    ports = udp[2:4] + udp[:2] + struct.pack(">HH", lengths[1], 0)
    answer = ether[6:12] + ether[:6] + ether[12:] + head + ports + bytes(DATAGRAM_BYTES)
    return (struct.pack(">I", len(answer)) + answer) * int.from_bytes(frame[42:46], "little")


class Answers:
    """The other end of the NIC's cable."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_unix(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("rb") as frames:
            while length := frames.read(4):
                self._connection.sendall(_answer(frames.read(struct.unpack(">I", length)[0])))

    def close(self) -> None:
        """Hangs up."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


@dataclass(frozen=True)
class Executed:
    """What executed.c has counted between two marks: instructions, by address."""

    at: dict[int, int]

    @classmethod
    def read(cls, path: Path) -> "Executed":
        """Its file."""
        words = array("Q", path.read_bytes())
        return cls(dict(zip(words[::2], words[1::2], strict=True)))

    def total(self) -> int:
        """All of them."""
        return sum(self.at.values())

    def within(self, ranges: Ranges) -> int:
        """Those at addresses of these ranges."""
        return sum(n for address, n in self.at.items() if any(address in r for r in ranges))

    def expect_known(self, rounds: int) -> None:
        """The program's own loop took so many rounds; NotExact if they are counted wrong."""
        counted = self.within([USER])
        if counted != rounds * KNOWN_EACH:
            raise NotExact(f"{counted} instructions are counted for {rounds} times {KNOWN_EACH}")

    def expect_idle(self, left_out: Ranges) -> None:
        """There was nothing to do; NotExact if that is counted as work."""
        counted = self.total() - self.within(left_out)
        if counted > WAIT_MOST:
            raise NotExact(f"{counted} instructions are counted for {WAIT_MS} ms of nothing")


def _run(argv: list[str | Path]) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


def spin_loop() -> range:
    """Where the guest's program has its loop that is no work."""
    found = re.search(r"^(\w+) (\w+) \w spin$", _run(["nm", "-S", PROGRAM]), re.MULTILINE)
    if not found:
        raise HarnessError(f"{PROGRAM} has no function spin")
    start, size = (int(word, 16) for word in found.groups())
    return range(start, start + size)


def module_code(m: Machine, kernel: str) -> Ranges:
    """Where a guest has the module's code."""
    module = BUILD / "guest" / kernel / "pvdirty.ko"
    sizes = dict(re.findall(r"^(\.text\S*)\s+(\d+)", _run(["size", "-A", module]), re.MULTILINE))
    printed = m.order("cd /sys/module/pvdirty/sections; grep -H . .text*; cd /")
    starts = re.findall(r"^(\.text\S*):(0x\w+)", printed, re.MULTILINE)
    if ".text" not in dict(starts):
        raise HarnessError(f"the guest does not say where the module's code is: {printed}")
    return [range(int(s, 16), int(s, 16) + int(sizes[name])) for name, s in starts]


def built_in_code(kernel: str) -> Ranges:
    """Where a kernel of ours, which has no KASLR, has pvdirty's functions.

    A function of another part that has the name of one of them counts too.
    """
    names = functions(kernel)
    lines = (out_of(kernel) / "System.map").read_text().splitlines()
    symbols = sorted((int(address, 16), name) for address, _, name in map(str.split, lines))
    return [
        range(address, after)
        for (address, name), (after, _) in itertools.pairwise(symbols)
        if name in names
    ]


@dataclass(frozen=True)
class Guest:
    """A guest that counts."""

    m: Machine
    own: Ranges

    def executed(self, arguments: str) -> Executed:
        """What the guest does between the marks of its program, which gets these arguments."""
        counts = self.m.vm.directory / COUNTS
        counts.unlink(missing_ok=True)
        printed = self.m.order(f"/bin/io {arguments}")
        if "io: done" not in printed or not counts.exists():
            raise HarnessError(f"io {arguments}: {printed}")
        return Executed.read(counts)

    def measure(self, logging: bool = False) -> dict[str, dict[str, float]]:
        """The loops, each twice, with the host logging or not; NotExact if the runs differ."""
        idle, out = [spin_loop()], {}
        for name, loop in LOOPS.items():
            execute = self._logged if logging else self.executed
            runs = [execute(loop.arguments) for _ in range(2)]
            counts = {
                "all": [run.total() - run.within(idle) for run in runs],
                "own": [run.within(self.own) for run in runs],
            }
            for what, (one, other) in counts.items():
                if abs(one - other) > SPREAD * max(one, other):
                    raise NotExact(f"two runs of {name} differ: {what} {one} and {other}")
            out[name] = {what: round(sum(n) / len(n) / loop.count, 1) for what, n in counts.items()}
        return out

    def _logged(self, arguments: str) -> Executed:
        """The same with the host logging from the beginning to the end."""
        for _ in range(TRIES):
            if not self.logs():
                self.m.log()
            counted = self.executed(arguments)
            if self.logs():
                return counted
        raise HarnessError(f"io {arguments} takes longer than the host logs, {TRIES} times")

    def logs(self) -> bool:
        """The host wants marks."""
        return bool(self.m.vm.port(PORTS[0], "logging"))

    def address(self, device: str) -> str:
        """The PCI address of what sysfs has in this place."""
        found = re.findall(r"0000:\w\w:\w\w\.\w", self.m.order(f"readlink -f {device}/device"))
        return str(found[-1])

    def check_counter(self) -> None:
        """It counts what is known; and what is wrong would be found."""
        known = self.executed(f"known {KNOWN_ROUNDS}")
        known.expect_known(KNOWN_ROUNDS)
        nothing = self.executed(f"wait {WAIT_MS}")
        nothing.expect_idle([spin_loop()])
        wrongs: tuple[Callable[[], None], ...] = (
            lambda: known.expect_known(KNOWN_ROUNDS + 1),
            lambda: nothing.expect_idle([]),
        )
        for wrong in wrongs:
            try:
                wrong()
            except NotExact as error:
                print(error)
            else:
                raise AssertionError("what is counted wrong is not found")


def _config(
    kernel: str, topology: Topology = ROOT_PORTS, load_module: bool = True, ports: bool = True
) -> VmConfig:
    """Both devices, below the ports or not; then an edu is."""
    config = counting(kernel)
    edu = count.COVERED if ports and topology is UNCOVERED else ()
    return replace(
        config,
        drivers=("e1000e", "nvme"),
        topology=topology,
        load_module=load_module,
        plugins=config.plugins if ports else (),
        disk_kib_per_second=DISK_KIB_PER_SECOND,
        more=("-icount", "shift=0", *edu, "-plugin", f"file={COUNTER},out={COUNTS}"),
    )


def _until(condition: str) -> str:
    return f"until [ {condition} ]; do usleep 100000; done"


@contextlib.contextmanager
def guest(config: VmConfig, name: str) -> Iterator[Guest]:
    """Boots one, with both devices at work."""
    carrier = f"$(cat /sys/class/net/{NIC}/carrier) = 1"
    with machine(config, name) as m, contextlib.closing(Answers(m.vm.directory / "guest.net")):
        m.order(f"ip addr add {GUEST_IP}/24 dev {NIC}; ip link set {NIC} up")
        m.order(f"{_until(carrier)}; {_until(f'-b {DISK}')}; arp -s {HOST_IP} {HOST_MAC}")
        own: Ranges = []
        if config.kernel in BUILT_IN:
            own = built_in_code(config.kernel)
        elif config.kernel not in OURS and config.load_module:
            own = module_code(m, config.kernel)
        yield Guest(m, own)


def _tracked(kernel: str, paths: Paths) -> None:
    """The states in which there is a port, and pvdirty."""
    with guest(_config(kernel, UNCOVERED), f"paths-{kernel}-uncovered") as g:
        g.m.expect_state(g.m.covered_address(), "registered")
        for device in (f"/sys/class/net/{NIC}", "/sys/class/nvme/nvme0"):
            if f"{g.address(device)} " in g.m.order("cat /sys/kernel/debug/pvdirty/devices"):
                raise HarnessError(f"{device} is covered")
        paths["uncovered"] = g.measure()
    with guest(_config(kernel), f"paths-{kernel}") as g:
        nic, disk = g.address(f"/sys/class/net/{NIC}"), g.address("/sys/class/nvme/nvme0")
        paths["off"] = g.measure()
        g.m.expect_state(nic, f"{nic} tracked", f"{disk} tracked", "logging: 0")
        paths["on"] = g.measure(logging=True)
        g.m.expect_state(nic, f"{nic} tracked", f"{disk} tracked", "incomplete: 0x0")
    for name in LOOPS:
        if paths["on"][name]["own"] <= paths["off"][name]["own"]:
            raise HarnessError(f"{name}: nothing is logged")


def measure_module(kernel: str) -> Paths:
    """The states of Debian's kernel."""
    paths: Paths = {}
    with guest(_config(kernel, load_module=False), f"paths-{kernel}-without") as g:
        paths[BASE] = g.measure()
    _tracked(kernel, paths)
    return paths


def measure_built_in(version: str) -> Paths:
    """The states of kernels of one configuration, with CONFIG_PVDIRTY and without."""
    paths: Paths = {}
    without, kernel = f"without-{version}", f"built-in-{version}"
    with guest(_config(without), f"paths-{without}") as g:
        paths[BASE] = g.measure()
    with guest(_config(kernel, UNCOVERED, ports=False), f"paths-{kernel}-no-port") as g:
        paths["no-port"] = g.measure()
    _tracked(kernel, paths)
    return paths


def check_counter() -> None:
    """The counter counts instructions, and no idle ones."""
    with guest(_config("6.1", load_module=False), "paths-counter") as g:
        g.check_counter()


# ---- tables ------------------------------------------------------------------


def percent(paths: Paths, state: str, loop: str) -> float:
    """Which part of all instructions is pvdirty's own."""
    counted = paths[state][loop]
    return 100 * counted["own"] / counted["all"]


def _cell(paths: Paths, state: str, loop: str) -> str:
    counted = paths[state][loop]
    if state == BASE:
        return f"{counted['all']:.0f}"
    return f"{counted['all']:.0f}, {counted['own']:.0f} ({percent(paths, state, loop):.1f} %)"


def rows(paths: Paths) -> list[list[str]]:
    """The table of one kernel, as cells."""
    head = ["instructions of an I/O, pvdirty's own", *(loop.text for loop in LOOPS.values())]
    states = [state for state in STATES if state in paths]
    return [head, *([STATES[s], *(_cell(paths, s, loop) for loop in LOOPS)] for s in states)]


def check(paths: Paths) -> list[str]:
    """How large pvdirty's own part is, in words; AssertionError beyond a limit."""
    lines = []
    for loop, limit in LIMITS.items():
        part = percent(paths, "on", loop)
        if part > limit:
            raise AssertionError(f"{loop}: {part:.1f} % is pvdirty's own, allowed {limit} %")
        goal = "" if limit <= GOAL else f"; the goal was {GOAL} %"
        lines.append(f"{LOOPS[loop].text}, {STATES['on']}: {part:.1f} %, at most {limit} %{goal}")
    return lines
