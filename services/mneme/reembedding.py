"""Changes the deployment's vector space while it serves: every text embedded anew, then the switch, then the clean-up.

Each step asks the database what is left to do, so any of them may die and be called again, and two may run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np

from mneme import maintenance
from mneme.archival.store import meaning as passages
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.recall import indexer
from mneme.recall.store import meaning as messages
from mneme.recall.store.queue import Unindexed
from mneme.runtime import call, reembedding
from mneme.runtime.auth import ServiceTokens, SuiteKeys
from mneme.runtime.call import Call, Principal
from mneme.runtime.errors import OperatorError, from_rpc_error
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import Channels, Peers
from mneme.runtime.reembedding import Busy, Count, Rows, Scope, Source
from mneme.settings import Settings

_ACTOR = "mneme reembed"
_BATCH_ROWS = 256
_BATCH_BYTES = 2 * 1024 * 1024
_SETTLED_ROWS = 1000
_EMBED_SECONDS = 60.0
_LONGEST_PAUSE = 30.0
_PAUSE = 0.2

_BUSY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_ABOUT_A_TEXT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)


T = TypeVar("T")


class NothingToDoError(OperatorError):
    """The settings or the deployment name no space to change to."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one service has to embed."""

    service: str
    source: Source
    text: Callable[[Mapping[str, Any]], str]
    """The text of a row, the same that its indexer embeds."""


def _message_text(row: Mapping[str, Any]) -> str:
    return indexer.indexed_text(Unindexed(row["id"], row["role"], row["text"], row["speaker"]))


_PARTS = (
    _Part("archival", Source(passages.CONTENT, "archival.scope", "p.text"), lambda row: str(row["text"])),
    _Part(
        "recall",
        Source(
            messages.CONTENT,
            "recall.vector_revision",
            f"p.role, left(p.text, {indexer.MAX_TEXT_CHARS}) AS text, p.speaker",
        ),
        _message_text,
    ),
)


@dataclass(slots=True)
class Progress:
    """What a step has done so far."""

    rows: int = 0
    """Rows that have, or need, a vector of the new space."""
    done: int = 0
    """Of those, rows that have it."""
    unembeddable: int = 0
    """Texts in which the new model finds nothing: they are found by their words."""
    waiting: str = ""
    """Why the embedding service is being waited for; empty while it answers."""


class Reembedding:
    """The change to one space. Made by `opened`."""

    def __init__(self, settings: Settings, channels: Channels, progress: Progress) -> None:
        self._settings = settings
        self._workers = settings.maintenance.reembed_concurrency
        self._owner_url = settings.database.owner_url.get_secret_value()
        self._peers = {part.service: Peers(channels, part.service) for part in _PARTS}
        self.progress = progress

    async def spaces(self) -> tuple[str, str]:
        """Returns the active space and the one beside it; an empty id where there is none.

        Raises:
            Error: The suite cannot be reached, or refuses.
        """
        with _acting(tenant="", service="archival"):
            try:
                found = await self._peers["archival"].embedding.GetSpace(pb.GetSpaceRequest())
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
        return found.space.space_id, found.next.space_id

    async def require(self, space_id: str) -> str:
        """Returns the active space, when the deployment serves the wanted one as that or beside it.

        Raises:
            NothingToDoError: It does not.
        """
        active, beside = await self.spaces()
        if space_id not in (active, beside):
            raise NothingToDoError(
                f"the deployment serves '{active}'{f' and {beside!r}' if beside else ' and no space beside it'}, the "
                f"settings here name '{space_id}': set models.next_embedding_* for all processes and restart them"
            )
        return active

    async def count(self, space_id: str) -> Count:
        """Returns how many rows there are, and how many of them lack the space; reads each of them."""
        rows = lacking = 0
        async with reembedding.connect(self._owner_url) as connection:
            for part in _PARTS:
                table = Rows(connection, part.source)
                for scope in await table.scopes():
                    one = await table.count(scope, space_id)
                    rows, lacking = rows + one.rows, lacking + one.lacking
        return Count(rows, lacking)

    async def fill(self, space_id: str) -> int:
        """Embeds all that lacks the space; returns how many rows lacked it.

        Raises:
            Error: The embedding service refuses; what was done stays done.
        """
        total = 0
        for part in _PARTS:
            async with reembedding.connect(self._owner_url) as connection:
                scopes = iter(await Rows(connection, part.source).scopes())
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._work(part, scopes, space_id)) for _ in range(self._workers)]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            total += sum(task.result() for task in tasks)
        return total

    async def index(self, space_id: str) -> None:
        """Returns once every large scope is searched through an index in the space too."""
        while True:
            await maintenance.once(self._settings)
            async with reembedding.connect(self._owner_url) as connection:
                missing = [await Rows(connection, part.source).indexes_missing(space_id) for part in _PARTS]
            if not any(missing):
                return
            # Another job is at it, or a lock was held.
            await asyncio.sleep(_PAUSE)

    async def switch(self, space_id: str) -> None:
        """Makes the space the active one of the whole deployment, and embeds what was written while it followed.

        Raises:
            Error: SPACE_MISMATCH while a running process does not have the space in its settings.
        """
        with _acting(tenant="", service="archival"):
            try:
                await self._peers["archival"].embedding.SwitchSpace(pb.SwitchSpaceRequest(space_id=space_id))
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
        await self.follow(space_id)

    async def follow(self, space_id: str) -> None:
        """Embeds what processes write that have not heard of the switch, until all must have."""
        loop = asyncio.get_running_loop()
        heard = loop.time() + 2 * self._settings.embedding.space_poll
        while await self.fill(space_id) or loop.time() < heard:  # noqa: ASYNC110 - what is waited for is elsewhere
            await asyncio.sleep(_PAUSE)

    async def finish(self, space_id: str) -> int:
        """Gives up all vectors of other spaces, and their indexes; returns how many rows held one.

        Not to be taken back. It may follow a switch at once: it waits until all processes must have heard of that.
        """
        await self.follow(space_id)
        settled = 0
        async with reembedding.connect(self._owner_url) as connection:
            for part in _PARTS:
                table = Rows(connection, part.source)
                for scope in await table.scopes():
                    settled += await _settle(table, scope, space_id)
        while True:
            done = await maintenance.once(self._settings)
            if not (done.retired or done.postponed or done.elsewhere):
                return settled
            await asyncio.sleep(_PAUSE)

    async def _work(self, part: _Part, scopes: Iterator[Scope], space_id: str) -> int:
        done = 0
        async with reembedding.connect(self._owner_url) as connection:
            table = Rows(connection, part.source)
            for scope in scopes:
                done += await self._fill_scope(table, part, scope, space_id)
        return done

    async def _fill_scope(self, table: Rows, part: _Part, scope: Scope, space_id: str) -> int:
        done, since = 0, -1
        with _acting(scope.tenant_id, part.service):
            while rows := await table.lacking(scope, space_id, since=since, limit=_BATCH_ROWS):
                texts = {row["id"]: part.text(row) for row in rows}
                vectors = await self._embed(part.service, space_id, texts)
                saved = await _patiently(partial(table.save, scope, space_id, rows, vectors))
                done += saved
                since = rows[0]["read_revision"]
                self.progress.done += saved
                self.progress.unembeddable += len(rows) - len(vectors)
        if done:
            await table.recheck(scope)
        return done

    async def _embed(self, service: str, space_id: str, texts: Mapping[str, str]) -> dict[str, Sequence[float]]:
        """Returns the vectors of texts by id, without those in which the model finds nothing."""
        ids, made = list(texts), dict[str, Sequence[float]]()
        for start, end in pairwise(_borders([texts[id_] for id_ in ids])):
            made |= await self._embed_part(service, space_id, {id_: texts[id_] for id_ in ids[start:end]})
        return made

    async def _embed_part(self, service: str, space_id: str, texts: Mapping[str, str]) -> dict[str, Sequence[float]]:
        request = pb.EmbedRequest(
            texts=texts.values(),
            input_type=pb.INPUT_TYPE_DOCUMENT,
            priority=pb.PRIORITY_BULK,
            overflow=pb.OVERFLOW_TRUNCATE,
            space_id=space_id,
        )
        pause = _PAUSE
        while True:
            try:
                response = await self._peers[service].embedding.Embed(request, timeout=_EMBED_SECONDS)
                break
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error)
                if error.code() in _ABOUT_A_TEXT:
                    return await self._halved(service, space_id, texts)
                if error.code() not in _BUSY:
                    raise failure from error
                self.progress.waiting = failure.message
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self.progress.waiting = ""
        return {id_: one.values for id_, one in zip(texts, response.embeddings, strict=True) if _points(one.values)}

    async def _halved(self, service: str, space_id: str, texts: Mapping[str, str]) -> dict[str, Sequence[float]]:
        """Finds the text that made a batch fail."""
        if len(texts) == 1:
            return {}
        items = list(texts.items())
        middle = len(items) // 2
        first = await self._embed_part(service, space_id, dict(items[:middle]))
        return first | await self._embed_part(service, space_id, dict(items[middle:]))


@asynccontextmanager
async def opened(settings: Settings, address: str) -> AsyncIterator[Reembedding]:
    """Holds what the steps need.

    Args:
        settings: With the owner's URL, the suite's keys, and where peers are.
        address: `host:port` of the suite, where `settings.peers` does not say it.

    Raises:
        ValueError: The owner's URL or the keys are missing.
    """
    tokens = ServiceTokens(SuiteKeys.load(settings.auth), settings.auth)
    channels = Channels(settings.peers, tokens, own_address=address, metrics=Metrics())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(channels.close)
        yield Reembedding(settings, channels, Progress())


def _acting(tenant: str, service: str) -> AbstractContextManager[object]:
    return call.enter(Call(Principal(tenant=tenant or "mneme", actor=_ACTOR, service=service)))


async def _settle(table: Rows, scope: Scope, space_id: str) -> int:
    settled, since = 0, -1
    while True:
        rows, since = await _patiently(partial(table.settle, scope, space_id, since=since, limit=_SETTLED_ROWS))
        if not rows:
            break
        settled += rows
    await table.recheck(scope)
    return settled


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Makes a step again until no writer is in its way."""
    while True:
        try:
            return await step()
        except Busy:
            await asyncio.sleep(_PAUSE)


def _borders(texts: Sequence[str]) -> list[int]:
    """Returns where to cut texts into requests of a bounded size, from 0 to their number."""
    borders, size = [0], 0
    for index, text in enumerate(texts):
        bytes_ = len(text.encode())
        if size and size + bytes_ > _BATCH_BYTES:
            borders.append(index)
            size = 0
        size += bytes_
    return [*borders, len(texts)] if texts else borders


def _points(vector: Sequence[float]) -> bool:
    """Whether a vector has a direction."""
    length = float(np.linalg.norm(np.asarray(vector, dtype=np.float32)))
    return bool(np.isfinite(length)) and length > 1e-6
