"""Fixtures of all tests; each group has its own module in `tests/support`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")

pytest_plugins = ("tests.support.stores", "tests.support.hosting", "tests.support.suite")


def pytest_configure(config: pytest.Config) -> None:
    """Hides the developer's own settings and cloud credentials from the tests, and gives them a fast disk."""
    for name in [name for name in os.environ if name.startswith(("MNEME_", "AWS_", "OTEL_", "PG"))]:
        del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 << 30:
        # A clone of the database is some hundred files: 15 ms in memory, up to 400 ms on a disk.
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
