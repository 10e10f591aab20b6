"""Searches of passages through gRPC, in scopes of three sizes, beside the same by hand in the same database."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from benchmarks.memory import DIMENSIONS, WARM_UP, Memory, halfvec, milliseconds, running
from benchmarks.passages import Passages, Question
from benchmarks.probe import Probe, difference, named
from benchmarks.processes import TENANT
from benchmarks.report import Bar, Row
from mneme import maintenance
from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2

PREFIXES = ("search_", "recall_at_10", "hybrid_", "promote_")

_SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
_LARGEST = "100k"
_SAMPLES = 100
_EXACT_SAMPLES = 40
_LIMIT = 10
_PART = 5_000
_LISTS, _PROBES = 100, 10

_EXACT = """
SELECT id FROM archival.agent_passages WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s
ORDER BY embedding <=> %(vector)s LIMIT 10
"""
_TEXTS = "SELECT id, text FROM archival.agent_passages WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)"
# All candidates of a scope have one owner, so a table of ids and vectors is the least that can be searched.
_COPY = """
CREATE UNLOGGED TABLE benchmarks.vectors AS
SELECT id, embedding::halfvec(1024) AS embedding FROM archival.agent_passages
WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s
"""
_BY_INDEX = "SELECT id FROM {table} ORDER BY embedding <=> %(vector)s LIMIT 10"


@dataclass(frozen=True, slots=True)
class Scope:
    """An agent's archive, and questions to it."""

    name: str
    agent_id: str
    questions: list[Question]


async def measure() -> list[Row]:
    """The rows of this part."""
    async with running([("embedding", "archival")]) as memory:
        passages = Passages(DIMENSIONS, memory.space_id)
        scopes = [await _filled(memory, passages, name, size) for name, size in _SIZES.items()]
        began = time.perf_counter()
        done = await maintenance.once(memory.settings)
        promoting = time.perf_counter() - began
        assert done.promoted == len(_SIZES) - 1
        async with (
            memory.by_hand() as connection,
            Probe.open(memory.settings, memory.deployment.processes) as probe,
        ):
            rows = [row for scope in scopes for row in await _timed(memory, connection, probe, scope)]
            rows += await _other_ways(memory, connection, scopes[-1])
    return [*rows, Row("promote_110k", promoting, "s")]


async def _filled(memory: Memory, passages: Passages, name: str, size: int) -> Scope:
    """Stores a scope as a client does, and draws questions to some of its passages."""
    owner = pb.PassageOwner(agent_id=f"agent-{name}")
    known: list[pb.PassageItem] = []
    for start in range(0, size, _PART):
        part = passages.items(min(_PART, size - start))
        stored = await memory.client.ingest(owner, part)
        assert stored.inserted_count == len(part), stored
        known += part[:: max(1, size // _PART)]
    step = max(1, len(known) // _SAMPLES)
    return Scope(name, owner.agent_id, passages.questions(known[::step][:_SAMPLES]))


async def _timed(memory: Memory, connection: psycopg.AsyncConnection[Any], probe: Probe, scope: Scope) -> list[Row]:
    """Dense and hybrid search of one scope, the exact scan by hand, and how many of the nearest ten were found.

    Processor time is told beside the time that passes, as it says more on a machine that does other work too. It holds
    all of PostgreSQL and of the services, warm-up included, and not the client.
    """
    found: dict[int, list[str]] = {}

    async def dense(number: int) -> None:
        found[number % _SAMPLES] = await _search(memory, scope, number, pb.SEARCH_MODE_SEMANTIC)

    async def hybrid(number: int) -> None:
        assert len(await _search(memory, scope, number, pb.SEARCH_MODE_HYBRID)) == _LIMIT

    exact: dict[int, list[str]] = {}

    async def by_hand(number: int) -> None:
        values = {"tenant": TENANT, "owner": scope.agent_id, "vector": halfvec(_question(scope, number).vector)}
        exact[number % _SAMPLES] = [row[0] for row in await (await connection.execute(_EXACT, values)).fetchall()]

    searched, search_cpu = await _spent(probe, dense, _SAMPLES)
    mixed, mixed_cpu = await _spent(probe, hybrid, _SAMPLES)
    compared, compared_cpu = await _spent(probe, by_hand, _EXACT_SAMPLES)
    recall = _recall(found, exact)
    return [
        Row(f"search_{scope.name}", searched, "ms", compared, Bar(5)),
        Row(f"search_cpu_{scope.name}", search_cpu, "ms", compared_cpu),
        Row(f"hybrid_{scope.name}", mixed, "ms", compared, Bar(15)),
        Row(f"hybrid_cpu_{scope.name}", mixed_cpu, "ms", compared_cpu),
        Row(
            "recall_at_10" if scope.name == _LARGEST else f"recall_at_10_{scope.name}", recall, "", None, _recall_bar()
        ),
    ]


async def _spent(probe: Probe, work: Callable[[int], Awaitable[object]], samples: int) -> tuple[float, float]:
    """The median time of a piece of work, and the processor time that one takes."""
    before = await probe.read()
    median = await milliseconds(work, samples)
    cpu = named(difference(before, await probe.read()), "cpu")
    taken = sum(spent for name, spent in cpu.items() if name not in ("client", "redis"))
    return median, taken / (WARM_UP + samples)


def _recall_bar() -> Bar:
    return Bar(0.98, at_least=True)


def _question(scope: Scope, number: int) -> Question:
    return scope.questions[number % _SAMPLES]


async def _search(memory: Memory, scope: Scope, number: int, mode: pb.SearchMode.ValueType) -> list[str]:
    question = _question(scope, number)
    response = await memory.client.archival.SearchPassages(
        pb.SearchPassagesRequest(
            scope=pb.SearchScope(agent_id=scope.agent_id),
            query=question.text,
            vector=common_pb2.Vector(values=question.vector, space_id=memory.space_id),
            mode=mode,
            limit=_LIMIT,
        )
    )
    return [result.passage.passage_id for result in response.results]


def _recall(found: dict[int, list[str]], exact: dict[int, list[str]]) -> float:
    both = found.keys() & exact.keys()
    return sum(len(set(found[number]) & set(exact[number])) for number in both) / (_LIMIT * len(both))


async def _other_ways(memory: Memory, connection: psycopg.AsyncConnection[Any], scope: Scope) -> list[Row]:
    """The largest scope by hand: its own HNSW index and the texts, and ivfflat in place of it."""
    owner = await psycopg.AsyncConnection.connect(
        memory.settings.database.owner_url.get_secret_value(), autocommit=True
    )
    async with owner:
        await owner.execute("CREATE SCHEMA benchmarks")
        await owner.execute(_COPY, {"tenant": TENANT, "owner": scope.agent_id})
        await owner.execute(
            f"CREATE INDEX ON benchmarks.vectors USING ivfflat (embedding halfvec_cosine_ops) WITH (lists = {_LISTS})"
        )
        await owner.execute(
            "GRANT USAGE ON SCHEMA benchmarks TO mneme_app; GRANT SELECT ON benchmarks.vectors TO mneme_app"
        )
        cursor = await owner.execute("SELECT number FROM archival.vector_table WHERE owner_id = %s", (scope.agent_id,))
        number = (await cursor.fetchone() or (0,))[0]
    await connection.execute(
        f"SET ivfflat.probes = {_PROBES}; SET hnsw.ef_search = 100; SET enable_seqscan = off".encode()
    )
    hnsw, hnsw_recall = await _by_index(connection, scope, f"archival.vector_{number}")
    lists, lists_recall = await _by_index(connection, scope, "benchmarks.vectors")
    return [
        Row("search_100k_hnsw_by_hand", hnsw, "ms"),
        Row("recall_at_10_hnsw_by_hand", hnsw_recall, ""),
        Row("search_100k_ivfflat_by_hand", lists, "ms"),
        Row("recall_at_10_ivfflat_by_hand", lists_recall, ""),
    ]


async def _by_index(connection: psycopg.AsyncConnection[Any], scope: Scope, table: str) -> tuple[float, float]:
    """Median time of ids and texts through an index, and how many of the nearest ten it found."""
    found: dict[int, list[str]] = {}
    nearest = _BY_INDEX.format(table=table).encode()

    async def search(number: int) -> None:
        values = {"vector": halfvec(_question(scope, number).vector)}
        ids = [row[0] for row in await (await connection.execute(nearest, values)).fetchall()]
        texts = await (await connection.execute(_TEXTS, {"tenant": TENANT, "ids": ids})).fetchall()
        assert len(texts) == _LIMIT
        found[number % _SAMPLES] = ids

    time_taken = await milliseconds(search, _SAMPLES)
    exact: dict[int, list[str]] = {}
    async with connection.transaction():
        await connection.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on")
        for number in range(_EXACT_SAMPLES):
            values = {"vector": halfvec(_question(scope, number).vector)}
            exact[number] = [row[0] for row in await (await connection.execute(nearest, values)).fetchall()]
    return time_taken, _recall(found, exact)
