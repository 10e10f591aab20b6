"""The file of figures, and when a bar is reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Bar, Row


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("turn_p50", 15.0, "ms", bar=Bar(15)), True),
        (Row("turn_p50", 15.1, "ms", bar=Bar(15)), False),
        (Row("turn_rate", 59.0, "turns/s", bar=Bar(60, at_least=True)), False),
        (Row("rpc_ratio_GetBlock", 3.0, "ms", 1.5, Bar(2, of="ratio")), True),
        (Row("rpc_ratio_GetBlock", 3.0, "ms", None, Bar(2, of="ratio")), False),
        (Row("turn_p95", 99.0, "ms"), None),
    ],
)
def test_a_bar_is_compared_with_value_or_ratio(row: Row, holds: bool | None) -> None:
    assert row.holds is holds


def test_a_part_replaces_its_own_rows_only(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    report.merge([Row("turn_p50", 20.0, "ms"), Row("turn_gone", 1.0, "ms")], ["turn_"], file)
    report.merge([Row("cache_exact", 1.5, "ms", 1.0)], ["cache_"], file)
    report.merge([Row("turn_p50", 12.0, "ms", 4.0, Bar(15))], ["turn_"], file)
    assert json.loads(file.read_text()) == [
        {"name": "cache_exact", "value": 1.5, "unit": "ms", "baseline": 1.0, "ratio": 1.5, "bar": None, "holds": None},
        {"name": "turn_p50", "value": 12.0, "unit": "ms", "baseline": 4.0, "ratio": 3.0, "bar": 15, "holds": True},
    ]


def test_the_table_shows_rows_with_and_without_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    report.show([Row("turn_p50", 12.0, "ms", 4.0, Bar(15)), Row("turn_p95", 20.0, "ms")])
    printed = capsys.readouterr().out
    assert "12.00" in printed
    assert "≤ 15" in printed
    assert "turn_p95" in printed
