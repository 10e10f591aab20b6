"""Hands waiting texts to the provider: gathered into batches, as many calls at once as it bears, again when it fails.

Nothing is delayed while the provider is idle. While calls run, texts of one kind wait for each other for a short time
(Nagle's idea, RFC 896), whichever calls they belong to. A batch never mixes urgencies, so a call that somebody waits
for is never made longer by bulk work, and at most waits until one running call ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from mneme.embedding.breaker import Breaker
from mneme.embedding.fair_queue import FairQueue, Ticket, Urgency
from mneme.embedding.limit import ConcurrencyLimit
from mneme.embedding.provider import Provider, Result, throttled, unavailable
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

_PASSING = (errors_pb2.REASON_PROVIDER_THROTTLED, errors_pb2.REASON_PROVIDER_UNAVAILABLE)
_RETRY_BASE = 0.05
_RETRY_MOST = 2.0
_RETRY_LATER = 1.0
"""Seconds after which callers shall try again when nothing better is known."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a provider is treated."""

    most_calls: int = 16
    """Calls at once."""
    attempts: int = 3
    """Attempts for a text when the provider does not answer, the first one included. Throttling does not count."""
    gather: float = 0.005
    """Seconds for which a text waits for others of its kind while calls run."""
    breaker_failures: int = 5
    """Failures in a row after which the provider is left alone."""
    breaker_seconds: float = 5.0
    """Seconds for which it is left alone."""


@dataclass(slots=True, eq=False)
class Flight(Ticket):
    """A text on its way, with all who wait for it."""

    key: str = ""
    """Names it in the cache."""
    text: str = ""
    deadline: float = math.inf
    """When the last of those who wait gives up, in seconds of the loop's clock."""
    future: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Its outcome."""
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Trace of who asked first."""
    waiters: int = 0
    """Calls that wait for it; without any it is not asked."""
    failures: int = 0
    """Attempts that failed."""

    def fail(self, error: BaseException) -> None:
        """Ends it without a vector."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # read once, as all who waited may have left


Settled = Callable[[Sequence[Flight]], None]


class Dispatcher:
    """The calls of one provider in one process."""

    def __init__(self, provider: Provider, policy: Policy, weight: Callable[[str], float], settled: Settled) -> None:
        """Args:
        provider: Who is asked.
        policy: How it is treated.
        weight: Share of a tenant beside the others', above 0.
        settled: Called with flights that ended, with or without a vector.
        """
        self._provider = provider
        self._policy = policy
        self._settled = settled
        self._queue: FairQueue[Flight] = FairQueue(weight)
        # Of a model in this process a second call only waits inside the first one's thread.
        self._limit = ConcurrencyLimit(1 if provider.model.local else policy.most_calls)
        self._breaker = Breaker(policy.breaker_failures, policy.breaker_seconds)
        self._running: dict[asyncio.Task[None], Sequence[Flight]] = {}
        self._resting: dict[Flight, asyncio.TimerHandle] = {}
        self._wake: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._running)

    @property
    def limit(self) -> float:
        """Calls that may run; see `ConcurrencyLimit.value`."""
        return self._limit.value

    @property
    def broken(self) -> bool:
        """Whether the provider is left alone."""
        return self._breaker.is_open

    def waiting(self, urgency: Urgency) -> int:
        """Returns how many texts wait for their first or next call."""
        return self._queue.count(urgency) + sum(flight.urgency is urgency for flight in self._resting)

    def submit(self, flights: Sequence[Flight]) -> None:
        """Takes texts to be embedded."""
        now = asyncio.get_running_loop().time()
        pause = self._limit.wait(0, now)
        late: list[Flight] = []
        for flight in flights:
            if flight.deadline <= now + pause:
                late.append(flight)
                continue
            flight.entered = now
            self._queue.enter(flight)
        self._end(late, throttled(self._provider.model, max(pause, _RETRY_BASE)))
        self._pump()

    def hurry(self, flight: Flight) -> None:
        """Makes a text interactive: somebody waits for it now."""
        self._queue.hurry(flight)

    async def close(self) -> None:
        """Ends running calls; all who wait learn that the server shuts down."""
        for timer in (*self._resting.values(), *([self._wake] if self._wake else [])):
            timer.cancel()
        over = Error(errors_pb2.REASON_SHUTTING_DOWN, "the server is shutting down")
        self._end([*self._resting, *self._queued()], over)
        self._resting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._provider.close()

    def _pump(self) -> None:
        """Begins all calls that may begin now, and sees to it that the others are not forgotten."""
        size = self._provider.model.batch_size
        while (found := self._queue.first()) is not None:
            first, fellows = found
            now = asyncio.get_running_loop().time()
            if (pause := self._breaker.closed_in(now)) > 0:
                self._leave_alone(pause)
                return
            wait = self._limit.wait(self.running, now)
            if not wait and self._running and fellows < size:
                wait = max(0.0, first.entered + self._policy.gather - now)
            if wait:
                self._pump_in(wait)
                return
            batch = [flight for flight in self._queue.take(size) if self._is_wanted(flight, now)]
            if batch:
                self._begin(batch, now)

    def _pump_in(self, seconds: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if seconds < math.inf:  # else the end of a call pumps
            self._wake = asyncio.get_running_loop().call_later(seconds, self._pump)

    def _is_wanted(self, flight: Flight, now: float) -> bool:
        """Whether somebody still waits for a text; otherwise it ends here."""
        if flight.waiters and flight.deadline > now:
            return True
        late = Error(errors_pb2.REASON_DEADLINE_EXCEEDED, "the deadline passed before the provider could be asked")
        self._end([flight], late)
        return False

    def _begin(self, batch: Sequence[Flight], now: float) -> None:
        self._breaker.allows(now)
        self._limit.started(now)
        work = self._call(batch, now)
        task = asyncio.get_running_loop().create_task(work, name="embedding-call", context=batch[0].context)
        self._running[task] = batch
        task.add_done_callback(self._ended)

    async def _call(self, batch: Sequence[Flight], began: float) -> None:
        kind = batch[0].kind
        try:
            texts = [flight.text for flight in batch]
            results = await self._provider.embed(texts, kind.input_type, truncate=kind.truncate)
        except Error as error:
            self._failed(batch, error, began)
            return
        self._breaker.succeeded()
        self._limit.answered(began, asyncio.get_running_loop().time(), self.running)
        for flight, result in zip(batch, results, strict=True):
            if not flight.future.done():
                flight.future.set_result(result)
        self._settled(batch)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Forgets a call; whoever still waits for it learns why it ended without an outcome."""
        batch = self._running.pop(task)
        if task.cancelled():
            self._breaker.abandoned()
            self._end(batch, Error(errors_pb2.REASON_SHUTTING_DOWN, "the server is shutting down"))
            return
        defect = task.exception()
        if defect is not None:
            self._breaker.abandoned()
            self._end(batch, defect)
        self._pump()

    def _failed(self, batch: Sequence[Flight], error: Error, began: float) -> None:
        """Judges a failed call, and lets those texts rest that may be asked again."""
        now = asyncio.get_running_loop().time()
        is_throttled = error.reason == errors_pb2.REASON_PROVIDER_THROTTLED
        if error.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE:
            self._breaker.failed(now)
        else:
            self._breaker.succeeded()
        if is_throttled:
            pause = error.retry_after.total_seconds() if error.retry_after else 0.0
            self._limit.throttled(began, now, pause)
        over: list[Flight] = []
        for flight in batch:
            flight.failures += 1
            # Full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
            delay = random.uniform(0.0, min(_RETRY_MOST, _RETRY_BASE * 2**flight.failures))  # noqa: S311
            again = is_throttled or (not self.broken and self._may_try_again(flight, error))
            if again and flight.waiters and flight.deadline > now + max(delay, self._limit.wait(0, now)):
                self._rest(flight, delay)
            else:
                over.append(flight)
        self._end(over, self._with_retry(error, now))
        if self.broken:
            self._leave_alone(self._breaker.closed_in(now))

    def _may_try_again(self, flight: Flight, error: Error) -> bool:
        return error.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE and flight.failures < self._policy.attempts

    def _rest(self, flight: Flight, seconds: float) -> None:
        self._resting[flight] = asyncio.get_running_loop().call_later(seconds, self._back, flight)

    def _back(self, flight: Flight) -> None:
        del self._resting[flight]
        self._queue.enter(flight)
        self._pump()

    def _with_retry(self, error: Error, now: float) -> Error:
        """The failure as callers see it: with the time after which it makes sense to ask again."""
        if error.reason not in _PASSING:
            return error
        known = error.retry_after.total_seconds() if error.retry_after else 0.0
        wait = self._limit.wait(0, now)
        seconds = max(known, wait, self._breaker.closed_in(now)) or _RETRY_LATER
        return Error(error.reason, error.message, metadata=error.metadata, retry_after=timedelta(seconds=seconds))

    def _leave_alone(self, seconds: float) -> None:
        """Ends all that wait: the provider does not answer, and nobody is to find that out by waiting."""
        for timer in self._resting.values():
            timer.cancel()
        resting = list(self._resting)
        self._resting.clear()
        failure = self._with_retry(unavailable(self._provider.model), asyncio.get_running_loop().time())
        self._end([*resting, *self._queued()], failure)

    def _queued(self) -> list[Flight]:
        """Takes all texts out of the queue."""
        every: list[Flight] = []
        while found := self._queue.take(len(self._queue)):
            every += found
        return every

    def _end(self, flights: Sequence[Flight], error: BaseException) -> None:
        for flight in flights:
            flight.fail(error)
        if flights:
            self._settled(flights)
