"""What a benchmark found: a printed table for people, and `build/bench.json` for tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

FILE = Path("build/bench.json")
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach."""

    limit: float
    of: Literal["value", "ratio"] = "value"
    """What is compared with the limit."""
    at_least: bool = False
    """Whether more is better."""

    def holds(self, compared: float | None) -> bool:
        """Whether a figure reaches the bar; one that could not be computed does not."""
        if compared is None:
            return False
        return compared >= self.limit if self.at_least else compared <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    """The same work without the suite, measured in the same run, in the same unit."""
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """Value by baseline; None without a baseline."""
        return self.value / self.baseline if self.baseline else None

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None for a figure without a bar."""
        if self.bar is None:
            return None
        return self.bar.holds(self.value if self.bar.of == "value" else self.ratio)

    def as_json(self) -> dict[str, Any]:
        """The row of the file. `bar` is the limit of what the row's name is judged by."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "baseline": _rounded(self.baseline),
            "ratio": _rounded(self.ratio),
            "bar": self.bar.limit if self.bar else None,
            "holds": self.holds,
        }


def show(rows: Sequence[Row]) -> None:
    """Prints the table."""
    table = Table()
    for heading in ("figure", "value", "unit", "baseline", "ratio", "bar", "holds"):
        table.add_column(heading, justify="left" if heading in ("figure", "unit", "holds") else "right", no_wrap=True)
    for row in rows:
        verdict = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.holds]
        table.add_row(
            row.name,
            _shown(row.value),
            row.unit,
            _shown(row.baseline),
            _shown(row.ratio),
            str(row.bar or ""),
            verdict,
        )
    # A pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def merge(rows: Sequence[Row], prefixes: Sequence[str], file: Path = FILE) -> None:
    """Writes rows into the file in place of all earlier ones whose names begin with one of the prefixes."""
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    kept = [row for row in stored if not row["name"].startswith(tuple(prefixes))]
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".partial")
    scratch.write_text(json.dumps([*kept, *(row.as_json() for row in rows)], indent=1) + "\n", encoding="utf-8")
    scratch.replace(file)


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 3)


def _shown(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.2f}"
