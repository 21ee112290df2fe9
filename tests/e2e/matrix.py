# SPDX-License-Identifier: MIT
"""The matrix: `matrix.py NAME` runs a cell of matrix.toml, --list names them, --document shows them."""

import contextlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moving import Migration, MovingGuest, moving
from support import expect, main

from harness.devices import DRIVERS
from harness.vm import VmConfig

TABLE = Path(__file__).with_name("matrix.toml")
DOCUMENT = Path(__file__).with_name("MATRIX.md")
CONTROL = "-control"

MAPPINGS: dict[str, dict[str, Any]] = {
    "direct": {},
    # Every mapping is bounced: the device writes a slot, the CPU copies from it.
    "swiotlb": {"kernel_options": "swiotlb=force", "memory_bytes": 384 << 20},
}


@dataclass(frozen=True)
class Cell:
    """A line of the table."""

    values: Mapping[str, Any]  # of each axis
    long: bool
    control: str  # "default" or "long"

    @property
    def name(self) -> str:
        """The values that are not the axis's first, the driver's in any case."""
        v = self.values
        words = [v["driver"]]
        words += [v["mapping"]] if v["mapping"] != "direct" else []
        words += [v["policy"]] if v["policy"] != "keep" else []
        words += [f"{v['cpus']}-cpus"] if v["cpus"] != 2 else []
        words += [v["kernel"]] if v["kernel"] != "6.1" else []
        return "-".join(words)

    def config(self) -> VmConfig:
        """The VMs of the cell."""
        values = {"memory_bytes": 256 << 20} | MAPPINGS[self.values["mapping"]]
        return VmConfig(
            kernel=self.values["kernel"],
            drivers=(self.values["driver"],),
            cpus=self.values["cpus"],
            control=self.values["policy"] == "unplug",
            **values,
        )


def read(text: str) -> list[Cell]:
    """The cells of a table. What is wrong with it is a ValueError."""
    table = tomllib.loads(text)
    axes: dict[str, list[Any]] = table["axes"]
    cells = []
    for line in table["cell"]:
        unknown = set(line) - set(axes) - {"long", "control"}
        if unknown:
            raise ValueError(f"no axis is called {' or '.join(sorted(unknown))}")
        values = {axis: line.get(axis, known[0]) for axis, known in axes.items()}
        for axis, value in values.items():
            if value not in axes[axis]:
                raise ValueError(f"{value} is no value of {axis}")
        if line.get("control") not in ("default", "long"):
            raise ValueError(f"a cell of {values['driver']} does not say when its control runs")
        cells.append(Cell(values, line.get("long", False), line["control"]))
    names = [cell.name for cell in cells]
    if len(set(names)) != len(names):
        raise ValueError("two cells have the same values")
    for axis, known in axes.items():
        in_default = {cell.values[axis] for cell in cells if not cell.long}
        if missing := [str(v) for v in known if v not in in_default]:
            raise ValueError(f"no default cell has the {axis} {', '.join(missing)}")
    pairs = {(cell.values["driver"], cell.values["mapping"]) for cell in cells}
    for driver in axes["driver"]:
        for mapping in axes["mapping"]:
            if (driver, mapping) not in pairs:
                raise ValueError(f"no cell has the driver {driver} with the mapping {mapping}")
    for cell in cells:
        if not DRIVERS[cell.values["driver"]].migratable and cell.values["policy"] == "keep":
            raise ValueError(f"QEMU cannot save the state of {cell.values['driver']}")
    return cells


def _without_device(driver: str, argv: list[str]) -> list[str]:
    """A destination that starts without the device, and keeps what is behind it."""
    ours = {argument for argument in DRIVERS[driver].arguments("rp0")[1::2]}
    ours |= {argument for argument in DRIVERS[driver].arguments("rp1")[1::2]}
    out: list[str] = []
    for word in argv:
        if word in ours:
            out.pop()  # its -device
        else:
            out.append(word)
    return out


def _ask(guest: MovingGuest, name: str) -> Any:
    return guest.source.call("qom-get", path="/pvdirty", property=name)


def _judge(guest: MovingGuest, cell: Cell) -> None:
    """Nothing is lost; or, in a control, the judges see what is missing.

    The CPU writes a slot too, when it maps, so a bounced page is sent soon after the device wrote
    it, and lost in some runs only. But what nobody reported, the oracle has seen in each.
    """
    if not guest.blind:
        guest.judge()
        return
    found = guest.compare()
    expect(found["x-oracle-uncovered"] > 0, "the oracle saw nothing uncovered: it proves nothing")
    if cell.values["mapping"] == "direct":
        expect(found["pages_lost"] > 0, "nothing is lost: the judge proves nothing")


def _migrate_unplugging(guest: MovingGuest, cell: Cell) -> None:
    """The device works until the rest would fit, goes, and another one comes at the destination."""
    driver = cell.values["driver"]
    device = DRIVERS[driver].id
    guest.receive(change=lambda argv: _without_device(driver, argv))
    again = _ask(guest, "devices")[0]["device-add"]
    guest.source.call("qom-set", path="/pvdirty", property="hold-for", value=device)
    migration = guest.migration()
    asked = False
    while not migration.over():
        if not asked and migration.long_enough() and _ask(guest, "converged"):
            expect(_ask(guest, "holding"), "converged, and nothing holds the end")
            expect(migration.status == "active", "it ends with the device still there")
            guest.source.call("device_del", id=device)
            asked = True
    complaint = guest.source.complaint()
    expect(migration.status == "completed", f"{migration.info} {complaint}")
    expect(asked, "it ended before the device was asked to go")
    expect(_ask(guest, "devices") == [], "it ended before the device was gone")
    _judge(guest, cell)
    if guest.blind:
        return
    destination = guest.destination
    assert destination
    destination.call("cont")
    destination.call("device_add", **again)
    destination.wait(
        "tracked device at the destination",
        lambda: destination.port("rp0", "complete") is True
        and destination.call("qom-get", path="/pvdirty", property="devices")[0]["tracked"],
        60,
        lambda: guest.progress.show("replacement"),
    )


def _migrate_keeping(guest: MovingGuest, cell: Cell) -> None:
    guest.receive()
    guest.migration(may_end=Migration.long_enough).run()
    _judge(guest, cell)
    if not guest.blind:
        guest.go_on()


def run_cell(cell: Cell, control: bool) -> None:
    """One migration; the control is the same without the guest's module and with a blind host."""
    with moving("off" if control else "log", cell.config()) as guest:
        if cell.values["policy"] == "unplug":
            _migrate_unplugging(guest, cell)
        else:
            _migrate_keeping(guest, cell)


def document(cells: list[Cell]) -> str:
    """The table for people."""
    axes = list(cells[0].values)
    lines = [
        "<!-- Generated by tests/e2e/matrix.py --document; do not edit. -->",
        "# The matrix",
        "",
        "Each line of `matrix.toml` is a migration under load of a guest whose device QEMU's dirty "
        "log cannot see. Every byte of both sides is compared, the oracle must have seen nothing "
        "uncovered, and the guest goes on at the destination and finds its data. Its control is the "
        "same without the guest's module: it must lose pages (with swiotlb: leave pages uncovered, since "
        "the CPU writes the slots too). `default` runs with `./check`, `full` "
        "with `./check --full`.",
        "",
        f"| cell | {' | '.join(axes)} | runs | control |",
        "|---" * (len(axes) + 3) + "|",
    ]
    for cell in cells:
        values = " | ".join(str(v) for v in cell.values.values())
        runs = "full" if cell.long else "default"
        control = "full" if cell.control == "long" else "default"
        lines.append(f"| {cell.name} | {values} | {runs} | {control} |")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _refused(words: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        expect(words in str(error), f"refused for another reason: {error}")
    else:
        raise AssertionError(f"a table is taken that should be refused: {words}")


def check_table() -> None:
    """The table has what it must, the document is the table, and neither is taken on trust."""
    text = TABLE.read_text()
    cells = read(text)
    expect(DOCUMENT.read_text() == document(cells), "MATRIX.md is not what matrix.toml says")
    with _refused("no default cell has the driver rtl8139"):
        read(text.replace('"nvme"]', '"nvme", "rtl8139"]'))
    with _refused("no default cell has the cpus 8"):
        read(text.replace("[2, 1, 4]", "[2, 1, 4, 8]"))
    with _refused("is no value of kernel"):
        read(text.replace('kernel = "6.12"', 'kernel = "5.10"', 1))
    with _refused("no axis is called colour"):
        read(text.replace("cpus = 4\n", "cpus = 4\ncolour = 1\n", 1))
    with _refused("does not say when its control runs"):
        read(text.replace('control = "default"\n', "", 1))
    with _refused("no cell has the driver xhci with the mapping swiotlb"):
        read(text.replace('driver = "xhci"\nmapping = "swiotlb"', 'driver = "xhci"\ncpus = 4'))
    with _refused("two cells have the same values"):
        read(text + '\n[[cell]]\ndriver = "virtio-net"\ncontrol = "long"\n')
    with _refused("cannot save the state of nvme"):
        read(text + '\n[[cell]]\ndriver = "nvme"\ncontrol = "long"\n')


def _cases(cells: list[Cell]) -> dict[str, Any]:
    cases: dict[str, Any] = {"table": check_table}
    for cell in cells:
        cases[cell.name] = lambda cell=cell: run_cell(cell, control=False)
        cases[cell.name + CONTROL] = lambda cell=cell: run_cell(cell, control=True)
    return cases


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(" table")
        for c in read(TABLE.read_text()):
            print(f"{'*' if c.long else ' '}{c.name}")
            print(f"{'*' if c.control == 'long' else ' '}{c.name}{CONTROL}")
    elif sys.argv[1:] == ["--document"]:
        print(document(read(TABLE.read_text())), end="")
    else:
        sys.exit(main(_cases(read(TABLE.read_text()))))
