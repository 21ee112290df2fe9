# SPDX-License-Identifier: MIT
"""One QEMU with our guest in it."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from . import guest_image
from .base import BUILD, EXIT_FAILED, EXIT_TIMEOUT, HarnessError, die_with_parent, kill_group
from .devices import DISK, DRIVERS, NET, Driver, back_end, comma
from .qmp import Qmp, QmpClosed, QmpSilent, connect_unix
from .topology import ROOT_PORTS, Topology

PLUGIN = BUILD / "host" / "libpvdirty-qemu.so"

# A message of the plug-in, without the option that QEMU puts before it; or one
# of QEMU's own about the plug-in's part of a migration stream.
_OURS = re.compile(r"\bpvdirty(?:-[\w-]+)?: .*|.*'pvdirty'.*")


# With a thread for each vCPU, QEMU 7.2 reads the code that a vCPU translates before it protects it,
# and misses what another vCPU writes to it meanwhile: now and then a CPU of the guest stands still,
# or goes on in the midst of a jump that the kernel patches (a panic, 2 of 26 boots of 6.12 with
# four vCPUs without plug-in, device and module, on a busy machine). It also crashes when a guest
# numbers its PCI devices: tcg_commit() against a vCPU that has not flushed its TLB yet.
_ACCELERATORS = {"tcg": "tcg,thread=single", "kvm": "kvm"}


@dataclass(frozen=True)
class VmConfig:
    """What differs between VMs; the same for source and destination of a run."""

    kernel: str = "6.1"
    drivers: tuple[str, ...] = ("e1000e", "virtio-blk")
    memory_bytes: int = 512 << 20
    memory_options: str = ""  # of -m, ",name=value..."
    cpus: int = 2
    accel: str = "tcg"
    qemu: str = "qemu-system-x86_64"
    topology: Topology = ROOT_PORTS
    disk_to_come: bool = False  # there is a disk, which waits for its device
    load_module: bool = True
    # A test speaks to the guest: Vm.order(). QEMU survives reboot and power-off.
    control: bool = False
    kernel_options: str = ""
    initrd: Path | None = None  # instead of the kernel's own
    port_options: str = ""  # more properties of the ports, ",name=value..."
    plugin_options: str = ""  # more arguments of the plug-ins, likewise
    more: tuple[str, ...] = ()  # arguments between the ports and the devices
    disk_kib_per_second: int = 6144
    disk_writes: bool = True
    cpu_pages_per_second: int = 300
    work: bool = True  # the guest has a workload
    plugins: tuple[Path, ...] = (PLUGIN,)
    sandbox: str = "off"

    def workload(self) -> str:
        """The guest program's arguments; none: it does not run."""
        if not self.work:
            return ""
        words = [f"cpu={self.cpu_pages_per_second}"]
        if disk := self.driver(DISK):
            only = "" if self.disk_writes else ":ro"
            words.append(f"disk={disk.path}:{2 * self.disk_kib_per_second}{only}")
        if self.driver(NET):
            words.append("net=eth0")
        return ",".join(words)

    def driver(self, kind: str) -> Driver | None:
        """The VM's NIC or disk, if it has one."""
        return next((DRIVERS[d] for d in self.drivers if DRIVERS[d].kind == kind), None)

    def command_line(self, name: str, disk: Path, incoming: bool) -> list[str]:
        """QEMU's arguments; sockets and logs are relative to the run's directory."""
        kernel = BUILD / "kernels" / self.kernel
        devices = [d for kind in (NET, DISK) if (d := self.driver(kind))]
        append = [
            # On a busy machine the timer may come too late for the kernel's test of it.
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check",
            f"demo.pvdirty={int(self.load_module)} demo.load={self.workload()}",
            f"demo.drivers={','.join(self.drivers)}",
            f"demo.control={int(self.control)} {self.kernel_options}",
        ]
        # With kvmclock a destination's KVM writes the wall clock anew while the state is loaded, so
        # that one page differs (tests/nested/pvclock.py).
        cpu = "host,-kvmclock" if self.accel == "kvm" else "qemu64"
        argv = [self.qemu]
        for plugin in self.plugins:
            argv += ["-plugin", f"file={comma(plugin)}{self.plugin_options}"]
        argv += ["-sandbox", self.sandbox]
        machine = f"{self.topology.machine},memory-backend=m0"
        argv += ["-machine", machine, "-accel", _ACCELERATORS[self.accel], "-cpu", cpu]
        argv += self.topology.options
        argv += ["-object", f"memory-backend-memfd,id=m0,size={self.memory_bytes},share=on"]
        argv += ["-m", f"{self.memory_bytes}b{self.memory_options}", "-smp", str(self.cpus)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-no-shutdown" if self.control else "-no-reboot"]
        argv += ["-kernel", str(kernel / "vmlinuz")]
        initrd = self.initrd or guest_image.initrd(self.kernel)
        argv += ["-initrd", str(initrd), "-append", " ".join(append)]
        argv += ["-serial", f"file:{name}.serial", "-qmp", f"unix:{name}.qmp,server=on,wait=off"]
        if self.control:
            argv += ["-serial", f"unix:{name}.control,server=on,wait=off"]
        self.topology.make_files()
        if self.plugins:
            argv += self.topology.ports(self.port_options)
        argv += [*self.topology.between, *self.more]
        for device in devices:
            argv += back_end(device.kind, name, disk, self.disk_kib_per_second << 10)
            argv += device.arguments(self.topology.buses[device.kind])
        if self.disk_to_come:
            argv += back_end(DISK, name, disk, self.disk_kib_per_second << 10)
        if incoming:
            argv += ["-incoming", "unix:migrate", "-S"]
        return argv


@dataclass
class GuestLoad:
    """One line of the guest's workload: its totals."""

    values: dict[str, int] = field(default_factory=dict)

    @property
    def io_bytes(self) -> int:
        """Bytes that devices have moved."""
        return self.values.get("disk_bytes", 0) + self.values.get("net_bytes", 0)

    @property
    def errors(self) -> int:
        """Data that was not what it had to be."""
        return self.values.get("errors", 0)


class GuestError(HarnessError):
    """QEMU or the guest in it ended, or does not get on."""


class Vm:
    """A running QEMU. A context manager: leaving it kills QEMU."""

    def __init__(self, name: str, argv: list[str], directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.starts = 0
        self._argv = argv
        self._qmp: Qmp | None = None
        self._control: socket.socket | None = None
        self._start()

    def _start(self) -> None:
        self.starts += 1
        with self.log.open("wb") as log:
            try:
                self.process = subprocess.Popen(
                    self._argv,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent(),
                )
            except OSError as error:
                raise HarnessError(
                    f"cannot run {self._argv[0]} ({os.strerror(error.errno)}): install Debian's "
                    "qemu-system-x86, or name a QEMU 7.2 with --qemu"
                ) from error
        try:
            self._qmp = Qmp(self.directory / f"{self.name}.qmp", self.alive)
        except QmpClosed as error:
            self.kill()
            code = EXIT_TIMEOUT if isinstance(error, QmpSilent) else EXIT_FAILED
            raise GuestError(self.complaint() or str(error), code) from error
        except BaseException:
            self.kill()
            raise

    def start_anew(self) -> None:
        """Ends QEMU, and runs it again with the same arguments."""
        self.kill()
        self._start()

    def __enter__(self) -> "Vm":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def log(self) -> Path:
        """What QEMU itself printed."""
        return self.directory / f"{self.name}.log"

    @property
    def serial(self) -> str:
        """What the guest printed so far."""
        try:
            return (self.directory / f"{self.name}.serial").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def console(self) -> str:
        """What the guest printed since a kernel of it last came to life."""
        return self.serial.rpartition("PVDIRTY init")[2]

    def order(self, line: str) -> None:
        """Has the guest's process 1 carry out a line of shell, if the configuration says so."""
        # It stays open: QEMU drops what it has not read when the other side hangs up.
        if not self._control:
            self._control = connect_unix(self.directory / f"{self.name}.control")
        self._control.sendall(line.encode() + b"\n")

    def alive(self) -> bool:
        """Is QEMU still running?"""
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends QEMU at once."""
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if self._control:
            self._control.close()
            self._control = None
        kill_group(self.process)

    def _log_lines(self) -> list[str]:
        """QEMU's errors, without its name."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        lines = [re.sub(r"^\S*qemu-system\S*: ", "", line) for line in lines if line]
        # A warning may follow the option that it is about.
        return [line for line in lines if not re.match(r"(?:-\w.*?: )?(?:info|warning): ", line)]

    def how_it_ended(self) -> str:
        """For a VM that is not alive: its own words, or what there is to say."""
        code = self.process.returncode
        return (
            self.guest_trouble()
            or self.complaint()
            or (f"killed by signal {-code}" if code < 0 else f"exit code {code}, no message")
        )

    def messages(self) -> list[str]:
        """The plug-in's errors, each once."""
        found = [match.group() for line in self._log_lines() if (match := _OURS.search(line))]
        return list(dict.fromkeys(found))

    def complaint(self) -> str:
        """QEMU's own words in one line: the plug-in's, else the last."""
        return "; ".join(self.messages() or self._log_lines()[-1:])

    def call(self, command: str, /, **arguments: Any) -> Any:
        """A QMP command."""
        if not self._qmp:
            raise QmpClosed("QEMU is not running")
        return self._qmp.call(command, **arguments)

    def port(self, name: str, prop: str) -> Any:
        """A property of a port, by QOM."""
        return self.call("qom-get", path=f"/machine/peripheral/{name}", property=prop)

    def load(self) -> GuestLoad:
        """The workload's last complete line."""
        lines = re.findall(r"PVDIRTY io (.*)\r?\n", self.console)
        if not lines:
            return GuestLoad()
        return GuestLoad({k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", lines[-1])})

    def guest_trouble(self) -> str:
        """What the guest says when it cannot go on, or ""."""
        found = re.search(r"PVDIRTY fatal .*|Kernel panic.*", self.console)
        return found.group().strip() if found else ""

    def wait(
        self, what: str, condition: Callable[[], bool], timeout: float, tick: Callable[[], None]
    ) -> None:
        """Waits for something that this VM's guest does.

        A timeout, or a guest or QEMU that fails meanwhile, is an error.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.alive():
                raise GuestError(
                    f"{self.name}: QEMU ended while waiting for {what}: {self.how_it_ended()}"
                )
            if trouble := self.guest_trouble():
                raise GuestError(f"{self.name}: while waiting for {what}: {trouble}")
            if time.monotonic() > deadline:
                raise GuestError(
                    f"{self.name}: no {what} in {timeout:.0f} s", EXIT_TIMEOUT
                )
            tick()
            time.sleep(0.1)
