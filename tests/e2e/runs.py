# SPDX-License-Identifier: MIT
"""Migrations: what ./demo shows, and that its judges can fail."""

import json
import tempfile
from pathlib import Path
from typing import Any

from support import BUILD, Skip, demo, expect

from harness import report, run
from harness.progress import Progress
from harness.rundir import RunDir
from harness.vm import VmConfig

KEYS = """mode driver kernel memory_bytes pages_total bytes_compared pages_dma_written
pages_marked pages_in_flight pages_lost pages_uncovered pages_overmarked pages_last_pass
answered_all_dirty passes ram_bytes_sent downtime_ms guest_io_bytes""".split()


def demo_rows(*args: str, timeout: float = 280) -> list[dict[str, Any]]:
    """Runs ./demo, which must succeed, and returns the JSON file's rows."""
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        path = Path(scratch, "runs.json")
        ended = demo(*args, "--json", str(path), timeout=timeout)
        expect(ended.code == 0, f"exit code {ended.code}: {ended.error_lines}")
        data = json.loads(path.read_text())
    expect(data["failures"] == [], f"failures: {data['failures']}")
    rows: list[dict[str, Any]] = data["runs"]
    for row in rows:
        expect(list(row) == KEYS, f"keys: {list(row)}")
        expect(f"\n{row['mode']} " in ended.out, f"no row {row['mode']} in the table")
    return rows


def expect_off_then_log(rows: list[dict[str, Any]], driver: str) -> None:
    """The control lost pages, and the log did not; said again, apart from demo's judge."""
    expect([r["mode"] for r in rows] == ["off", "log"], "modes")
    off, log = rows
    expect(off["driver"] == log["driver"] == driver, "driver")
    expect(off["pages_lost"] > 0 and off["pages_uncovered"] > 0, "the control lost nothing")
    expect(log["pages_lost"] == 0 and log["pages_uncovered"] == 0, "pages were lost")
    expect(log["bytes_compared"] >= log["memory_bytes"], "not all of RAM was compared")
    expect(log["guest_io_bytes"] > 1 << 20, "hardly any I/O")
    expect(log["passes"] >= 3, f"only {log['passes']} passes")
    expect(log["answered_all_dirty"] == 0, "answered all-dirty")


def demo_table() -> None:
    """The four rows with both drivers."""
    rows = demo_rows()
    expect([r["mode"] for r in rows] == ["clean", "off", "touch", "log"], "modes")
    clean, off, touch, log = rows
    expect(clean["pages_lost"] == 0 and clean["pages_dma_written"] == 0, "clean is not clean")
    expect_off_then_log([off, log], "e1000e+virtio-blk")
    expect(touch["pages_dma_written"] > 0 and touch["pages_marked"] == 0, "touch")


def migrate_e1000e() -> None:
    """The NIC alone."""
    expect_off_then_log(demo_rows("--driver", "e1000e", "--mode", "off,log"), "e1000e")


def migrate_virtio_blk() -> None:
    """The disk alone."""
    expect_off_then_log(demo_rows("--driver", "virtio-blk", "--mode", "off,log"), "virtio-blk")


def migrate_kernel(kernel: str) -> None:
    """Both drivers on another kernel than the default one."""
    rows = demo_rows("--kernel", kernel, "--mode", "off", "--mode", "log")
    expect_off_then_log(rows, "e1000e+virtio-blk")
    expect(rows[1]["kernel"] == kernel, "kernel")


def migrate_above_the_hole() -> None:
    """RAM above 4 GiB, on both sides."""
    need = 15 << 20
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0])
    if free < need:
        raise Skip(f"two guests of 6 GiB need 15 GiB of free memory, here are {free >> 20} GiB")
    rows = demo_rows("--memory", "6G", "--mode", "off,log")
    expect_off_then_log(rows, "e1000e+virtio-blk")
    expect(rows[1]["memory_bytes"] == 6 << 30, "memory")


def dropped_mark() -> None:
    """A control of the oracle: one suppressed mark must be seen."""
    base = VmConfig(port_options=",x-test-drop-marks=1")
    progress = Progress("dropped mark")
    with RunDir("dropped-mark", keep=False) as directory:
        outcome = run.run("log", "e1000e+virtio-blk", base, directory, progress)
    expect(outcome.result.pages_uncovered >= 1, "the oracle did not see it")
    broken = report.judge(outcome)
    expect(any("not covered" in sentence for sentence in broken), f"the judge said: {broken}")


def repeated() -> None:
    """Twenty times all four."""
    rows = demo_rows("--repeat", "20", timeout=7000)
    expect(len(rows) == 80, f"{len(rows)} rows")
    for row in rows:
        lost = row["pages_lost"]
        expect(row["mode"] != "log" or lost == 0, f"a log run lost {lost} pages")
        expect(row["mode"] != "off" or lost > 0, "an off run lost nothing")
