"""Fixtures of all tests; each group has its own module in `tests/support`."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ("tests.support.stores", "tests.support.suite")


def pytest_configure(config: pytest.Config) -> None:
    """Hides the developer's own settings and cloud credentials from the tests."""
    for name in [name for name in os.environ if name.startswith(("MNEME_", "AWS_", "OTEL_", "PG"))]:
        del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
