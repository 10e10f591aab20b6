"""`python -m benchmarks`: measures, prints one table, and writes `build/bench.json`."""

from __future__ import annotations

import asyncio
import enum
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import uvloop

from benchmarks import archival, cache, cache_quality, cached_turn, gateway, report, retrieval, search, turn
from benchmarks.report import Row


@dataclass(frozen=True, slots=True)
class Part:
    """A group of figures that is measured together."""

    measure: Callable[[], Coroutine[Any, Any, list[Row]]]
    prefixes: Sequence[str]
    """What the names of its figures begin with."""


class Name(enum.StrEnum):
    """The parts there are."""

    TURN = "turn"
    CACHE = "cache"
    GATEWAY = "gateway"
    SEARCH = "search"
    ARCHIVAL = "archival"
    RETRIEVAL = "retrieval"
    CACHE_QUALITY = "cache_quality"
    CACHED_TURN = "cached_turn"


PARTS = {
    Name.TURN: Part(turn.measure, turn.PREFIXES),
    Name.CACHE: Part(cache.measure, cache.PREFIXES),
    Name.GATEWAY: Part(gateway.measure, gateway.PREFIXES),
    Name.SEARCH: Part(search.measure, search.PREFIXES),
    Name.ARCHIVAL: Part(archival.measure, archival.PREFIXES),
    Name.RETRIEVAL: Part(retrieval.measure, retrieval.PREFIXES),
    Name.CACHE_QUALITY: Part(cache_quality.measure, cache_quality.PREFIXES),
    Name.CACHED_TURN: Part(cached_turn.measure, cached_turn.PREFIXES),
}

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[Name | None, typer.Option(help="Measure this part, and replace only its rows in the file.")] = None,
) -> None:
    """Measure the suite against baselines of the same run."""
    shown: list[Row] = []
    for name, part in PARTS.items():
        if only in (None, name):
            rows = uvloop.run(_ended_by_sigterm(part.measure()))
            report.merge(rows, part.prefixes)
            shown += rows
    report.show(shown)


async def _ended_by_sigterm(work: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """The result of the work. SIGTERM cancels it, so that its processes are stopped as after Ctrl-C."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    app()
