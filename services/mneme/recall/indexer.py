"""Indexes messages by meaning in the background: durable work, done again until it is done."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
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
from mneme.runtime.errors import Error, from_rpc_error
from mneme.runtime.peers import Peers
from mneme.settings import RecallSettings

_MAX_TEXT_CHARS = 16_000
_MAX_CALL_CHARS = 400_000
_LEASE = timedelta(seconds=60)
_EMBED_SECONDS = 30.0
_WORST_DELAY = timedelta(hours=1)
# Codes that say something about one text; every other failure is about the service, and so about all texts.
_ABOUT_THE_TEXT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)

log = structlog.stdlib.get_logger("mneme.recall.indexer")


class Indexer:
    """A task that gives waiting messages their vectors."""

    def __init__(self, database: Database, peers: Peers, settings: RecallSettings) -> None:
        self._database = database
        self._peers = peers
        self._settings = settings
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._failures = 0
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
        while not self._ending.is_set():
            self._wake.clear()
            try:
                busy = await self._round()
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                self._failures += 1
                log.warning("index_round_failed", failures=self._failures, **errors.logged(error))
                busy = False
            if self._failures:
                await self._rest()
            elif not busy:
                await self._sleep(self._wake, self._settings.index_poll_interval)
                # Turns that follow each other closely share one round; one alone is still found within the second.
                await self._sleep(self._ending, self._settings.index_linger)

    async def _rest(self) -> None:
        # New work does not shorten the rest: the service behind it is down for old and new alike.
        longest = self._settings.index_backoff_max
        await self._sleep(self._ending, min(longest, 0.1 * 2 ** min(self._failures, 16)))

    async def _sleep(self, until: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(until.wait(), seconds)
        except TimeoutError:
            return

    async def _round(self) -> bool:
        """Claims and indexes one batch; returns whether there was any."""
        async with self._database.work() as tx:
            claims = await queue.claim(tx, limit=self._settings.index_batch_size, lease=_LEASE)
        by_tenant: dict[str, list[Claim]] = defaultdict(list)
        for one in claims:
            by_tenant[one.tenant].append(one)
        try:
            for tenant, own in by_tenant.items():
                principal = Principal(tenant=tenant, actor="recall indexer", service="recall")
                deadline = asyncio.get_running_loop().time() + _EMBED_SECONDS
                with call.enter(Call(principal, deadline)):
                    await self._index_tenant(tenant, own)
        except Error:
            # Those that are done left the queue, so this touches the rest only.
            await self._release(claims, [timedelta()] * len(claims))
            raise
        self._failures = 0
        return bool(claims)

    async def _index_tenant(self, tenant: str, claims: Sequence[Claim]) -> None:
        async with self._database.tenant(tenant) as tx:
            messages = await queue.texts(tx, [one.message_id for one in claims], chars=_MAX_TEXT_CHARS)
            known = {one.message_id for one in messages}
            deleted = [one.message_id for one in claims if one.message_id not in known]
            if deleted:
                await queue.done(tx, deleted)
        by_id = {one.message_id: one for one in claims}
        for part in _parts(messages):
            await self._index_part(tenant, part, by_id)

    async def _index_part(self, tenant: str, messages: Sequence[Unindexed], claims: dict[str, Claim]) -> None:
        request = embedding_pb2.EmbedRequest(
            texts=[indexed_text(one) for one in messages],
            input_type=embedding_pb2.INPUT_TYPE_DOCUMENT,
            priority=embedding_pb2.PRIORITY_BULK,
            overflow=embedding_pb2.OVERFLOW_TRUNCATE,
        )
        try:
            response = await self._peers.embedding.Embed(request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _ABOUT_THE_TEXT:
                raise from_rpc_error(error) from error
            await self._refused(tenant, messages, claims)
            return
        vectors = {
            message.message_id: embedding.values
            for message, embedding in zip(messages, response.embeddings, strict=True)
            if is_direction(embedding.values)
        }
        async with self._database.tenant(tenant) as tx:
            await queue.store_vectors(tx, response.space_id, vectors)
            await queue.done(tx, [one.message_id for one in messages])

    async def _refused(self, tenant: str, messages: Sequence[Unindexed], claims: dict[str, Claim]) -> None:
        """Finds the text that was refused by sending each alone, and tries that one again later and later."""
        if len(messages) > 1:
            for message in messages:
                await self._index_part(tenant, [message], claims)
            return
        own = claims[messages[0].message_id]
        log.warning("index_text_refused", message_id=own.message_id, attempts=own.attempts)
        await self._release([own], [min(_WORST_DELAY, timedelta(seconds=2 ** min(own.attempts, 16)))])

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
