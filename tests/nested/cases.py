# SPDX-License-Identifier: MIT
"""Cases with real KVM and VFIO: `cases.py NAME`; ctest runs them one at a time."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

import costs  # noqa: E402
from runs import KEYS as DEMO_KEYS  # noqa: E402
from support import BUILD, demo, expect, main  # noqa: E402

from harness.base import EXIT_FAILED, EXIT_TIMEOUT, HarnessError, die_with_parent  # noqa: E402
from harness.guest_image import test_module  # noqa: E402
from harness.run import MODES  # noqa: E402
from inner import Wrong, with_second_try  # noqa: E402

HERE = Path(__file__).parent
RUN = HERE / "run"
INSIDE = HERE / "inside"
CONFORMANCE = HERE / "conformance"
PROGRAMS = BUILD / "host" / "tests"


def _run(*args: str) -> tuple[int, str]:
    """Exit code and output of tests/nested/run."""
    done = subprocess.run(
        [RUN, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent(),
        check=False,
    )
    print(f"$ {RUN} {' '.join(args)}  -> {done.returncode}\n{done.stdout}", flush=True)
    return done.returncode, done.stdout


def _script(
    drivers: str, name: str, *args: str, timeout: int = 400, run_options: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs a script of ours inside, which must succeed; what it leaves in runs.json, if it does.

    It finds two devices of each kind. If anything fails, what its VMs said is shown. An outer VM
    that stands still or crashes (README.md) gets one more try, but not after a page was lost. For
    the guests inside, see inner.with_second_try().
    """
    devices = [word for kind in drivers.split("+") for word in 2 * ["--device", kind]]
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        options = ["--timeout", str(timeout), "--results", scratch, *run_options, *devices]
        code, out = _run(*options, str(HERE / name), *args)
        if gets_second_try(code, out):
            print("the outer VM STOOD STILL: once more", flush=True)
            code, out = _run(*options, str(HERE / name), *args)
        if code or "STOOD STILL" in out:
            for path in sorted(Path(scratch).glob("*-*")):
                print(f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}", flush=True)
        expect(code == 0, f"exit code {code}")
        runs = Path(scratch, "runs.json")
        rows: dict[str, Any] = json.loads(runs.read_text()) if runs.exists() else {}
        return rows


def gets_second_try(code: int, out: str) -> bool:
    """Did the outer VM itself fail, as run says, and no page was lost before?"""
    return code != 0 and "tests/nested/run: the outer VM " in out and "pages are lost" not in out


def runner() -> None:
    """A script's output and exit code, what it finds, and that it cannot spoil the host's files."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        devices = ["--device", "nvme", "--device", "e1000e"]
        code, out = _run(*devices, "--results", scratch, str(INSIDE), "7")
        expect(code == 7, f"exit code {code}, not the script's")
        expect(Path(scratch, "result").read_text() == "7\n", "its result does not come back")
    lines = out.splitlines()
    expect("kvm 1" in lines, "no KVM on its CPU")
    for device in ("0000:00:10.0 0x1b36", "0000:00:11.0 0x8086"):
        expect(f"device {device} alone 1" in lines, f"{device} is not alone in an IOMMU group")
    expect("writable tmp " in lines, "what can be written is not /tmp alone")
    code, out = _run("--timeout", "1", str(INSIDE), "0")
    expect(code == 4 and "took more than 1 s" in out, "a VM that takes too long is not told")
    code, out = _run("/no/such/script")
    expect(code == 2, "a script that is not there")


def _conformance(kernel: str) -> None:
    """The kernel's type1 container, and our source on it, answer as the tables have it.

    Without a page they do not.
    """
    program = PROGRAMS / "conformance" / "type1-conformance"
    code, out = _run("--kernel", kernel, "--device", "nvme", str(CONFORMANCE), str(program))
    expect(code == 0, f"exit code {code}")
    lines = out.splitlines()
    expect(any(line.startswith(f"Linux {kernel}") for line in lines), "another kernel")
    ran = re.findall(r"^(\d+) rows, (\d+) differ$", out, re.MULTILINE)
    expect(len(ran) == 2 and ran[0][0] == ran[1][0], f"not all rows ran twice: {ran}")
    expect("code 0" in lines and ran[0][1] == "0", f"{ran[0][1]} rows differ")
    expect("control's code 1" in lines, "the control's code")
    for row in ("003 GET: ", "container: a read: "):
        found = any(line.startswith(f"DIFFERS {row}") for line in lines)
        expect(found, f"the control is not found by {row}")


def _migrations(*args: str, drivers: str = "nvme", modes: str = "log") -> None:
    """Each mode once; said again, apart from the script's judge, what has to come out."""
    options = ["--driver", drivers, "--mode", modes, *args]
    seconds = 150 + 250 * len(modes.split(","))  # a third of it where nothing else runs
    out = _script(drivers, "migrate.py", *options, timeout=seconds)
    expect(out["failures"] == [], f"failures: {out['failures']}")
    expect([r["mode"] for r in out["runs"]] == modes.split(","), "not every mode has a row")
    for row in out["runs"]:
        lost = row["pages_lost"]
        expect((lost > 0) == (row["mode"] == "off"), f"{row['mode']}: {lost} pages lost")
        expect((row["pages_marked"] > 0) == (row["mode"] == "log"), f"{row['mode']}: marks")


def _of(*args: str, **kwargs: str) -> Callable[[], None]:
    return lambda: _migrations(*args, **kwargs)


def measure() -> None:
    """All ways side by side: more figures than a migration's rows."""
    found = _script("nvme", "measure.py", timeout=1500, run_options=["--count"])
    expect(found == {}, "it has left rows, too")


def costs_document() -> None:
    """COST.md is what measure.json says, and figures that cannot be are found."""
    runs = json.loads(costs.FIGURES.read_text())["runs"]
    expect(costs.DOCUMENT.read_text() == costs.document(runs), "COST.md is not of measure.json")
    runs[0]["pages_lost"] = 1
    try:
        costs.document(runs)
    except AssertionError as error:
        print(error)
    else:
        raise AssertionError("a lost page is not found")


def _no_rows(name: str, *args: str) -> None:
    """A script that judges for itself."""
    expect(_script("nvme", name, *args, timeout=1500) == {}, "it has left rows, too")


def second_try() -> None:
    """Who gets one more try: a VM that stood still, once. A lost page ends a test at once."""
    ends: list[HarnessError | None] = []
    calls = 0

    def body() -> None:
        nonlocal calls
        calls += 1
        if error := ends.pop(0):
            raise error

    still, lost = HarnessError("still", EXIT_TIMEOUT), Wrong("3 pages are lost")
    for first, then, want_calls, want in (
        (None, still, 1, None),
        (still, None, 2, None),
        (still, still, 2, still),
        (still, lost, 2, lost),
        (lost, None, 1, lost),
    ):
        ends, calls, got = [first, then], 0, None
        try:
            with_second_try(body, "x")
        except HarnessError as error:
            got = error
        expect((calls, got) == (want_calls, want), f"{first}, {then}: {calls} calls, then {got}")
    outer = "tests/nested/run: the outer VM ended without an exit code"
    expect(gets_second_try(EXIT_FAILED, outer), "no second try for an outer VM that crashed")
    expect(not gets_second_try(EXIT_FAILED, f"log: 3 pages are lost\n{outer}"), "in spite of it")
    again = f"{outer.partition(': ')[2]}: it did nothing of ours yet, so once more"
    wrong = f"{again}\nlog: nothing was marked"
    expect(not gets_second_try(EXIT_FAILED, wrong), "for a wrong result")
    expect(not gets_second_try(EXIT_TIMEOUT, "log: no I/O"), "for a guest that had its second")


def ten() -> None:
    """Ten times in a row, each with its control."""
    args = ["--mode", "log,off", "--repeat", "10"]
    rows = _script("nvme", "migrate.py", *args, timeout=6000)["runs"]
    lost = {mode: [r["pages_lost"] for r in rows if r["mode"] == mode] for mode in ("log", "off")}
    print(f"lost: {lost}", flush=True)
    expect(lost["log"] == 10 * [0], "pages are lost")
    expect(len(lost["off"]) == 10 and all(lost["off"]), "a control lost nothing")


def demo_real() -> None:
    """What ./demo --real shows and writes."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        path = Path(scratch, "runs.json")
        ended = demo("--real", "--json", str(path), timeout=1250)
        expect(ended.code == 0, f"exit code {ended.code}: {ended.error_lines}")
        data = json.loads(path.read_text())
    expect(data["failures"] == [], f"failures: {data['failures']}")
    expect([r["mode"] for r in data["runs"]] == list(MODES), "modes")
    for row in data["runs"]:
        expect(list(row) == [*DEMO_KEYS, "unplugged_ms"], f"keys: {list(row)}")
        expect(f"\n{row['mode']} " in ended.out, f"no row {row['mode']} in the table")
        lost = row["pages_lost"]
        expect((lost > 0) == (row["mode"] == "off"), f"{row['mode']}: {lost} pages lost")
        expect((row["unplugged_ms"] is None) == (row["mode"] == "clean"), f"unplugged: {row}")


BOTH = "nvme+e1000e"
RING = ("--dirty-ring", "4096")
# The guest's marks by VFIO's type1 calls: tests/e2e/type1_harvest.c.
TYPE1 = ("--plugin", str(BUILD / "host" / "libpvdirty-qemu-type1.so"))
# A tracker of guest marks and others: combined_harvest.c.
COMBINED = (
    str(test_module("6.1", "dma_log")),
    str(BUILD / "host" / "libpvdirty-qemu-combined.so"),
)
NO_PROTECT = ("--shim", "no-manual-protect")

CASES = {
    "runner": runner,
    "conformance": lambda: _conformance("6.12"),
    "conformance-6.1": lambda: _conformance("6.1"),
    "second-try": second_try,
    "nvme": _of(),
    "nvme-control": _of(modes="off"),
    "e1000e": _of(drivers="e1000e"),
    "e1000e-control": _of(drivers="e1000e", modes="off"),
    "both": _of(drivers=BOTH),
    "both-control": _of(drivers=BOTH, modes="off"),
    "native-hotplug": _of("--native", drivers=BOTH),
    "two-vcpus": _of("--smp", "2", modes="log,off"),
    "clean-and-touch": _of(modes="clean,touch"),
    "guest-6.12": _of("--kernel", "6.12", modes="log,off"),
    "dirty-ring": _of(*RING, modes="log,off,touch"),
    "type1": _of(*TYPE1),
    "combine": lambda: _no_rows("combine.py", *COMBINED),
    "no-manual-protect": _of(*NO_PROTECT, modes="log,off,touch"),
    "pvclock": lambda: _no_rows("pvclock.py"),
    "measure": measure,
    "costs": costs_document,
    "demo-real": demo_real,
    "held": lambda: _no_rows("held.py"),
    "ten": ten,
}

if __name__ == "__main__":
    sys.exit(main(CASES))
