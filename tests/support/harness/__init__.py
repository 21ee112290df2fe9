# SPDX-License-Identifier: MIT
"""What `demo` and `check` are made of: packages, machines, runs, reports."""
