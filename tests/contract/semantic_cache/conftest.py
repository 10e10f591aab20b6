"""A running semantic cache, and short ways to ask it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from mneme.common.v1 import common_pb2
from mneme.semantic_cache.service import build
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub
from mneme.settings import PeersSettings, SemanticCacheSettings
from tests.contract.semantic_cache.peers import Peers
from tests.support.hosting import Hosting, Replica

if TYPE_CHECKING:
    from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceAsyncStub

QUESTION = "What are the opening hours of the Berlin store?"
FINGERPRINT = "a" * 64


def key(
    question: str = QUESTION,
    *,
    agent: str = "agent-1",
    user: str = "",
    fingerprint: str = FINGERPRINT,
    revisions: dict[str, int] | None = None,
) -> pb.CacheKey:
    """A key whose memory is at revision 1 unless told otherwise."""
    found = {"agent-1 blocks": 1} if revisions is None else revisions
    return pb.CacheKey(
        scope=pb.CacheScope(agent_id=agent, user_id=user),
        question=question,
        fingerprint=fingerprint,
        basis=pb.Basis(revisions=[common_pb2.Revision(scope=name, revision=number) for name, number in found.items()]),
    )


def duration(seconds: float) -> Duration:
    """The duration as a message."""
    made = Duration()
    made.FromNanoseconds(int(seconds * 1e9))
    return made


def request_id() -> str:
    """A fresh request id."""
    return str(uuid.uuid4())


class Asker:
    """A caller of the cache."""

    def __init__(self, stub: SemanticCacheServiceAsyncStub) -> None:
        self.stub = stub

    async def look_up(self, asked: pb.CacheKey, *, max_age: float | None = None) -> pb.LookupResponse:
        """Looks a question up."""
        age = None if max_age is None else duration(max_age)
        return await self.stub.Lookup(pb.LookupRequest(key=asked, max_age=age))

    async def answer(self, asked: pb.CacheKey) -> str | None:
        """The answer served; None for a miss."""
        response = await self.look_up(asked)
        return response.hit.entry.answer if response.HasField("hit") else None

    async def reason(self, asked: pb.CacheKey) -> str:
        """The name of the miss's reason; HIT for none."""
        response = await self.look_up(asked)
        if response.HasField("hit"):
            return "HIT"
        return pb.MissReason.Name(response.miss.reason).removeprefix("MISS_REASON_")

    async def acquire(
        self, asked: pb.CacheKey, *, wait: float | None = None, lease: float | None = None
    ) -> pb.AcquireResponse:
        """Asks for an answer or the right to make it."""
        return await self.stub.Acquire(
            pb.AcquireRequest(
                key=asked,
                max_wait=None if wait is None else duration(wait),
                lease_time=None if lease is None else duration(lease),
            )
        )

    async def commit(
        self, asked: pb.CacheKey, token: str, answer: str = "9 to 18", *, life: float | None = None
    ) -> pb.CommitResponse:
        """Stores the answer."""
        return await self.stub.Commit(
            pb.CommitRequest(
                lease_token=token,
                key=asked,
                entry=pb.CacheEntry(answer=answer, run_id="run-1", model="offline", token_count=7, model_seconds=1.5),
                time_to_live=None if life is None else duration(life),
            )
        )

    async def store(self, asked: pb.CacheKey, answer: str = "9 to 18", *, life: float | None = None) -> str:
        """Acquires and commits; returns the entry's id."""
        acquired = await self.acquire(asked)
        assert acquired.HasField("lease"), acquired
        committed = await self.commit(asked, acquired.lease.lease_token, answer, life=life)
        assert committed.stored
        return committed.entry_id

    async def feedback(self, entry_id: str, verdict: pb.Verdict.ValueType, question: str = "") -> pb.FeedbackResponse:
        """Judges a served answer."""
        return await self.stub.Feedback(
            pb.FeedbackRequest(request_id=request_id(), entry_id=entry_id, verdict=verdict, question=question)
        )

    async def purge(self, **subject: str) -> dict[str, tuple[int, int]]:
        """Purges a subject; returns (removed, remaining) by store."""
        response = await self.stub.PurgeData(
            pb.PurgeDataRequest(
                request_id=request_id(),
                subject=common_pb2.PurgeSubject(**subject),
                operation_id="operation-1",
            )
        )
        return {count.store: (count.removed, count.remaining) for count in response.counts}


async def asker(
    replica: Replica,
    *,
    tenant: str = "acme",
    user: str = "",
    service: str = "orchestrator",
    scopes: tuple[str, ...] = ("admin",),
) -> Asker:
    """A caller: the orchestrator on behalf of a user, or with an empty service a user credential."""
    stub = await replica.stub(SemanticCacheServiceStub, tenant=tenant, user=user, service=service, scopes=scopes)
    return Asker(stub)


@pytest.fixture
async def replica(hosting: Hosting) -> AsyncIterator[Replica]:
    """One replica."""
    async with hosting.replica("semantic_cache", build) as running:
        yield running


@pytest.fixture
async def cache_(replica: Replica) -> Asker:
    """The orchestrator of tenant acme."""
    return await asker(replica)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    """What the cache asks of others."""
    async with Peers.serving() as serving:
        yield serving


@pytest.fixture
def joined(hosting: Hosting, peers: Peers) -> Callable[..., AbstractAsyncContextManager[Replica]]:
    """Starts replicas that reach the peers; takes settings of the cache."""

    # Patient with a busy machine, and without samples that nobody asked for.
    patient = {"embed_timeout": 5.0, "check_timeout": 5.0, "sample_rate": 0.0}

    def start(**cache: Any) -> AbstractAsyncContextManager[Replica]:
        return hosting.replica(
            "semantic_cache",
            build,
            peers=PeersSettings(embedding=peers.address, archival=peers.address, max_attempts=1),
            semantic_cache=SemanticCacheSettings(**patient | cache),
        )

    return start


@pytest.fixture
async def meaning(joined: Callable[..., AbstractAsyncContextManager[Replica]]) -> AsyncIterator[Replica]:
    """One replica with a calibrated space."""
    async with joined() as running:
        yield running


@pytest.fixture
async def asking(meaning: Replica) -> Asker:
    """The orchestrator of tenant acme, at a replica that finds other words."""
    return await asker(meaning)
