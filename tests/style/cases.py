# SPDX-License-Identifier: MIT
"""What clang-format, clang-tidy and pyflakes say: `cases.py NAME`. It has to be nothing.

Each is also shown a file with a fault, which it must find.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "e2e"))

from support import BUILD, expect, main  # noqa: E402

from harness.base import die_with_parent  # noqa: E402

OURS = ("guest", "host", "shared", "tests")
CPP = (".cpp", ".hpp")
# In C, what VMM authors read; QEMU's and the kernel's C have styles of their own.
PUBLIC_C = ("host/include", "host/example")
FUZZ = TOP / "tests" / "fuzz"
FORMAT = ("clang-format-14", "--dry-run", "-Werror")
TIDY = ("clang-tidy-14", "--quiet")
PYFLAKES = ("pyflakes3",)

BAD_FORMAT = "int  planted( ) ;\n"
BAD_CPP = "int* planted()\n{\n    return 0;\n}\n"
BAD_PYTHON = "import planted\n"


def _sources(*suffixes: str, below: Iterable[str] = OURS) -> list[Path]:
    found = [path for name in below for path in (TOP / name).rglob("*") if path.suffix in suffixes]
    expect(bool(found), f"no {' or '.join(suffixes)} below {' '.join(below)}")
    return sorted(found)


def _says(argv: Sequence[str | Path]) -> tuple[int, str]:
    """Exit code and output of a checker."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=TOP,
        preexec_fn=die_with_parent(),
        check=False,
    )
    return done.returncode, done.stdout


def _expect_clean(code: int, said: str) -> None:
    expect(code == 0, f"not clean:\n{said}")


def _expect_found(suffix: str, text: str, words: str, *argv: str | Path) -> None:
    """The checker finds what is wrong with this text. `{}` in its arguments is the file."""
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="style-") as scratch:
        path = Path(scratch, f"planted{suffix}")
        path.write_text(text)
        code, said = _says([path if word == "{}" else word for word in argv])
    expect(code != 0 and words in said, f"planted, and not found ({code}): {words}:\n{said}")


def clang_format() -> None:
    """All of our C++, and the C for VMM authors."""
    files = _sources(*CPP) + _sources(".c", ".h", below=PUBLIC_C)
    _expect_clean(*_says([*FORMAT, *files]))
    _expect_found(".cpp", BAD_FORMAT, "clang-format-violations", *FORMAT, "{}")


def clang_tidy() -> None:
    """Each C++ file as it is compiled, with its headers; the fuzz programs are built elsewhere."""
    database = BUILD / "host" / "compile_commands.json"
    compiled = {Path(entry["file"]) for entry in json.loads(database.read_text())}
    files = [path for path in _sources(".cpp") if path in compiled]
    left_out = [path for path in _sources(".cpp") if path not in compiled | {*FUZZ.iterdir()}]
    expect(not left_out, f"not in {database}: {left_out}")

    def check(path: Path) -> tuple[int, str]:
        code, said = _says([*TIDY, "-p", database.parent, path])
        print(f"{path.relative_to(TOP)}: {code}", flush=True)
        return code, said

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(check, files))
    _expect_clean(max(code for code, _ in results), "".join(said for code, said in results if code))
    compiler = ("--", "-std=c++20")
    _expect_found(".cpp", BAD_CPP, "modernize-use-nullptr", *TIDY, "{}", *compiler)


def pyflakes() -> None:
    """All of our Python."""
    scripts = [TOP / "guest" / "apply", TOP / "tests" / "nested" / "run"]
    _expect_clean(*_says([*PYFLAKES, *_sources(".py"), *scripts]))
    _expect_found(".py", BAD_PYTHON, "imported but unused", *PYFLAKES, "{}")


CASES = {"format": clang_format, "tidy": clang_tidy, "python": pyflakes}

if __name__ == "__main__":
    sys.exit(main(CASES))
