"""What happened between two moments: calls, commits and processor time, of each process and of the stores."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psutil
import psycopg
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families
from psycopg import conninfo

from benchmarks.processes import Process
from mneme.settings import Settings

Reading = dict[tuple[str, str], float]
"""Totals by (kind, name): `cpu` in milliseconds by process, `served` calls by method, `asked` calls by
`caller>service`, `database` commits (transactions that wrote) and transactions (all), `time` seconds."""

FLUSH_SECONDS = 11.0
"""An idle backend of PostgreSQL reports its transactions to the statistics after at most ten seconds."""

# The snapshot's end counts transactions that got an id, which only writing ones do, without any delay.
_DATABASE = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       (SELECT xact_commit FROM pg_stat_database WHERE datname = %s)
"""


class Probe:
    """Reads the totals of a deployment."""

    def __init__(self, processes: Sequence[Process], admin: psycopg.AsyncConnection, database: str, cache: int) -> None:
        self._processes = processes
        self._admin = admin
        self._database = database
        self._postgres = psutil.Process(admin.info.backend_pid).parent()
        self._cache = psutil.Process(cache)

    @classmethod
    @asynccontextmanager
    async def open(cls, stores: Settings, processes: Sequence[Process]) -> AsyncIterator[Probe]:
        """A probe inside the block. It reads from another database, so it never counts itself."""
        url = stores.database.owner_url.get_secret_value()
        name = str(conninfo.conninfo_to_dict(url)["dbname"])
        async with (
            await psycopg.AsyncConnection.connect(url, dbname="postgres", autocommit=True) as admin,
            redis.asyncio.from_url(stores.redis.url.get_secret_value()) as cache,
        ):
            server = await cache.info("server")
            yield cls(processes, admin, name, int(server["process_id"]))

    async def read(self) -> Reading:
        """The totals now."""
        reading: Reading = {("time", "seconds"): time.perf_counter()}
        for process in self._processes:
            _add(reading, "cpu", process.label, _milliseconds(psutil.Process(process.pid)))
            if process.metrics_port:
                page = await asyncio.to_thread(_page, process.metrics_port)
                _add_calls(reading, process, page)
        _add(reading, "cpu", "client", _milliseconds(psutil.Process(os.getpid())))
        _add(reading, "cpu", "redis", _milliseconds(self._cache))
        if self._postgres is not None:
            family = [self._postgres, *self._postgres.children(recursive=True)]
            _add(reading, "cpu", "postgres", sum(_milliseconds(one) for one in family))
        row = await (await self._admin.execute(_DATABASE, [self._database])).fetchone()
        assert row is not None
        _add(reading, "database", "commits", row[0])
        _add(reading, "database", "transactions", row[1])
        return reading


def difference(before: Reading, after: Reading) -> Reading:
    """What happened in between."""
    return {key: total - before.get(key, 0.0) for key, total in after.items()}


def per_turn(spent: Reading, idle: Reading, turns: int) -> Reading:
    """What one turn took, beyond what happens anyway in the same time.

    Args:
        spent: What happened during the turns.
        idle: What happened in some time without any.
        turns: How many there were.
    """
    share = spent["time", "seconds"] / idle["time", "seconds"]
    return {key: (total - share * idle.get(key, 0.0) * (key[0] != "time")) / turns for key, total in spent.items()}


def named(reading: Reading, kind: str) -> dict[str, float]:
    """The totals of one kind by name, largest first, without those that are as good as nothing."""
    found = {name: total for (of, name), total in reading.items() if of == kind and total >= 0.05}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _add(reading: Reading, kind: str, name: str, total: float) -> None:
    reading[kind, name] = reading.get((kind, name), 0.0) + total


def _milliseconds(process: psutil.Process) -> float:
    """Processor time of a process and of its children that ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return 1000.0 * (times.user + times.system + times.children_user + times.children_system)


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _add_calls(reading: Reading, process: Process, page: str) -> None:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "mneme_rpc_server_duration_seconds_count":
                _add(reading, "served", sample.labels["method"].rpartition("/")[2], sample.value)
            elif sample.name == "mneme_peer_calls_total":
                _add(reading, "asked", f"{process.label}>{sample.labels['service']}", sample.value)
