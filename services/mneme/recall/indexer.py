"""Indexes messages by meaning in the background: durable work, done again until it is done."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta

import grpc.aio
import structlog

from mneme.embedding.v1 import embedding_pb2
from mneme.recall.records import Role
from mneme.recall.store import queue
from mneme.recall.store.queue import Claim, Unindexed
from mneme.runtime import call, errors
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Database
from mneme.runtime.errors import from_rpc_error
from mneme.runtime.peers import Peers
from mneme.settings import RecallSettings

MAX_TEXT_CHARS = 16_000
"""Characters of a message that its vector tells of."""
_MAX_CALL_CHARS = 400_000
_EMBED_SECONDS = 30.0
_LONGEST_DELAY = timedelta(minutes=5)
# No text is to blame for these.
_SERVICE_FAILURES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)
# These say something about one text.
_ABOUT_THE_TEXT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)

Vectors = Mapping[str, Sequence[float]]
"""By message id."""

log = structlog.stdlib.get_logger("mneme.recall.indexer")


class Indexer:
    """A task that gives waiting messages their vectors."""

    def __init__(self, database: Database, peers: Peers, settings: RecallSettings) -> None:
        self._database = database
        self._peers = peers
        self._settings = settings
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the task."""
        self._task = asyncio.create_task(self._run(), name="recall indexer")

    def wake(self) -> None:
        """Says that there is work now; without it the work is found by the next poll."""
        self._wake.set()

    async def drain(self) -> None:
        """Lets the running batch finish and takes no more."""
        self._ending.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def stop(self) -> None:
        """Ends the task at once; its claims come back when their lease ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = 0.0
        while not self._ending.is_set():
            self._wake.clear()
            try:
                busy, healthy = await self._round()
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                # The database is away, or a claim could not be settled: the lease brings it back.
                log.warning("indexing_failed", **errors.logged(error))
                busy, healthy = False, False
            if not healthy:
                # New work does not shorten the pause: the service behind it is down for old and new alike.
                pause = min(max(2 * pause, 0.1), self._settings.index_backoff_max)
                await self._sleep(self._ending, pause)
                continue
            pause = 0.0
            if not busy:
                await self._sleep(self._wake, self._settings.index_poll_interval)
                # Turns that follow each other closely share one round; one alone is still found within the second.
                await self._sleep(self._ending, self._settings.index_linger)

    async def _sleep(self, until: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(until.wait(), seconds)
        except TimeoutError:
            return

    async def _round(self) -> tuple[bool, bool]:
        """Claims and indexes one batch; returns whether there was any, and whether the embedding service answered."""
        lease = timedelta(seconds=self._settings.index_lease)
        async with self._database.work() as tx:
            claims = await queue.claim(tx, limit=self._settings.index_batch_size, lease=lease)
        by_tenant: dict[str, list[Claim]] = defaultdict(list)
        for one in claims:
            by_tenant[one.tenant].append(one)
        healthy = True
        for tenant, own in by_tenant.items():
            principal = Principal(tenant=tenant, actor="recall indexer", service="recall")
            deadline = asyncio.get_running_loop().time() + _EMBED_SECONDS
            with call.enter(Call(principal, deadline)):
                healthy = await self._index_tenant(tenant, own) and healthy
        return bool(claims), healthy

    async def _index_tenant(self, tenant: str, claims: Sequence[Claim]) -> bool:
        async with self._database.tenant(tenant) as tx:
            messages = await queue.texts(tx, [one.message_id for one in claims], chars=MAX_TEXT_CHARS)
            known = {one.message_id for one in messages}
            deleted = [one.message_id for one in claims if one.message_id not in known]
            if deleted:
                await queue.done(tx, deleted)
        by_id = {one.message_id: one for one in claims}
        healthy = True
        for part in _parts(messages):
            healthy = await self._index_part(tenant, part, by_id) and healthy
        return healthy

    async def _index_part(self, tenant: str, messages: Sequence[Unindexed], claims: dict[str, Claim]) -> bool:
        """Indexes messages that fit one call; returns False when embedding does not answer for any of them."""
        try:
            await self._embed_and_store(tenant, messages, claims)
        except grpc.aio.AioRpcError as error:
            log.warning("embedding_failed", texts=len(messages), reason=from_rpc_error(error).reason_name)
            if error.code() not in _SERVICE_FAILURES:
                return await self._one_by_one(tenant, messages, claims)
            await self._release([claims[one.message_id] for one in messages], [timedelta()] * len(messages))
            return False
        return True

    async def _embed_and_store(self, tenant: str, messages: Sequence[Unindexed], claims: dict[str, Claim]) -> None:
        (space_id, vectors), (other_id, beside) = await asyncio.gather(self._embed(messages), self._beside(messages))
        async with self._database.tenant(tenant) as tx:
            await queue.store_vectors(tx, space_id, vectors)
            if beside and other_id != space_id:
                await queue.store_beside(tx, other_id, {name: beside[name] for name in vectors if name in beside})
            await queue.done(tx, list(vectors))
        for message in messages:
            if message.message_id not in vectors:
                await self._fail(tenant, claims[message.message_id], "the model finds no meaning in the text")

    async def _embed(self, messages: Sequence[Unindexed], space_id: str = "") -> tuple[str, Vectors]:
        request = embedding_pb2.EmbedRequest(
            texts=[indexed_text(one) for one in messages],
            input_type=embedding_pb2.INPUT_TYPE_DOCUMENT,
            priority=embedding_pb2.PRIORITY_BULK,
            overflow=embedding_pb2.OVERFLOW_TRUNCATE,
            space_id=space_id,
        )
        response = await self._peers.embedding.Embed(request)
        return response.space_id, {
            message.message_id: embedding.values
            for message, embedding in zip(messages, response.embeddings, strict=True)
            if is_direction(embedding.values)
        }

    async def _beside(self, messages: Sequence[Unindexed]) -> tuple[str, Vectors]:
        """Returns the vectors in the space beside the active one; none where there is no other, or it does not
        answer: re-embedding finds what lacks one.
        """
        try:
            spaces = await self._peers.embedding.GetSpace(embedding_pb2.GetSpaceRequest())
            return await self._embed(messages, spaces.next.space_id) if spaces.HasField("next") else ("", {})
        except grpc.aio.AioRpcError as error:
            log.warning("not_embedded_beside", texts=len(messages), reason=from_rpc_error(error).reason_name)
            return "", {}

    async def _one_by_one(self, tenant: str, messages: Sequence[Unindexed], claims: dict[str, Claim]) -> bool:
        """Finds the text that made a batch fail; returns False when it is not one text but the service."""
        answered, refused = False, list[tuple[Claim, grpc.aio.AioRpcError]]()
        for message in messages:
            try:
                await self._embed_and_store(tenant, [message], claims)
                answered = True
            except grpc.aio.AioRpcError as error:
                refused.append((claims[message.message_id], error))
        for claim, why in refused:
            its_fault = why.code() in _ABOUT_THE_TEXT
            # Without a neighbour that went through, it may be the service that refuses everything.
            if its_fault or (answered and claim.attempts >= self._settings.index_attempts):
                await self._fail(tenant, claim, from_rpc_error(why).reason_name)
                answered = True
            else:
                await self._release([claim], [min(_LONGEST_DELAY, timedelta(seconds=2 ** min(claim.attempts, 16)))])
        return answered

    async def _fail(self, tenant: str, claim: Claim, reason: str) -> None:
        """Leaves a text to search by words, until an attempt much later succeeds."""
        log.warning("message_not_indexed", message_id=claim.message_id, attempts=claim.attempts, reason=reason)
        async with self._database.tenant(tenant) as tx:
            await queue.fail(tx, claim.message_id)
        await self._release([claim], [timedelta(seconds=self._settings.index_retry_failed)])

    async def _release(self, claims: Sequence[Claim], delays: Sequence[timedelta]) -> None:
        async with self._database.work() as tx:
            await queue.release(tx, claims, delays)


def indexed_text(message: Unindexed) -> str:
    """Returns what is embedded of a message: speaker and words, as questions often name who said something."""
    return f"{message.speaker or Role(message.role).name.lower()}: {message.text}"


def is_direction(vector: Sequence[float]) -> bool:
    """Returns whether a vector points anywhere: all components finite, not all zero."""
    return all(math.isfinite(value) for value in vector) and any(vector)


def _parts(messages: Sequence[Unindexed]) -> list[list[Unindexed]]:
    """Cuts messages into calls of a bounded size."""
    parts: list[list[Unindexed]] = []
    size = _MAX_CALL_CHARS
    for message in messages:
        size += len(message.text)
        if size > _MAX_CALL_CHARS:
            parts.append([])
            size = len(message.text)
        parts[-1].append(message)
    return parts
