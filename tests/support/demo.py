# SPDX-License-Identifier: MIT
"""The command `demo`: see --help."""

import argparse
import re
import sys
from pathlib import Path

from harness import report, rundir
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
from harness.progress import Progress
from harness.provision import KERNELS, provision
from harness.run import MODES, Outcome, RunResult, run
from harness.vm import VmConfig

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
    parser.add_argument("--driver", choices=MIGRATABLE, default=BOTH, help=f"default: {BOTH}")
    parser.add_argument("--kernel", choices=sorted(KERNELS), default="6.1", help="default: 6.1")
    parser.add_argument("--memory", type=memory, default="512M", metavar="SIZE", help="512M, 6G")
    parser.add_argument(
        "--mode", type=modes, action="extend", metavar="MODE,...", help="default: all four"
    )
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="all of it N times")
    parser.add_argument("--accel", choices=("tcg", "kvm"), default="tcg", help="default: tcg")
    parser.add_argument("--smp", type=positive, default=2, metavar="N", help="vCPUs, default: 2")
    parser.add_argument(
        "--qemu", default="qemu-system-x86_64", metavar="PATH", help="the QEMU to run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--keep-logs", action="store_true", help="keep logs of good runs too, in build/log/runs"
    )
    return parser.parse_args()


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
        if options.json:
            report.write_json(options.json, results, failures)
        if results:
            print(report.settings(results[0]))
            print(report.table(results), flush=True)
        for sentence in failures:
            say(f"demo: {sentence}")
    return code


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    interrupt_on_signals()
    try:
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
