# SPDX-License-Identifier: MIT
"""KUnit in a kernel of ours: booted in QEMU, its results counted."""

import re
import subprocess
from dataclasses import dataclass, field

from support import BUILD, TOP, expect

from harness.base import die_with_parent

# Suites, and where their cases are listed.
SUITES = {
    "pvdirty_core": "core_kunit.c",
    "pvdirty_hooks": "hooks_kunit.c",
    "pvdirty_cover": "cover_kunit.c",
}
BOOT_SECONDS = 300
_RESULT = re.compile(r"^(?:\[[ .\d]+\] )?((?:    )*)(not ok|ok) \d+ (?:- )?(.*?)(?: # (SKIP).*)?$")


@dataclass
class Suite:
    """What a suite reported: its own verdict, and those of cases and their parameters."""

    verdict: str = ""
    cases: dict[str, str] = field(default_factory=dict)
    ran: int = 0  # parameters, and cases without any
    failed: list[str] = field(default_factory=list)  # skipped ones too


def boot(kernel: str) -> str:
    """The console of a boot that runs all suites and nothing else."""
    argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64"]
    # Memory may be plugged: one of the suites has the log grow.
    argv += ["-m", "256,slots=1,maxmem=2G", "-smp", "2"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-serial", "stdio", "-no-reboot"]
    argv += ["-kernel", str(BUILD / "kernels" / kernel / "vmlinuz")]
    argv += ["-append", "console=ttyS0 panic=-1 kunit.enable=1 kunit_shutdown=reboot"]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=BOOT_SECONDS,
        preexec_fn=die_with_parent(),
        check=False,
    )
    print(done.stdout, flush=True)
    expect(done.returncode == 0, f"QEMU ended with {done.returncode}")
    return done.stdout


def read_results(console: str) -> dict[str, Suite]:
    """The suites that a console shows. Verdicts come after what they sum up."""
    suites: dict[str, Suite] = {}
    suite, parameters = Suite(), 0
    for line in console.splitlines():
        found = _RESULT.match(line.rstrip())
        if not found:
            continue
        indent, verdict, name, skipped = found.groups()
        level = len(indent) // 4
        if level == 0:
            suite.verdict = verdict
            suites[name] = suite
            suite = Suite()
            continue
        if verdict != "ok" or skipped:
            suite.failed.append(name)
        if level == 1:
            suite.cases[name] = verdict
        if level == 2:
            parameters += 1
            suite.ran += 1
        elif not parameters:
            suite.ran += 1
        if level == 1:
            parameters = 0
    return suites


def expect_all_passed(suites: dict[str, Suite]) -> None:
    """Every case that is listed in the sources has run, and nothing has failed."""
    total = 0
    for name, file in SUITES.items():
        listed = re.findall(
            r"^\tKUNIT_CASE(?:_PARAM)?\((\w+)", (TOP / "guest" / file).read_text(), re.M
        )
        expect(name in suites, f"the suite {name} did not run")
        suite = suites[name]
        expect(set(suite.cases) == set(listed), f"{name}: {suite.cases} is not {listed}")
        expect(suite.verdict == "ok" and not suite.failed, f"{name}: failed: {suite.failed}")
        total += suite.ran
        print(f"{name}: {suite.ran} passed")
    print(f"{total} passed, 0 failed")


BROKEN = """\
    KTAP version 1
    # Subtest: pvdirty_core
        ok 1 first page
        not ok 2 last page
    not ok 1 mark_range
    ok 2 hold_range
    ok 3 other # SKIP no reason
not ok 1 pvdirty_core
"""


def passes(version: str) -> None:
    """All suites pass; a console with failures is read as such."""
    broken = read_results(BROKEN)["pvdirty_core"]
    expect(broken.verdict == "not ok" and broken.ran == 4, f"misread: {broken}")
    expect(broken.failed == ["last page", "mark_range", "other"], f"misread: {broken}")
    expect_all_passed(read_results(boot(f"built-in-{version}")))
