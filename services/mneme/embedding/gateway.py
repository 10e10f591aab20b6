"""Embeds batches of texts through cache and provider: order kept, the same text asked once.

A text that somebody in this process asks for already is waited for, not asked again. The provider's work
belongs to no caller: it goes on when the one who caused it leaves, since others may wait for it, and fills the
cache. Limits on who may ask how much, and in which order, belong where `_start` hands batches out.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mneme.embedding.provider import Embedded, InputType, Provider, TooLong
from mneme.embedding.vectors import Vector
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, invalid

_Future = asyncio.Future[Embedded | TooLong]


class Source(StrEnum):
    """Where a vector came from."""

    CACHE = "cache"
    JOINED = "joined"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The vector of one text."""

    vector: Vector
    """float32[dimensions], of Euclidean length 1."""
    truncated: bool
    """True when only the beginning of the text was embedded."""
    source: Source
    token_count: int
    """Tokens billed for it; 0 unless this call caused the provider's work."""


class VectorCache(Protocol):
    """Where vectors are kept for a while. It never fails: what it cannot do is a miss."""

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        """Returns those that are there."""

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        """Keeps vectors."""


class Gateway:
    """One provider behind one cache."""

    def __init__(self, provider: Provider, cache: VectorCache, secret: bytes) -> None:
        """Args:
        provider: The active space's model.
        cache: Shared by all replicas.
        secret: Makes cache keys that nobody can guess texts from; the same on all replicas.
        """
        self._provider = provider
        self._cache = cache
        self._secret = secret
        self._running: dict[str, _Future] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str], *, tenant: str, input_type: InputType, truncate: bool) -> list[Outcome]:
        """Returns the vectors of the texts, in their order; an empty list for no texts.

        Args:
            texts: None empty.
            tenant: Whose they are; nobody finds out through the cache what another tenant embedded.
            input_type: What they are embedded for.
            truncate: Cuts a text that is too long instead of refusing the call.

        Raises:
            Error: REASON_TEXT_TOO_LONG naming the text, or the provider's failure.
        """
        keys = [self._key(text, tenant, input_type) for text in texts]
        unique = dict(zip(keys, texts, strict=True))
        cached = await self._cache.get(list(unique))
        found: dict[str, Embedded | TooLong] = {
            key: self._allowed(vector, truncate=truncate) for key, vector in cached.items()
        }
        sources = dict.fromkeys(found, Source.CACHE)
        waiting: dict[str, _Future] = {}
        missing: dict[str, str] = {}
        for key, text in unique.items():
            if key in found:
                continue
            flight = _flight(key, truncate=truncate)
            if flight in self._running:
                waiting[key], sources[key] = self._running[flight], Source.JOINED
            else:
                missing[key], sources[key] = text, Source.PROVIDER
        waiting |= self._start(missing, input_type, truncate=truncate)
        if waiting:
            # Shielded: the work is shared with calls that outlive this one.
            results = await asyncio.gather(*(asyncio.shield(future) for future in waiting.values()))
            found |= zip(waiting, results, strict=True)
        return _in_order(keys, found, sources)

    async def close(self) -> None:
        """Cancels what is running and frees the provider."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._provider.close()

    def _key(self, text: str, tenant: str, input_type: InputType) -> str:
        kind = input_type if self._provider.model.asymmetric else ""
        digest = hmac.new(self._secret, f"{tenant}\0{kind}\0{text}".encode(), hashlib.sha256)
        return digest.hexdigest()

    def _allowed(self, vector: Embedded, *, truncate: bool) -> Embedded | TooLong:
        """A vector of a cut text does not serve a call that wants none cut."""
        return TooLong(self._provider.model.max_tokens) if vector.truncated and not truncate else vector

    def _start(self, texts: Mapping[str, str], input_type: InputType, *, truncate: bool) -> dict[str, _Future]:
        """Hands texts to the provider in batches; returns the futures of their outcomes."""
        loop = asyncio.get_running_loop()
        futures: dict[str, _Future] = {key: loop.create_future() for key in texts}
        size = self._provider.model.batch_size
        keys = list(texts)
        for start in range(0, len(keys), size):
            batch = {key: futures[key] for key in keys[start : start + size]}
            flights = {_flight(key, truncate=truncate): future for key, future in batch.items()}
            self._running |= flights
            task = loop.create_task(self._run(batch, [texts[key] for key in batch], input_type, truncate))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._ended, flights))
        return futures

    async def _run(
        self, batch: Mapping[str, _Future], texts: Sequence[str], input_type: InputType, truncate: bool
    ) -> None:
        try:
            outcomes = await self._provider.embed(texts, input_type, truncate=truncate)
        except Error as error:
            for future in batch.values():
                future.set_exception(error)
                future.exception()  # read once, as its caller may have left
            return
        for future, outcome in zip(batch.values(), outcomes, strict=True):
            future.set_result(outcome)
        made = zip(batch, outcomes, strict=True)
        await self._cache.put({key: outcome for key, outcome in made if isinstance(outcome, Embedded)})

    def _ended(self, flights: Mapping[str, _Future], task: asyncio.Task[None]) -> None:
        """Forgets a batch; whoever still waits learns why it ended without an outcome."""
        self._tasks.discard(task)
        failure = _shutting_down() if task.cancelled() else task.exception()
        for flight, future in flights.items():
            del self._running[flight]
            if not future.done() and failure is not None:
                future.set_exception(failure)
                future.exception()


def _shutting_down() -> Error:
    return Error(errors_pb2.REASON_SHUTTING_DOWN, "the server is shutting down")


def _flight(key: str, *, truncate: bool) -> str:
    return f"{key}:{truncate:d}"


def _in_order(
    keys: Iterable[str], found: Mapping[str, Embedded | TooLong], sources: Mapping[str, Source]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    billed: set[str] = set()
    for index, key in enumerate(keys):
        result = found[key]
        if isinstance(result, TooLong):
            raise _too_long(index, result)
        first = sources[key] is Source.PROVIDER and key not in billed
        billed.add(key)
        outcomes.append(Outcome(result.vector, result.truncated, sources[key], result.token_count if first else 0))
    return outcomes


def _too_long(index: int, text: TooLong) -> Error:
    field = f"texts[{index}]"
    limit = f"{text.limit} {text.unit}"
    if text.size is None:
        problem, size = f"longer than the {limit} that the model takes", {}
    else:
        problem = f"{text.size} {text.unit}, the model takes {limit}"
        size = {"size": str(text.size)}
    return invalid(field, problem, errors_pb2.REASON_TEXT_TOO_LONG, limit=str(text.limit), unit=text.unit, **size)
