"""The background worker that gives waiting passages their vectors, and catches up after an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio
import structlog

from mneme.archival.embedder import MAX_REQUEST_BYTES, Embedder
from mneme.archival.records import Embedded
from mneme.archival.store import index_queue
from mneme.archival.store.index_queue import Claim, Text
from mneme.embedding.v1 import embedding_pb2
from mneme.runtime import call, errors
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Database
from mneme.runtime.errors import Error, from_rpc_error

ACTOR = "service:archival"

# No text is to blame for these.
_SERVICE_FAILURES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
_LONGEST_DELAY = 300.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the worker works and how it backs off, in seconds."""

    poll: float
    """Longest time between two looks at the queue; a write of this process wakes the worker at once."""
    longest_pause: float
    """Longest pause while the embedding service fails; each failure doubles the pause."""
    lease: float
    """Time after which a claim of a dead worker is taken over."""
    batch: int
    """Passages claimed at once, at most 256."""
    attempts: int
    """Claims after which a text counts as failed that fails although its neighbours do not."""
    retry_failed: float
    """Time after which a failed text is tried again."""


class Indexer:
    """Claims passages over all tenants, a tenant's batch at a time."""

    def __init__(self, database: Database, embedder: Embedder, pace: Pace) -> None:
        self._database = database
        self._embedder = embedder
        self._pace = pace
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work in the background."""
        self._task = asyncio.create_task(self._run(), name="archival indexer")

    def wake(self) -> None:
        """Tells the worker that passages wait."""
        self._wake.set()

    async def drain(self) -> None:
        """Lets the running batch finish and takes no other."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Ends the worker; what it had claimed is due again after the lease."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        pause = 0.0
        while not self._stopping:
            self._wake.clear()
            try:
                claimed, healthy = await self._round()
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                # The database is away, or a claim could not be settled: the lease brings it back.
                log.warning("indexing_failed", **errors.logged(error))
                claimed, healthy = 0, False
            if healthy:
                pause = 0.0
                if claimed < self._pace.batch:
                    await self._sleep(self._pace.poll, wakeable=True)
            else:
                pause = min(max(2 * pause, 0.1), self._pace.longest_pause)
                await self._sleep(pause, wakeable=False)

    async def _sleep(self, seconds: float, *, wakeable: bool) -> None:
        if self._stopping:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
                while not wakeable and not self._stopping:
                    self._wake.clear()
                    await self._wake.wait()

    async def _round(self) -> tuple[int, bool]:
        """Returns how many passages were claimed, and whether the embedding service answered."""
        async with self._database.work() as tx:
            claims = await index_queue.claim(tx, limit=self._pace.batch, lease_seconds=self._pace.lease)
        by_tenant: dict[str, list[Claim]] = defaultdict(list)
        for claim in claims:
            by_tenant[claim.tenant_id].append(claim)
        healthy = True
        for tenant, mine in by_tenant.items():
            with call.enter(Call(Principal(tenant=tenant, actor=ACTOR))):
                healthy = await self._index(tenant, mine) and healthy
        return len(claims), healthy

    async def _index(self, tenant: str, claims: Sequence[Claim]) -> bool:
        ids = [claim.passage_id for claim in claims]
        async with self._database.tenant(tenant) as tx:
            texts = await index_queue.texts(tx, tenant, ids)
        healthy = True
        for part in _parts(texts):
            try:
                await self._save(tenant, part, await self._embed([text.text for text in part]))
            except grpc.aio.AioRpcError as error:
                healthy = await self._one_by_one(tenant, part, claims, error) and healthy
        async with self._database.tenant(tenant) as tx:
            await index_queue.finish(tx, tenant, ids)
        return healthy

    async def _embed(self, texts: Sequence[str]) -> list[Embedded | None]:
        return await self._embedder.embed(texts, embedding_pb2.INPUT_TYPE_DOCUMENT, embedding_pb2.PRIORITY_BULK)

    async def _save(self, tenant: str, texts: Sequence[Text], made: Sequence[Embedded | None]) -> None:
        by_owner: dict[str, list[tuple[Text, Embedded]]] = defaultdict(list)
        for text, embedded in zip(texts, made, strict=True):
            if embedded is not None:
                by_owner[text.owner_id].append((text, embedded))
        for owner_id, done in by_owner.items():
            async with self._database.tenant(tenant) as tx:
                await index_queue.save(tx, tenant, owner_id, done)
        for text, embedded in zip(texts, made, strict=True):
            if embedded is None:
                await self._give_up(tenant, text, "the model finds no meaning in the text")

    async def _one_by_one(
        self, tenant: str, texts: Sequence[Text], claims: Sequence[Claim], error: grpc.aio.AioRpcError
    ) -> bool:
        """Finds the text that made a batch fail; returns False when it is not one text but the service."""
        failure = from_rpc_error(error)
        log.warning("embedding_failed", texts=len(texts), reason=failure.reason_name)
        if failure.code in _SERVICE_FAILURES:
            await self._postpone(tenant, [text.id for text in texts], seconds=0.0)
            return False
        answered, refused = False, list[tuple[Text, Error]]()
        for text in texts:
            try:
                await self._save(tenant, [text], await self._embed([text.text]))
                answered = True
            except grpc.aio.AioRpcError as single:
                refused.append((text, from_rpc_error(single)))
        attempts = {claim.passage_id: claim.attempts for claim in claims}
        for text, why in refused:
            its_fault = why.code is grpc.StatusCode.INVALID_ARGUMENT
            # Without a neighbour that went through, it may be the service that refuses everything.
            if its_fault or (answered and attempts[text.id] >= self._pace.attempts):
                await self._give_up(tenant, text, why.message)
                answered = True
            else:
                await self._postpone(tenant, [text.id], seconds=min(2.0 ** attempts[text.id], _LONGEST_DELAY))
        return answered

    async def _give_up(self, tenant: str, text: Text, error: str) -> None:
        log.warning("passage_not_indexed", passage=text.id, error=error)
        async with self._database.tenant(tenant) as tx:
            await index_queue.fail(tx, tenant, text, error, retry_seconds=self._pace.retry_failed)

    async def _postpone(self, tenant: str, passage_ids: Sequence[str], *, seconds: float) -> None:
        async with self._database.tenant(tenant) as tx:
            await index_queue.postpone(tx, tenant, passage_ids, seconds=seconds)


def _parts(texts: Sequence[Text]) -> list[list[Text]]:
    """Returns the texts in parts that fit one request."""
    parts: list[list[Text]] = []
    size = 0
    for text in texts:
        bytes_ = len(text.text.encode())
        if not parts or size + bytes_ > MAX_REQUEST_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += bytes_
    return parts
