"""The tables of a language, read once from the file beside this one."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any


@functools.cache
def table(language: str) -> dict[str, Any]:
    """Returns the tables of a language by their names."""
    return tomllib.loads(Path(__file__).with_name(f"{language}.toml").read_text(encoding="utf-8"))


def words(text: str) -> frozenset[str]:
    """Returns the words of a table that is one text."""
    return frozenset(text.split())


def lines(text: str) -> list[str]:
    """Returns the lines of a table that is one text."""
    return [line.strip() for line in text.splitlines() if line.strip()]
