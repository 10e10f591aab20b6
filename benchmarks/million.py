"""One scope of a million passages: `python -m benchmarks.million`. It takes too long to be a part of `make bench`."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Annotated, Any

import numpy as np
import psutil
import psycopg
import typer
import uvloop
from pgvector.psycopg import register_vector_async
from psycopg import sql

from benchmarks.memory import Memory, halfvec, running
from benchmarks.processes import TENANT
from mneme import maintenance
from mneme.archival.v1 import archival_pb2 as pb
from mneme.client.client import new_request_id
from mneme.common.v1 import common_pb2

_AGENT = "agent-million"
_PART = 10_000
_SEARCHES = 200
_EXACT = 10
_TOPICS, _INNER, _NOISE = 2_000, 64, 0.05

# The first passage comes as any other; the rest are its copies but for what must differ.
_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = 'archival' AND table_name = 'agent_passages'
ORDER BY ordinal_position
"""
_OWN = {
    "id": "s.id",
    "text": "s.id",
    "embedding": "s.embedding",
    "content_sha256": "sha256(s.id::bytea)",
    "revision": "p.revision + 1 + s.number / 1000",
}

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    rows: Annotated[int, typer.Option(help="Passages in the scope.")] = 1_000_000,
    dimensions: Annotated[int, typer.Option(help="Dimensions of a vector.")] = 256,
    build_memory_mb: Annotated[int, typer.Option(help="Memory of the index build.")] = 2048,
) -> None:
    """Fill a scope, promote it, and search it through gRPC; prints what it took."""
    uvloop.run(_run(rows, dimensions, build_memory_mb))


async def _run(rows: int, dimensions: int, build_memory_mb: int) -> None:
    async with running([("embedding", "archival")], dimensions=dimensions) as memory:
        source = _Source(dimensions)
        began = time.perf_counter()
        await _fill(memory, source, rows)
        _say("filled by COPY", f"{time.perf_counter() - began:.0f} s")
        settings = memory.settings.maintenance.model_copy(update={"build_memory_mb": build_memory_mb})
        peak = asyncio.create_task(_peak_memory())
        began = time.perf_counter()
        done = await maintenance.once(memory.settings.model_copy(update={"maintenance": settings}))
        _say("promoted", f"{done.promoted} scope in {time.perf_counter() - began:.0f} s")
        peak.cancel()
        await asyncio.gather(peak, return_exceptions=True)
        await _sizes(memory)
        await _search(memory, source, rows)


class _Source:
    """Vectors around topics, in few dimensions and some noise."""

    def __init__(self, dimensions: int) -> None:
        self._random = np.random.default_rng(1)
        self._topics = 0.7 * self._random.standard_normal((_TOPICS, _INNER), dtype=np.float32)
        basis = self._random.standard_normal((dimensions, _INNER), dtype=np.float32)
        self._inner = np.linalg.qr(basis)[0].T

    def vectors(self, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        topics = self._topics[self._random.integers(0, _TOPICS, size=count)]
        inner = topics + 0.7 * self._random.standard_normal(topics.shape, dtype=np.float32)
        noise = _NOISE * self._random.standard_normal((count, self._inner.shape[1]), dtype=np.float32)
        made = inner @ self._inner + noise
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


async def _fill(memory: Memory, source: _Source, rows: int) -> None:
    first = source.vectors(1)[0]
    await memory.client.archival.InsertPassage(
        pb.InsertPassageRequest(
            request_id=new_request_id(),
            owner=pb.PassageOwner(agent_id=_AGENT),
            passage=pb.Passage(text="the first of a million"),
            vector=common_pb2.Vector(values=first.tolist(), space_id=memory.space_id),
        )
    )
    url = memory.settings.database.owner_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
        await register_vector_async(owner)
        await owner.execute(f"SET app.tenant = '{TENANT}'".encode())
        names = [row[0] for row in await (await owner.execute(_COLUMNS)).fetchall()]
        insert = sql.SQL(
            "INSERT INTO archival.agent_passages ({}) SELECT {} FROM staged s, archival.agent_passages p"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.SQL(_OWN[name]) if name in _OWN else sql.Identifier("p", name) for name in names),
        )
        await owner.execute("CREATE TEMP TABLE staged (number bigint, id text, embedding halfvec)")
        for start in range(1, rows, _PART):
            await owner.execute("TRUNCATE staged")
            async with owner.cursor() as cursor, cursor.copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "text", "halfvec"])
                for offset, vector in enumerate(source.vectors(min(_PART, rows - start))):
                    await copy.write_row((start + offset, f"passage-{start + offset:08}", halfvec(vector.tolist())))
            await owner.execute(insert + sql.SQL(" WHERE p.text = 'the first of a million'"))
        await owner.execute(
            "UPDATE archival.scope SET passage_count = passage_count + %s, revision = revision + 2 + %s / 1000"
            " WHERE owner_id = %s",
            (rows - 1, rows, _AGENT),
        )


async def _peak_memory() -> None:
    """Says, when it is cancelled, how much memory PostgreSQL had of its own while the index was built."""
    peak = 0
    try:
        while True:
            backends = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "postgres"]
            own = 0
            for backend in backends:
                try:
                    own += backend.memory_full_info().uss
                except psutil.Error:
                    continue
            peak = max(peak, own)
            await asyncio.sleep(2)
    finally:
        _say("memory of PostgreSQL's processes at most, shared buffers left out", f"{peak / 2**20:,.0f} MB")


async def _sizes(memory: Memory) -> None:
    url = memory.settings.database.owner_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
        number = (await (await owner.execute("SELECT max(number) FROM archival.vector_table")).fetchone() or (0,))[0]
        for name in ("agent_passages", f"vector_{number}", f"vector_{number}_nearest"):
            row = await (await owner.execute("SELECT pg_relation_size(%s)", (f"archival.{name}",))).fetchone()
            assert row is not None
            _say(f"size of {name.replace(f'_{number}', '')}", f"{row[0] / 2**20:,.0f} MB")


async def _search(memory: Memory, source: _Source, rows: int) -> None:
    questions = source.vectors(_SEARCHES)
    times, found = [], []
    for question in questions:
        began = time.perf_counter()
        response = await memory.client.archival.SearchPassages(
            pb.SearchPassagesRequest(
                scope=pb.SearchScope(agent_id=_AGENT),
                mode=pb.SEARCH_MODE_SEMANTIC,
                vector=common_pb2.Vector(values=question.tolist(), space_id=memory.space_id),
                limit=10,
            )
        )
        times.append(1000 * (time.perf_counter() - began))
        found.append({result.passage.passage_id for result in response.results})
    cuts = statistics.quantiles(times[_SEARCHES // 4 :], n=100)
    _say(f"search among {rows:,} through gRPC", f"p50 {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms")
    hits = 0
    took = []
    async with memory.by_hand() as connection:
        for question, ids in list(zip(questions, found, strict=True))[-_EXACT:]:
            began = time.perf_counter()
            cursor = await connection.execute(
                "SELECT id FROM archival.agent_passages WHERE tenant_id = %s AND owner_id = %s"
                " ORDER BY embedding <=> %s LIMIT 10",
                (TENANT, _AGENT, halfvec(question.tolist())),
            )
            exact = {row[0] for row in await cursor.fetchall()}
            took.append(1000 * (time.perf_counter() - began))
            hits += len(exact & ids)
    _say("recall@10", f"{hits / (10 * _EXACT):.3f}")
    _say("exact scan by hand", f"p50 {statistics.median(took):,.0f} ms")


def _say(what: str, value: str) -> None:
    typer.echo(f"{what}: {value}")


if __name__ == "__main__":
    app()
