# SPDX-License-Identifier: MIT
"""The tests that answers to the lists' questions name must exist; each question must have one."""

import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
DOCUMENTS = ("host/tracking/README.md", "host/device_state/QUESTIONS.md")
LABELS = ("e2e", "nested")
SOURCES = ("tests/unit/tracking", "tests/unit/device_state", "tests/property", "tests/conformance")
WITHOUT = re.compile(r"none\b|the next table$")  # said in so many words


def names() -> set[str]:
    """Names of test cases, of the table's rows, and of other labels' cases."""
    found: set[str] = set()
    for path in [p for folder in SOURCES for p in (TOP / folder).rglob("*.cpp")]:
        text = re.sub(r'"\s*\n\s*"', "", path.read_text(encoding="utf-8"))
        found |= {
            re.sub(r'\\"', '"', name)
            for name in re.findall(r'(?:TEST_CASE\(|\{)"((?:[^"\\]|\\.)*)"', text)
        }
    for label in LABELS:
        text = (TOP / "tests" / label / "CMakeLists.txt").read_text(encoding="utf-8")
        found |= {f"{label}.{name}" for name in re.findall(r"^pvdirty_\w+\(([\w.-]+)", text, re.M)}
    return found


def questions(document: str) -> list[list[str]]:
    """The cells of each row in the sections of the posts."""
    text = (TOP / document).read_text(encoding="utf-8")
    rows = []
    for section in re.findall(r"^### 00\d.*?(?=^##)", text, re.DOTALL | re.MULTILINE):
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows += [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return rows


def main() -> int:
    """Exit code: 0 when all is there."""
    known = names()
    wrong = []
    least = 20
    rows = []
    for document in DOCUMENTS:
        found = questions(document)
        least = min(least, len(found))
        rows += found
    for question, _, tests in rows:
        named = [name.replace("\\|", "|") for name in re.findall(r"`([^`]*)`", tests)]
        if not named and not WITHOUT.match(tests.strip()):
            wrong.append(f"no test: {question.strip()}")
        if not WITHOUT.match(tests.strip()):
            wrong += [f"no such test: {name}" for name in named if name not in known]
    print("\n".join(wrong) or f"{len(rows)} questions")
    return 1 if wrong or least < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
