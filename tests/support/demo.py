# SPDX-License-Identifier: MIT
"""The command `demo`: see --help."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from harness import real, report, rundir
from harness.base import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    HarnessError,
    Interrupted,
    interrupt_on_signals,
    say,
)
from harness.cli import Parser
from harness.devices import DRIVERS
from harness.linux import BUILT_IN
from harness.progress import Progress
from harness.provision import KERNELS, provision
from harness.run import MODES, Outcome, RunResult, run
from harness.vm import VmConfig

ACCEL, QEMU = "tcg", "qemu-system-x86_64"
BOTH = "e1000e+virtio-blk"
MIGRATABLE = (*(name for name, driver in DRIVERS.items() if driver.migratable), BOTH)
MIN_MEMORY = 256 << 20
DESCRIPTION = """\
Migrates a running guest whose devices do DMA that no dirty log sees, between
two stock QEMUs on this machine, and compares every byte of its memory. The
first start installs Debian packages and builds; that stays under build/.
"""
EPILOG = """\
runs (--mode): clean  no covered device: no page may differ
               off    without pvdirty: pages must be lost, else the demo fails
               touch  the guest touches pages, QEMU's own dirty log sees them
               log    marks and in-flight counters: no page may be lost

exit codes: 0 done, 1 failed or pages lost, 2 usage, 3 migration refused by
policy, 4 timed out, 130 interrupted
"""


def memory(text: str) -> int:
    """Bytes of 512M, 6G."""
    found = re.fullmatch(r"(\d+)([MG])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no memory size: write 512M or 6G")
    size = int(found[1]) << (20 if found[2] == "M" else 30)
    if size < MIN_MEMORY:
        raise argparse.ArgumentTypeError(f"{text} is too small for the guest: at least 256M")
    return size


def modes(text: str) -> list[str]:
    """A comma list of modes."""
    for name in text.split(","):
        if name not in MODES:
            raise argparse.ArgumentTypeError(
                f"unknown mode '{name}': choose from {', '.join(MODES)}"
            )
    return text.split(",")


def positive(text: str) -> int:
    """A count."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def arguments() -> argparse.Namespace:
    """The command line; ends the program on a usage error."""
    parser = Parser(
        prog="demo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="real KVM, and real VFIO devices that are unplugged just before the end, inside a VM",
    )
    parser.add_argument(
        "--driver",
        choices=dict.fromkeys((*MIGRATABLE, *real.DRIVERS)),
        help=f"default: {BOTH}; with --real one of {', '.join(real.DRIVERS)}, default: nvme",
    )
    parser.add_argument(
        "--kernel",
        choices=(*sorted(KERNELS), *BUILT_IN),
        default="6.1",
        help="Debian's with our module, or one that is built with pvdirty in it; default: 6.1",
    )
    parser.add_argument(
        "--memory", type=memory, metavar="SIZE", help="512M, 6G; default: 512M, with --real 256M"
    )
    parser.add_argument(
        "--mode", type=modes, action="extend", metavar="MODE,...", help="default: all four"
    )
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="all of it N times")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default=ACCEL, help="default: tcg")
    parser.add_argument(
        "--smp", type=positive, metavar="N", help="vCPUs, default: 2, with --real 1"
    )
    parser.add_argument(
        "--qemu", default=QEMU, metavar="PATH", help="the QEMU to run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--keep-logs", action="store_true", help="keep logs of good runs too, in build/log/runs"
    )
    options = parser.parse_args()
    drivers = real.DRIVERS if options.real else MIGRATABLE
    options.driver = options.driver or ("nvme" if options.real else BOTH)
    if options.driver not in drivers:
        parser.error(
            f"argument --driver: '{options.driver}' is not for this: choose from "
            f"{', '.join(drivers)}"
        )
    if options.real and (options.accel, options.qemu) != (ACCEL, QEMU):
        parser.error("argument --real: it has its own --accel and --qemu")
    options.memory = options.memory or memory("256M" if options.real else "512M")
    options.smp = options.smp or (1 if options.real else 2)
    return options


def one_run(options: argparse.Namespace, mode: str, title: str) -> Outcome:
    """A run in a directory of its own; its logs stay if it fails."""
    base = VmConfig(
        kernel=options.kernel,
        drivers=tuple(options.driver.split("+")),
        memory_bytes=options.memory,
        cpus=options.smp,
        accel=options.accel,
        qemu=options.qemu,
    )
    progress = Progress(title)
    directory = rundir.RunDir(mode, options.keep_logs)
    try:
        with directory:
            try:
                outcome = run(mode, options.driver, base, directory, progress)
                directory.keep |= bool(report.judge(outcome))
            except HarnessError:
                directory.keep = True
                raise
            finally:
                progress.close()
    except HarnessError as error:
        where = f" (logs: {directory.kept})" if directory.kept.exists() else ""
        raise HarnessError(f"{mode}: {error}{where}", error.code) from error
    if directory.keep:
        say(f"{mode}: logs are in {directory.kept}")
    return outcome


def all_runs(options: argparse.Namespace) -> int:
    """Every mode, as often as asked; returns the exit code."""
    results: list[RunResult] = []
    failures: list[str] = []
    code = EXIT_DONE
    rundir.remove_stale()
    wanted = [m for m in MODES if not options.mode or m in options.mode]
    try:
        for number in range(options.repeat):
            for mode in wanted:
                title = mode if options.repeat == 1 else f"{mode} {number + 1}/{options.repeat}"
                try:
                    outcome = one_run(options, mode, title)
                except HarnessError as error:
                    failures.append(str(error))
                    code = code or error.code
                    if not results:
                        return code  # Nothing works here: no need to try on.
                    continue
                results.append(outcome.result)
                broken = report.judge(outcome)
                failures += broken
                if broken:
                    failures += [f"{mode}: {message}" for message in outcome.messages]
                    code = EXIT_FAILED
    finally:
        show(options, [r.as_json() for r in results], failures, report.COLUMNS, report.NOTES)
    return code


def show(
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    failures: list[str],
    columns: report.Columns,
    notes: dict[str, str],
) -> None:
    """The table, the JSON file, and what went wrong."""
    if options.json:
        report.write_json(options.json, rows, failures)
    if rows:
        print(report.settings(rows[0]))
        print(report.table(rows, columns, notes), flush=True)
    for sentence in failures:
        say(f"demo: {sentence}")


def real_runs(options: argparse.Namespace) -> int:
    """The same with real KVM and VFIO."""
    wanted = real.Real(
        modes=[m for m in MODES if not options.mode or m in options.mode],
        driver=options.driver,
        kernel=options.kernel,
        memory_bytes=options.memory,
        cpus=options.smp,
        repeat=options.repeat,
        keep_logs=options.keep_logs,
    )
    rows, failures, code = real.run_all(wanted)
    show(options, rows, failures, real.COLUMNS, real.NOTES)
    return code


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    interrupt_on_signals()
    try:
        if options.real:
            provision(sorted({options.kernel, real.OUTER_KERNEL}), tests=False)
            return real_runs(options)
        provision([options.kernel], tests=False)
        return all_runs(options)
    except HarnessError as error:
        if str(error):
            say(f"demo: {error}")
        return error.code
    except Interrupted:
        say("demo: interrupted")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
