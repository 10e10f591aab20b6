"""Embeds batches of texts through cache and provider: order kept, the same text asked once.

A text that somebody asks for already is waited for, not asked again, whether in this process or, for a while, in
another one. The provider's work belongs to no caller: it goes on when the one who caused it leaves, since others may
wait for it, and fills the cache.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from mneme.embedding.dispatch import Dispatcher, Flight, Policy
from mneme.embedding.fair_queue import Kind, Urgency
from mneme.embedding.provider import Embedded, InputType, Model, Provider, Result, TooLong, Unfit
from mneme.embedding.quota import Quotas, estimated_tokens
from mneme.embedding.vectors import Vector
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, invalid

_TOKENS_AS_DEAR_AS_A_CALL = 256
_POLL_FIRST = 0.005
_POLL_MOST = 0.05


class Source(StrEnum):
    """Where a vector came from."""

    CACHE = "cache"
    JOINED = "joined"
    """This process asked for it already, for another call or for this one."""
    PEER = "peer"
    """Another process asked for it at the same time."""
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
    saved_tokens: int
    """Tokens that were not billed, because the vector was there already or others asked for it too."""


class VectorCache(Protocol):
    """Where vectors are kept for a while. It never fails: what it cannot do is a miss."""

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        """Returns those that are there."""

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        """Keeps vectors, and gives up the claims on them."""

    async def claim(self, keys: Sequence[str], *, urgent: bool) -> set[str]:
        """Returns those that the caller shall ask the provider for: not there, and asked for by no other process.

        Args:
            keys: Of vectors that were not there a moment ago.
            urgent: Somebody waits: also returns those that another process asks for as bulk work.
        """

    async def unclaimed(self, keys: Sequence[str]) -> set[str]:
        """Returns those that no process asks for any more."""

    async def release(self, keys: Sequence[str]) -> None:
        """Gives up claims without a vector."""


@dataclass(slots=True, eq=False)
class _Sought(Flight):
    """A text that somebody waits for, from the cache look-up on."""

    source: Source = Source.PROVIDER


class Gateway:
    """One provider behind one cache."""

    def __init__(
        self,
        provider: Provider,
        cache: VectorCache,
        secret: bytes,
        *,
        policy: Policy,
        quotas: Quotas,
        weight: Callable[[str], float] = lambda _: 1.0,
        join_wait: float = 0.0,
    ) -> None:
        """Args:
        provider: The space's model.
        cache: Shared by all replicas.
        secret: Makes cache keys that nobody can guess texts from; the same on all replicas.
        policy: How the provider is treated.
        quotas: What tenants may use.
        weight: Share of a tenant beside the others', above 0.
        join_wait: Longest wait in seconds for a vector that another process asks for; 0 never waits.
        """
        self._model = provider.model
        self._cache = cache
        self._secret = secret
        self._quotas = quotas
        # A model in this process has the vector before another process could be asked for it.
        self._join_wait = 0.0 if provider.model.local else join_wait
        self._flights: dict[str, _Sought] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.dispatcher = Dispatcher(provider, policy, weight, self._settle)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        tenant: str,
        input_type: InputType,
        truncate: bool,
        urgency: Urgency = Urgency.INTERACTIVE,
        deadline: float = math.inf,
    ) -> list[Outcome]:
        """Returns the vectors of the texts, in their order; an empty list for no texts.

        Args:
            texts: None empty.
            tenant: Whose they are; nobody finds out through the cache what another tenant embedded.
            input_type: What they are embedded for.
            truncate: Cuts a text that is too long instead of refusing the call.
            urgency: Whether somebody waits.
            deadline: When the caller gives up, in seconds of the loop's clock.

        Raises:
            Error: REASON_TEXT_TOO_LONG or REASON_INVALID_FIELD naming the text, REASON_QUOTA_EXCEEDED, or the
                provider's failure.
        """
        kind = Kind(input_type if self._model.asymmetric else InputType.DOCUMENT, truncate)
        keys = self.keys(texts, tenant, input_type)
        sought: dict[str, _Sought] = {}
        begun: dict[str, _Sought] = {}
        for key, text in dict(zip(keys, texts, strict=True)).items():
            name = _name(key, kind)
            flight = self._flights.get(name)
            if flight is None:
                cost = 1.0 + estimated_tokens(text) / _TOKENS_AS_DEAR_AS_A_CALL
                flight = _Sought(tenant, kind, urgency, cost, key=key, text=text, deadline=deadline)
                self._flights[name] = begun[key] = flight
            elif urgency is Urgency.INTERACTIVE:
                self.dispatcher.hurry(flight)
            flight.deadline = max(flight.deadline, deadline)
            flight.waiters += 1
            sought[key] = flight
        if begun:
            self._spawn(self._resolve(list(begun.values())), list(begun.values()))
        try:
            found = {key: await _landed(flight) for key, flight in sought.items()}
        finally:
            for flight in sought.values():
                flight.waiters -= 1
        return _in_order(keys, found, {key: _source(key, flight, begun) for key, flight in sought.items()}, self._model)

    def keys(self, texts: Sequence[str], tenant: str, input_type: InputType) -> list[str]:
        """Returns the names of the texts' vectors in the cache, 64 hex digits each, in their order."""
        use = input_type if self._model.asymmetric else ""
        return [hmac.digest(self._secret, f"{tenant}\0{use}\0{text}".encode(), hashlib.sha256).hex() for text in texts]

    async def close(self) -> None:
        """Ends what is running and frees the provider."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.dispatcher.close()

    async def _resolve(self, flights: Sequence[_Sought]) -> None:
        """Ends flights whose vectors are there, and sees to it that somebody asks for the others."""
        missing = await self._look_up(flights, Source.CACHE)
        elsewhere: list[_Sought] = []
        if missing and self._join_wait:
            urgent = missing[0].urgency is Urgency.INTERACTIVE
            own = await self._cache.claim([flight.key for flight in missing], urgent=urgent)
            elsewhere = [flight for flight in missing if flight.key not in own]
            missing = [flight for flight in missing if flight.key in own]
        if elsewhere:
            self._spawn(self._await_peers(elsewhere), elsewhere)
        await self._ask(missing)

    async def _await_peers(self, flights: Sequence[_Sought]) -> None:
        """Waits for the vectors that other processes ask for; asks itself for those that do not come in time."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._join_wait, _POLL_FIRST
        while flights and loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(_POLL_MOST, 2 * pause)
            # First who asks, then what is there: who gives a claim up has kept the vector before.
            given_up = await self._cache.unclaimed([flight.key for flight in flights])
            flights = await self._look_up(flights, Source.PEER)
            await self._ask([flight for flight in flights if flight.key in given_up])
            flights = [flight for flight in flights if flight.key not in given_up]
        await self._ask(flights)

    async def _look_up(self, flights: Sequence[_Sought], source: Source) -> list[_Sought]:
        """Ends the flights whose vectors are in the cache; returns the others."""
        cached = await self._cache.get([flight.key for flight in flights])
        missing: list[_Sought] = []
        for flight in flights:
            vector = cached.get(flight.key)
            if vector is None:
                missing.append(flight)
                continue
            flight.source = source
            # A vector of a cut text does not serve a call that wants none cut.
            cut = vector.truncated and not flight.kind.truncate
            self._land(flight, TooLong(self._model.max_tokens) if cut else vector)
        return missing

    async def _ask(self, flights: Sequence[_Sought]) -> None:
        """Hands texts to the provider, as far as the tenant's quota goes."""
        if not flights:
            return
        try:
            await self._quotas.charge(flights[0].tenant, sum(estimated_tokens(flight.text) for flight in flights))
        except Error as error:
            for flight in flights:
                flight.fail(error)
            self._settle(flights)
            return
        self.dispatcher.submit(flights)

    def _land(self, flight: _Sought, result: Result) -> None:
        if not flight.future.done():
            flight.future.set_result(result)
        self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        self._flights.pop(_name(flight.key, flight.kind), None)

    def _settle(self, flights: Sequence[Flight]) -> None:
        """Keeps the vectors of flights that ended; until that is done, they answer who asks again."""
        made: dict[str, Embedded] = {}
        rest: list[str] = []
        for flight in flights:
            failed = flight.future.exception() is not None
            result = None if failed else flight.future.result()
            if isinstance(result, Embedded):
                made[flight.key] = result
            else:
                rest.append(flight.key)
                self._forget(flight)
        self._spawn(self._keep(made, [flight for flight in flights if flight.key in made], rest), flights)

    async def _keep(self, made: Mapping[str, Embedded], flights: Sequence[Flight], rest: Sequence[str]) -> None:
        try:
            if self._join_wait and rest:
                await self._cache.release(rest)
            await self._cache.put(made)
        finally:
            for flight in flights:
                self._forget(flight)

    def _spawn(self, work: Coroutine[Any, Any, None], flights: Sequence[Flight]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._done, flights))

    def _done(self, flights: Sequence[Flight], task: asyncio.Task[None]) -> None:
        """Forgets a task; whoever still waits for its flights learns why it ended before them."""
        self._tasks.discard(task)
        failure = _shutting_down() if task.cancelled() else task.exception()
        if failure is not None:
            for flight in flights:
                flight.fail(failure)
                self._forget(flight)


def _shutting_down() -> Error:
    return Error(errors_pb2.REASON_SHUTTING_DOWN, "the server is shutting down")


def _name(key: str, kind: Kind) -> str:
    return f"{key}:{kind.truncate:d}"


async def _landed(flight: Flight) -> Result:
    """The outcome of a flight. Shielded: the work is shared with calls that outlive this one."""
    return flight.future.result() if flight.future.done() else await asyncio.shield(flight.future)


def _source(key: str, flight: _Sought, begun: Mapping[str, _Sought]) -> Source:
    return Source.JOINED if flight.source is Source.PROVIDER and key not in begun else flight.source


def _in_order(
    keys: Iterable[str], found: Mapping[str, Result], sources: Mapping[str, Source], model: Model
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    seen: set[str] = set()
    for index, key in enumerate(keys):
        result = found[key]
        if isinstance(result, TooLong):
            raise _too_long(index, result)
        if isinstance(result, Unfit):
            raise invalid(f"texts[{index}]", f"{model.name} refuses it: {result.why}", model=model.name)
        # The same text once more in one call joins the first.
        again = sources[key] is Source.PROVIDER and key in seen
        source = Source.JOINED if again else sources[key]
        seen.add(key)
        tokens = (result.token_count, 0) if source is Source.PROVIDER else (0, result.token_count)
        outcomes.append(Outcome(result.vector, result.truncated, source, *tokens))
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
