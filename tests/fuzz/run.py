# SPDX-License-Identifier: MIT
"""Runs a fuzz program: the kept corpus first, then new inputs. See README.md."""

import argparse
import re
import resource
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
# Bytes of an input; MiB of one allocation and of the process; seconds for one input.
LIMITS = ["-max_len=512", "-malloc_limit_mb=16", "-rss_limit_mb=1024", "-timeout=120"]
CHUNK = 600  # seconds of one run of the program in a long run


def cpu_seconds() -> float:
    """What the programs have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def executed(output: str) -> int:
    """Inputs that a run went through, by its own account."""
    found = re.findall(r"^stat::number_of_executed_units:\s*(\d+)$", output, re.MULTILINE)
    return int(found[-1]) if found else 0


class Fuzzer:
    """One program and the directory for what it finds."""

    def __init__(self, program: Path, work: Path) -> None:
        self.program = program
        self.kept = CORPUS / program.name.split("-")[0]
        self.found = work / program.name / "corpus"
        self.artifacts = work / program.name / "artifacts"
        for path in (self.found, self.artifacts):
            path.mkdir(parents=True, exist_ok=True)

    def call(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of the program."""
        argv = [str(self.program), *LIMITS, "-print_final_stats=1", "-len_control=10"]
        argv += [f"-artifact_prefix={self.artifacts}/", *arguments]
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        return done.returncode, done.stdout

    def explain(self, output: str) -> None:
        """The finding, and how to see it again."""
        print(output[-8000:])
        written = re.findall(r"Test unit written to (\S+)", output)
        if written:
            print(f"to run it again: {self.program} {written[-1]}")

    def replay(self) -> bool:
        """Every input of the kept corpus, once."""
        files = len(list(self.kept.iterdir()))
        code, output = self.call("-runs=0", str(self.kept))
        if code or not files or executed(output) < files:
            self.explain(output)
            return False
        print(f"{self.program.name}: {files} kept inputs replayed")
        return True

    def fuzz(self, seconds: int) -> bool:
        """New inputs for some time; at least one."""
        known = sum(len(list(corpus.iterdir())) for corpus in (self.found, self.kept))
        code, output = self.call(f"-max_total_time={seconds}", str(self.found), str(self.kept))
        if code or executed(output) <= known:
            self.explain(output)
            return False
        done = re.findall(r"^#.*DONE.*$", output, re.MULTILINE)
        print(
            f"{self.program.name}: {executed(output)} inputs, "
            f"{cpu_seconds():.0f} CPU seconds so far, {done[-1] if done else ''}",
            flush=True,
        )
        return True

    def fuzz_cpu(self, seconds: int) -> bool:
        """New inputs until so much CPU time has been used."""
        while cpu_seconds() < seconds:
            if not self.fuzz(CHUNK):
                return False
        return True

    def finds(self, seconds: int, pattern: str) -> bool:
        """A planted bug is found in time, and by what is meant to find it."""
        code, output = self.call(f"-max_total_time={seconds}", str(self.found), str(self.kept))
        if code and re.search(pattern, output) and "Test unit written to" in output:
            print(f"{self.program.name}: found, after {cpu_seconds():.0f} CPU seconds")
            return True
        print(output[-8000:])
        print(f"{self.program.name}: the planted bug was not found: {pattern}")
        return False

    def merge(self) -> bool:
        """Puts into the kept corpus the least that covers what was found too."""
        least = self.found.parent / "least"
        least.mkdir()
        corpora = [str(least), str(self.kept), str(self.found)]
        code, output = self.call("-merge=1", "-use_counters=0", *corpora)
        if code:
            self.explain(output)
            return False
        for old in self.kept.iterdir():
            old.unlink()
        for new in least.iterdir():
            new.rename(self.kept / new.name)
        least.rmdir()
        return True


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("program", type=Path)
    parser.add_argument("--target", help="whose corpus, if the program's name does not say so")
    parser.add_argument("--work", type=Path, required=True, help="for new inputs and findings")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--cpu-seconds", type=int, help="fuzz for so much CPU time")
    parser.add_argument("--finds", metavar="REGEX", help="a bug is planted: the run must find it")
    parser.add_argument("--merge", action="store_true", help="renew the kept corpus")
    return parser.parse_args()


def main() -> int:
    """Exit code of the program."""
    options = arguments()
    fuzzer = Fuzzer(options.program, options.work)
    if options.target:
        fuzzer.kept = CORPUS / options.target
    if options.finds:
        passed = fuzzer.finds(options.seconds, options.finds)
    elif options.merge:
        passed = fuzzer.merge()
    elif options.cpu_seconds:
        passed = fuzzer.replay() and fuzzer.fuzz_cpu(options.cpu_seconds)
    else:
        passed = fuzzer.replay() and fuzzer.fuzz(options.seconds)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
