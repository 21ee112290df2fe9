# SPDX-License-Identifier: MIT
"""Seeded mutations of the real code, one by one: see --help and the head of mutants.toml."""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
# What is mutated, and what is compiled with it.
TREES = (
    *("host/include", "host/log", "host/port", "host/session", "host/stream", "host/tracking"),
    *("host/device_state", "host/capi"),
    "guest/core",
)

CAUGHT = "caught"
SURVIVED = "survived"
NO_SUCH_TEXT = "no such text"
BASELINE_FAILS = "fails unmutated"
NOT_COMPILED = "does not compile"
CRASHED = "crashed"
TIMED_OUT = "timed out"
OTHER_ASSERTION = "other assertion"

# A sanitizer's exit is not that of a failed assertion, which is 1.
SANITIZER = "exitcode=99"
ENVIRONMENT = {
    "RC_PARAMS": "seed=1",
    "ASAN_OPTIONS": SANITIZER,
    "UBSAN_OPTIONS": SANITIZER,
    "TSAN_OPTIONS": SANITIZER,
}


@dataclass(frozen=True)
class Mutant:
    """One entry of mutants.toml."""

    name: str
    file: str
    old: str
    new: str
    test: str
    assertion: str
    program: str
    outcome: str = CAUGHT
    timeout: float = 120


@dataclass(frozen=True)
class Run:
    """How a test program ended."""

    outcome: str  # SURVIVED, CRASHED, TIMED_OUT, or CAUGHT: by some assertion
    assertions: tuple[str, ...] = ()  # those that failed


def mutants() -> dict[str, Mutant]:
    """All entries by name; a program is named by the section that the entry is in."""
    found: dict[str, Mutant] = {}
    for program, entries in tomllib.loads(LIST.read_text(encoding="utf-8")).items():
        for entry in entries:
            mutant = Mutant(program=program, **entry)
            if mutant.name in found:
                sys.exit(f"mutate: two mutants have the name '{mutant.name}'")
            found[mutant.name] = mutant
    return found


def squeezed(text: str) -> str:
    """Without white space, which programs add and drop as they like."""
    return re.sub(r"\s+", "", text)


def failed_assertions(report: str, test: str) -> tuple[str, ...] | None:
    """What failed by Catch's XML: expressions and messages; None: it is no whole report."""
    try:
        root = ElementTree.fromstring(report)
    except ElementTree.ParseError:
        return None
    cases = [case for case in root.iter("TestCase") if case.get("name") == test]
    if len(cases) != 1 or root.find(".//FatalErrorCondition") is not None:
        return None
    texts = []
    for failed in cases[0].iter("Expression"):
        if failed.get("success") == "false" and failed.find("Exception") is None:
            texts.append(f"{failed.get('type')}({(failed.findtext('Original') or '').strip()})")
    texts += [failure.text or "" for failure in cases[0].iter("Failure")]
    return tuple(texts)


def run_test(program: Path, mutant: Mutant) -> Run:
    """Runs the mutant's test in a program."""
    name = re.sub(r"([,\[\]\\*])", r"\\\1", mutant.test)
    try:
        done = subprocess.run(
            [program, name, "--abort", "-r", "xml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | ENVIRONMENT,
            timeout=mutant.timeout,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Run(TIMED_OUT)
    begin = done.stdout.find("<?xml")
    assertions = failed_assertions(done.stdout[max(begin, 0) :], mutant.test)
    if assertions is None or done.returncode not in (0, 1):
        return Run(CRASHED)
    if done.returncode == 0:
        return Run(SURVIVED)
    return Run(CAUGHT, assertions) if assertions else Run(CRASHED)


class Build:
    """The build directory: objects, how they were made, and what was linked of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        commands = json.loads((path / "compile_commands.json").read_text(encoding="utf-8"))
        self.compile: dict[str, dict[str, str]] = {}
        for entry in commands:
            words = shlex.split(entry["command"])
            self.compile[words[words.index("-o") + 1]] = entry

    def _ninja(self, *arguments: str) -> str:
        return subprocess.run(
            ["ninja", "-C", self.path, "-t", *arguments],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout

    def program(self, name: str) -> Path:
        """A test program's path in the build directory."""
        found = [p for p in self.path.glob(f"tests/*/{name}") if p.is_file()]
        if len(found) != 1:
            sys.exit(f"mutate: no program {name}: run ./check")
        return found[0].relative_to(self.path)

    def link_command(self, program: Path) -> list[str]:
        """The words of the command that links a program."""
        last = self._ninja("commands", str(program)).splitlines()[-1]
        words = shlex.split(last.removeprefix(": && "))
        return words[: words.index("&&")] if "&&" in words else words

    def users(self, file: Path, link: list[str]) -> list[str]:
        """Those objects of a program that a source or header is part of."""
        archives = {Path(word).stem.removeprefix("lib") for word in link if word.endswith(".a")}
        users = []
        target = ""
        for line in self._ninja("deps").splitlines():
            if not line.startswith(" "):
                target = line.split(":")[0]
            elif target and (self.path / line.strip()).resolve() == file:
                part_of = re.search(r"CMakeFiles/([^/]+)\.dir/", target)
                if target in link or (part_of and part_of.group(1) in archives):
                    users.append(target)
        return users


def compile_mutated(build: Build, target: str, tree: Path) -> Path | None:
    """Compiles one object of the mutated tree; None: it does not compile."""
    entry = build.compile[target]
    words = shlex.split(entry["command"])
    source = Path(entry["file"])
    if any(source.is_relative_to(TOP / part) for part in TREES):
        words[-1] = str(tree / source.relative_to(TOP))
    made = tree / (hashlib.sha256(target.encode()).hexdigest()[:16] + ".o")
    words[words.index("-o") + 1] = str(made)
    words[1:1] = [f"-I{tree}", f"-I{tree}/host", f"-I{tree}/host/include"]
    words.append("-g0")
    done = subprocess.run(words, cwd=build.path, stderr=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        print(done.stderr[-2000:])
        return None
    return made


def build_mutated(build: Build, mutant: Mutant, tree: Path) -> Path | None:
    """Compiles what the mutant changes and links its program; None: it does not compile."""
    link = build.link_command(build.program(mutant.program))
    users = build.users(TOP / mutant.file, link)
    if not users:
        sys.exit(f"mutate: {mutant.program} has nothing of {mutant.file}")
    objects = []
    for target in users:
        made = compile_mutated(build, target, tree)
        if made is None:
            return None
        if target in link:
            link[link.index(target)] = str(made)
        else:  # before the archive, whose member is then not taken
            objects.append(str(made))
    out = link.index("-o")
    link[out + 1] = str(tree / "mutated")
    link[out:out] = objects
    done = subprocess.run(link, cwd=build.path, stderr=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        print(done.stderr[-2000:])
    return tree / "mutated" if done.returncode == 0 else None


def mutated_tree(mutant: Mutant, tree: Path) -> bool:
    """Copies the sources and mutates one; False: the text is not there exactly once."""
    for part in TREES:
        shutil.copytree(TOP / part, tree / part)
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return False
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return True


def passes_unmutated(build: Build, mutant: Mutant) -> bool:
    """Whether the test passes in the program as it is; run once for each program."""
    program = build.path / build.program(mutant.program)
    digest = hashlib.sha256(program.read_bytes() + mutant.test.encode()).hexdigest()
    stamp = build.path / "tests" / "mutants" / f"passed-{digest[:32]}"
    if not stamp.exists():
        if run_test(program, mutant).outcome != SURVIVED:
            return False
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return True


def judge(build: Build, mutant: Mutant) -> str:
    """What became of a mutant."""
    with tempfile.TemporaryDirectory(dir=build.path, prefix="mutant-") as scratch:
        tree = Path(scratch)
        if not mutated_tree(mutant, tree):
            return NO_SUCH_TEXT
        if not passes_unmutated(build, mutant):
            return BASELINE_FAILS
        program = build_mutated(build, mutant, tree)
        if program is None:
            return NOT_COMPILED
        run = run_test(program, mutant)
    if run.outcome != CAUGHT:
        return run.outcome
    for text in run.assertions:
        print(f"failed: {text.strip()}")
    wanted = squeezed(mutant.assertion)
    return CAUGHT if any(wanted in squeezed(text) for text in run.assertions) else OTHER_ASSERTION


def main() -> int:
    """Exit code: 0 when each mutant became what its entry says."""
    parser = argparse.ArgumentParser(
        prog="mutate", description="Applies seeded mutations and sees that their tests catch them."
    )
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="all without")
    parser.add_argument("--build", type=Path, default=TOP / "build" / "host")
    parser.add_argument("--list", action="store_true", help="only their names, one a line")
    options = parser.parse_args()
    known = mutants()
    if options.list:
        print("\n".join(known))
        return 0
    build = Build(options.build.resolve())
    wrong = []
    for name in options.names or known:
        if name not in known:
            parser.error(f"no mutant has the name '{name}'")
        outcome = judge(build, known[name])
        print(f"{name}: {outcome}", flush=True)
        if outcome != known[name].outcome:
            wrong.append(f"{name}: {outcome}, not {known[name].outcome}")
    for line in wrong:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
