# SPDX-License-Identifier: MIT
"""Command lines of our scripts."""

import argparse
from typing import NoReturn

from .base import EXIT_USAGE


class Parser(argparse.ArgumentParser):
    """Usage errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")
