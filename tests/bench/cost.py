# SPDX-License-Identifier: MIT
"""What tracking costs, in guest instructions: `cost.py CASE` runs a case, see `cost.py --help`.

A result has either states, of loops that call the DMA API, or paths, of whole I/Os.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import count
import paths
from count import BASE, INSERT, LOAD, Counts, NotExact, counting, machine, without_ports

from harness.base import BUILD, HarnessError, say
from harness.ctest import COST_JSON
from harness.linux import BUILT_IN, VERSIONS, out_of
from harness.provision import KERNELS

HERE = Path(__file__).parent
FIGURES = HERE / "cost.json"  # what the document shows
DOCUMENT = HERE / "COST.md"

# The columns: loops of the guest's module.
LOOPS = {
    "pair": "4 KiB, map and unmap",
    "read": "the same, device reads only",
    "sync": "sync for the CPU",
    "large": "64 KiB, map and unmap",
    "list": "list of 16, map and unmap",
}
FRESH = "on-fresh"
# The rows.
STATES = {
    BASE: "without pvdirty",
    "no-port": "no port",
    "uncovered": "device not below a port, another one is",
    "off": "covered, host not logging",
    "on": "covered, host logging, bits set",
    FRESH: "covered, host logging, bits clear",
    "touch": "covered, touching instead of marking",
    "swiotlb": "without pvdirty, `swiotlb=force`",
}
HOOKS = ("__pvdirty_map", "__pvdirty_unmap")  # what a pair calls where they are built in
# Of two runs that bounce or touch: what is done depends on where the page is.
SPREAD = 0.05
States = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Limit:
    """How many instructions a 4 KiB map and unmap may take more than without pvdirty.

    goal: what was aimed at, if that is not reached.
    """

    state: str
    more: int
    goal: int | None = None

    def check(self, states: States) -> str:
        """What it takes, in words; AssertionError beyond the limit."""
        more = added(states, self.state, "pair")
        if more > self.more:
            raise AssertionError(f"{self.state}: {more:+.0f} instructions, allowed {self.more:+}")
        goal = "" if self.goal is None else f"; the goal was {self.goal:+}"
        return f"{STATES[self.state]}: {more:+.0f}, at most {self.more:+}{goal}"


# Of the goals none is reached: STEPS say why.
BUILT_IN_LIMITS = (Limit("no-port", 4, 2), Limit("off", 125, 60), Limit("on", 145, 75))
MODULE_LIMITS = (Limit("uncovered", 0), Limit("off", 120), Limit("on", 120))


# Instructions of both hooks, counted in the listing of STEPS_OF's code: what they do, in
# __pvdirty_map(), in __pvdirty_unmap(), and there while the host is logging.
STEPS_OF = "6.12"
STEPS = (
    ("begin and return", 2, 2, 0),
    ("may the device write it?", 2, 2, 0),
    ("registers saved and restored", 3, 16, 0),
    ("the device's layer", 3, 3, 0),
    ("has it a log, and plain addresses?", 3, 3, 0),
    ("is it in one page?", 6, 6, 0),
    ("the page's window, if it has a section", 12, 13, 0),
    ("is the host logging?", 0, 4, 0),
    ("mark: leaf", 0, 0, 7),
    ("mark: summary", 0, 0, 9),
    ("mark: root", 0, 0, 5),
    ("counter", 8, 8, 0),
    ("counter: summary", 9, 0, 0),
    ("counter: root", 5, 0, 0),
)
CORE_MOST = 20  # instructions in the DMA core itself


def added(states: States, state: str, loop: str) -> float:
    """Instructions that a state adds."""
    if state == FRESH:
        return states["on"]["fresh"] - states[BASE]["fresh"]
    return states[state][loop] - states[BASE][loop]


def _each(counts: Counts) -> dict[str, float]:
    return {name: round(loop.each, 2) for name, loop in counts.items()}


# ---- measuring ---------------------------------------------------------------


def _covered(m: count.Machine, states: States) -> None:
    """The states of a guest with a covered device that has its driver, and one that has no port."""
    address = m.covered_address()
    m.expect_state(address, "registered", f"{address} tracked", "logging: 0")
    states["uncovered"] = _each(m.measure(count.UNCOVERED_ADDRESS))
    states["off"] = _each(m.measure(address))
    m.log()
    m.expect_state(address, f"{address} tracked", "logging: 1")
    states["on"] = _each(m.measure(address))
    m.expect_state(address, f"{address} tracked", "logging: 1", "incomplete: 0x0")


def _touch(kernel: str, load: str, states: States) -> None:
    config = replace(counting(kernel), port_options=",bitmap=off,inflight=off")
    with machine(config, f"cost-{kernel}-touch") as m:
        m.order(f"{load}; {INSERT}")
        address = m.covered_address()
        m.expect_state(address, "registered touch")
        states["touch"] = _each(m.measure(address, SPREAD))


def _swiotlb(kernel: str, states: States) -> None:
    config = replace(without_ports(counting(kernel)), kernel_options="swiotlb=force")
    with machine(config, f"cost-{kernel}-swiotlb") as m:
        m.order(INSERT)
        states["swiotlb"] = _each(m.measure(count.UNCOVERED_ADDRESS, SPREAD))


def _code(kernel: str) -> dict[str, list[str]]:
    """The instructions of the hooks that a pair calls, as this kernel was compiled; with offsets."""
    hooks = out_of(kernel) / "kernel" / "dma" / "pvdirty" / "guest" / "hooks.o"
    argv = ["objdump", "-d", "--no-show-raw-insn", hooks]
    text = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for name in HOOKS:
        code = re.search(rf"^(\w+) <{name}>:\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        if not code:
            raise HarnessError(f"no {name} in {hooks}")
        lines = re.findall(r"^ *(\w+):\t(.*?) *$", code[2], re.MULTILINE)
        begin = int(code[1], 16)
        found[name] = [f"{int(at, 16) - begin:3x}  {instruction}" for at, instruction in lines]
    return found


def measure_module(kernel: str) -> States:
    """The states of Debian's kernel; without pvdirty is before the module is loaded."""
    states: States = {}
    with machine(counting(kernel), f"cost-{kernel}") as m:
        m.order(INSERT)
        states[BASE] = _each(m.measure(count.UNCOVERED_ADDRESS))
        m.order(f"rmmod dma_cost; {LOAD}; {INSERT}")
        _covered(m, states)
    _touch(kernel, LOAD, states)
    _swiotlb(kernel, states)
    return states


def measure_built_in(version: str) -> States:
    """The states of kernels of one configuration, with CONFIG_PVDIRTY and without."""
    states: States = {}
    without, kernel = f"without-{version}", f"built-in-{version}"
    for name, state in ((without, BASE), (kernel, "no-port")):
        with machine(without_ports(counting(name)), f"cost-{name}") as m:
            m.order(INSERT)
            states[state] = _each(m.measure(count.UNCOVERED_ADDRESS))
    with machine(counting(kernel), f"cost-{kernel}") as m:
        m.order(INSERT)
        _covered(m, states)
    _touch(kernel, ":", states)
    _swiotlb(without, states)
    return states


# ---- tables ------------------------------------------------------------------


def _cell(states: States, state: str, loop: str) -> str:
    if state == FRESH and loop != "pair":
        return ""
    total = states["on"]["fresh"] if state == FRESH else states[state][loop]
    return f"{total:.0f}" if state == BASE else f"{total:.0f} ({added(states, state, loop):+.0f})"


def _loop_rows(states: States) -> list[list[str]]:
    out = [["instructions of a call", *LOOPS.values()]]
    for state, text in STATES.items():
        if state in states or state == FRESH:
            out.append([text, *(_cell(states, state, loop) for loop in LOOPS)])
    return out


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table of one kernel, as cells."""
    return paths.rows(result["paths"]) if "paths" in result else _loop_rows(result["states"])


def table(cells: list[list[str]]) -> str:
    """For a terminal."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *rest]))
    return "\n".join(lines)


NOTES = """\
## Not measured yet

The hook built into 6.1 (`cost.py built-in-6.1`), and whole I/Os on 6.12 and with the hook \
(`paths-6.12`, `paths-built-in-6.1`, `paths-built-in-6.12`).
"""


def _steps(states: States) -> list[str]:
    """Where the instructions of a pair are; AssertionError if the listing is another one."""
    by_part = [sum(step[part] for step in STEPS) for part in (1, 2, 3)]
    more = added(states, "off", "pair"), added(states, "on", "pair")
    core = more[0] - by_part[0] - by_part[1]
    if not 0 <= core <= CORE_MOST or more[1] - more[0] != by_part[2]:
        raise AssertionError(f"STEPS are not of this code: {core:+.0f} in the DMA core")
    return [
        "",
        "| | map | unmap | unmap, logging |",
        "|---|---:|---:|---:|",
        *(f"| {what} | {m} | {u} | {u + on} |" for what, m, u, on in STEPS),
        f"| sum | {by_part[0]} | {by_part[1]} | {by_part[1] + by_part[2]} |",
        "",
        f"The rest, {core:.0f}, is in the DMA core: jumps where no-ops were, arguments, calls. "
        "The goals leave 30 instructions for each hook. That is less than it takes to tell a page "
        "that is described from one that is not, which must not go unnoticed, and to raise or "
        "lower its counter by a locked exchange that neither wraps nor loses an underflow, once it "
        "is known that this mapping is to be tracked. Both levels above a counter must be looked "
        "at each time, since the host clears them when it prunes. Unmapping comes before the "
        "core's own work, so it saves for the core what it uses.",
    ]


def _title(result: dict[str, Any]) -> str:
    how = "pvdirty as a module" if result["how"] == "module" else "pvdirty built in"
    what = ": whole I/Os" if "paths" in result else ""
    return f"Linux {result['release']}, {how}{what}"


def check(result: dict[str, Any]) -> list[str]:
    """What has a limit, in words; AssertionError beyond one."""
    if "paths" in result:
        return paths.check(result["paths"])
    limits = MODULE_LIMITS if result["how"] == "module" else BUILT_IN_LIMITS
    return [limit.check(result["states"]) for limit in limits]


HEAD = """\
<!-- Generated by tests/bench/cost.py --document from cost.json; do not edit. -->
# What tracking costs

Guest instructions of one call of the DMA API, or of a pair of calls; in brackets what is more \
than without pvdirty. The guest runs under QEMU's `-icount shift=0,sleep=off`, where the time \
stamp counter counts one for each instruction, so the figures are exact: each loop runs twice, \
and both runs must take the same number. Ten instructions more must count as ten, and without \
`-icount` that check must fail. They are figures of these kernels and compilers, not times: a \
locked exchange counts like any other instruction, and each step of a string move as one. Where \
pages are touched or bounced, two runs may differ by up to 5 %, since it depends on where they \
are; the figure is the mean.

The first column is `dma_map_single()` and `dma_unmap_single()` of a page that the device writes. The loops \
are in [guest/dma_cost.c](guest/dma_cost.c); `./check bench` measures Debian's 6.1, with `--full` \
6.12 too.

Whole I/Os, from the system call of a program to its return, are counted by a plug-in of TCG, \
[executed.c](executed.c), by the address of each instruction: so it is also known which are in \
pvdirty's code. Of the module these stand in part for some of the DMA core's. Idle time does not \
count: while the program waits, another one runs, whose loop is left out. The reads go past the page \
cache, a frame carries a UDP datagram, and the program is [guest/io.c](guest/io.c). How often an \
interrupt comes differs, so two runs may differ by 10 %; the figure is the mean. `./check bench \
--full` measures them. Frames of a stream share an interrupt, a wake-up and a poll, so of each not \
much more is left than its mapping and its way through UDP: there the goal of 2 % is not reached.
"""
SAID = {False: "For a pair, more than without pvdirty:", True: "pvdirty's own part of an I/O:"}


def _listing(code: dict[str, list[str]]) -> list[str]:
    lines = []
    for name, instructions in code.items():
        lines += ["", f"<details><summary>{name}()</summary>", "", "```"]
        lines += [*instructions, "```", "</details>"]
    return lines


def document(results: list[dict[str, Any]]) -> str:
    """The figures for people, in Markdown."""
    parts = [HEAD]
    for result in results:
        cells = rows(result)
        lines = [f"## {_title(result)}", "", f"Compiled with {result['compiler']}.", ""]
        lines += ["| " + " | ".join(cells[0]) + " |", "|---" + "|---:" * (len(cells[0]) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in cells[1:]]
        lines += ["", SAID["paths" in result], "", *(f"- {line}" for line in check(result))]
        if "code" in result and result["release"].startswith(STEPS_OF):
            lines += _steps(result["states"])
        lines += _listing(result.get("code", {}))
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, NOTES])


# ---- cases -------------------------------------------------------------------


def _compiler() -> str:
    done = subprocess.run(["gcc-12", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[0]


@dataclass(frozen=True)
class Subject:
    """What a case measures, and on which kernel."""

    kernel: str
    how: str
    what: str  # the key of its figures in a result
    measure: Callable[[], Any]

    def result(self) -> dict[str, Any]:
        """Measures it."""
        release = (BUILD / "kernels" / self.kernel / ".stamp").read_text()
        out = {"how": self.how, "release": release, "compiler": _compiler()}
        if self.kernel in BUILT_IN and self.what == "states":
            out["code"] = _code(self.kernel)
        return out | {self.what: self.measure()}


def _subjects() -> dict[str, Subject]:
    out = {}
    for v in sorted(KERNELS):
        out[f"module-{v}"] = Subject(v, "module", "states", partial(measure_module, v))
        out[f"paths-{v}"] = Subject(v, "module", "paths", partial(paths.measure_module, v))
    for v in VERSIONS:
        name = f"built-in-{v}"
        out[name] = Subject(name, "built in", "states", partial(measure_built_in, v))
        measure = partial(paths.measure_built_in, v)
        out[f"paths-{name}"] = Subject(name, "built in", "paths", measure)
    return out


MEASURED = _subjects()


def _measure(name: str) -> None:
    result = MEASURED[name].result()
    print(f"{_title(result)}, instructions:\n{table(rows(result))}")
    COST_JSON.mkdir(parents=True, exist_ok=True)
    (COST_JSON / f"{name}.json").write_text(json.dumps(result))
    print("\n".join(check(result)))


def _document() -> None:
    """The document is what the figures say, and a figure beyond its limit is found."""
    results = json.loads(FIGURES.read_text())
    if DOCUMENT.read_text() != document(results):
        raise AssertionError("COST.md is not what cost.json says")
    for result in results:
        if "paths" in result:
            read = result["paths"]["on"]["read"]
            read["own"] = read["all"]
        else:
            result["states"]["on"]["pair"] += 1000
        try:
            check(result)
        except AssertionError as error:
            print(error)
        else:
            raise AssertionError(f"{_title(result)}: a figure beyond its limit is not found")


def _clock() -> None:
    """A clock that does not count instructions is found out."""
    config = replace(without_ports(counting("6.1")), more=count.ALLOWED)
    with machine(config, "cost-clock") as m:
        m.order(INSERT)
        try:
            m.measure(count.UNCOVERED_ADDRESS)
        except NotExact as error:
            print(error)
        else:
            raise AssertionError("a clock of real time is taken for one of instructions")


def _keep(names: list[str]) -> None:
    """Puts figures that were measured here into cost.json, and writes the document."""
    kept = {_title(r): r for r in json.loads(FIGURES.read_text())} if FIGURES.exists() else {}
    for name in names:
        result = json.loads((COST_JSON / f"{name}.json").read_text())
        kept[_title(result)] = result
    order = sorted(kept.values(), key=lambda r: (r["how"] != "module", r["release"], "paths" in r))
    FIGURES.write_text(json.dumps(order, indent=1) + "\n")
    DOCUMENT.write_text(document(order))


def main() -> int:
    """Exit code of the program."""
    cases: dict[str, Callable[[], None]] = {
        "document": _document,
        "clock": _clock,
        "counter": paths.check_counter,
    }
    cases |= {name: partial(_measure, name) for name in MEASURED}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", choices=cases)
    parser.add_argument("--document", action="store_true", help="write COST.md from cost.json")
    parser.add_argument(
        "--keep", nargs="+", default=[], choices=MEASURED, metavar="CASE",
        help="first put into cost.json what these cases have measured here",
    )
    options = parser.parse_args()
    if options.document:
        _keep(options.keep)
        return 0
    if not options.case:
        parser.error("a case, or --document")
    try:
        cases[options.case]()
    except (AssertionError, HarnessError) as error:
        say(f"cost: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
