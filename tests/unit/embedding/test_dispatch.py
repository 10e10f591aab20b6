"""What happens to texts between callers and provider: batches over calls, order, retries, a dead provider."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from mneme.embedding.dispatch import Dispatcher, Flight, Policy
from mneme.embedding.fair_queue import Kind, Urgency
from mneme.embedding.provider import Embedded, InputType, Model, Result, refused, throttled, unavailable
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

PLAIN = Kind(InputType.DOCUMENT, truncate=False)
VECTOR = Embedded(np.ones(1, np.float32), 1)
QUICK = Policy(most_calls=1, gather=0.0, breaker_failures=2, breaker_seconds=0.05)


class Held:
    """A provider whose calls end when the test says so, or at once with the failures it was given."""

    def __init__(self, *, batch_size: int = 1) -> None:
        self.model = Model("held", "held", 1, 100, batch_size)
        self.calls: list[list[str]] = []
        self.failures: list[Error] = []
        self.always: Error | None = None
        self._go = asyncio.Semaphore(0)
        self._asked = asyncio.Condition()

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        self.calls.append(list(texts))
        async with self._asked:
            self._asked.notify_all()
        if self.failures:
            raise self.failures.pop(0)
        if self.always is not None:
            raise self.always
        await self._go.acquire()
        return [VECTOR for _ in texts]

    async def close(self) -> None:
        pass

    def let(self, calls: int = 1) -> None:
        """Lets calls end."""
        for _ in range(calls):
            self._go.release()

    async def asked(self, calls: int) -> None:
        """Returns once so many calls came."""
        async with asyncio.timeout(5), self._asked:
            await self._asked.wait_for(lambda: len(self.calls) >= calls)


class Desk:
    """A dispatcher, and what it ended."""

    def __init__(self, provider: Held, policy: Policy, weight: Callable[[str], float]) -> None:
        self.ended: list[Flight] = []
        self.provider = provider
        self.dispatcher = Dispatcher(provider, policy, weight, self.ended.extend)

    def submit(self, *texts: str, urgency: Urgency = Urgency.INTERACTIVE, **options: Any) -> list[Flight]:
        """Flights with somebody who waits."""
        made = []
        for text in texts:
            flight = Flight(options.get("tenant", "acme"), PLAIN, urgency, 1.0, key=text, text=text, waiters=1)
            flight.deadline = options.get("deadline", math.inf)
            made.append(flight)
        self.dispatcher.submit(made)
        return made


@asynccontextmanager
async def desk(provider: Held, policy: Policy = QUICK, weight: Callable[[str], float] = lambda _: 1.0) -> Any:
    made = Desk(provider, policy, weight)
    try:
        yield made
    finally:
        await made.dispatcher.close()


async def failure(flight: Flight) -> Error:
    with pytest.raises(Error) as caught:
        await asyncio.wait_for(asyncio.shield(flight.future), 5)
    return caught.value


async def test_texts_of_many_calls_share_one_call_of_the_provider() -> None:
    provider = Held(batch_size=8)
    async with desk(provider) as at:
        (first,) = at.submit("first")
        others = [at.submit(f"other {index}")[0] for index in range(5)]
        await provider.asked(1)
        provider.let(2)
        await asyncio.gather(first.future, *(other.future for other in others))
    assert provider.calls == [["first"], [f"other {index}" for index in range(5)]]


async def test_nothing_waits_for_company_while_the_provider_is_idle() -> None:
    provider = Held(batch_size=8)
    async with desk(provider, Policy(gather=60.0)) as at:
        at.submit("alone")
        await provider.asked(1)


async def test_while_calls_run_a_text_waits_for_company_for_a_short_time() -> None:
    provider = Held(batch_size=8)
    async with desk(provider, Policy(gather=0.02)) as at:
        at.submit("running")
        at.submit("one")
        at.submit("two")
        await provider.asked(2)
        assert provider.calls == [["running"], ["one", "two"]]
        assert at.dispatcher.running == 2


async def test_a_full_batch_does_not_wait() -> None:
    provider = Held(batch_size=2)
    async with desk(provider, Policy(gather=60.0)) as at:
        at.submit("running")
        at.submit("one")
        at.submit("two")
        await provider.asked(2)


async def test_an_interactive_text_goes_before_all_bulk_that_waits() -> None:
    provider = Held(batch_size=4)
    async with desk(provider) as at:
        at.submit(*(f"bulk {index}" for index in range(100)), urgency=Urgency.BULK)
        await provider.asked(1)
        (flight,) = at.submit("urgent")
        provider.let(1)
        await provider.asked(2)
        assert provider.calls[1] == ["urgent"], "it neither waits for bulk nor shares its call"
        provider.let(1)
        await asyncio.wait_for(flight.future, 5)


async def test_a_text_of_another_tenant_is_next_but_one() -> None:
    provider = Held()
    async with desk(provider) as at:
        at.submit(*(f"flood {index}" for index in range(100)), tenant="flood")
        at.submit("single", tenant="other")
        provider.let(3)
        await provider.asked(3)
        assert ["single"] in provider.calls[:3]


async def test_a_throttled_text_is_asked_again_until_it_is_done() -> None:
    provider = Held()
    provider.failures = [throttled(provider.model) for _ in range(4)]
    async with desk(provider) as at:
        (flight,) = at.submit("text")
        provider.let(1)
        await asyncio.wait_for(flight.future, 5)
        assert at.dispatcher.limit < 1
    assert provider.calls == [["text"]] * 5


async def test_a_throttled_text_whose_caller_cannot_wait_is_told_when_to_come_back() -> None:
    provider = Held()
    provider.always = throttled(provider.model, 30.0)
    async with desk(provider) as at:
        soon = asyncio.get_running_loop().time() + 5
        (flight,) = at.submit("text", deadline=soon)
        error = await failure(flight)
        assert error.reason == errors_pb2.REASON_PROVIDER_THROTTLED
        assert error.retry_after is not None
        assert error.retry_after > timedelta(seconds=29)
        (second,) = at.submit("second", deadline=soon)
        assert (await failure(second)).reason == errors_pb2.REASON_PROVIDER_THROTTLED
    assert len(provider.calls) == 1, "while the provider wants no call, those who cannot wait are not sent"


async def test_an_unanswered_text_is_asked_again_a_few_times() -> None:
    provider = Held()
    provider.failures = [unavailable(provider.model) for _ in range(2)]
    async with desk(provider, Policy(attempts=3)) as at:
        (flight,) = at.submit("text")
        provider.let(1)
        await asyncio.wait_for(flight.future, 5)
        provider.failures = [unavailable(provider.model) for _ in range(3)]
        (flight,) = at.submit("another")
        error = await failure(flight)
    assert error.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE
    assert error.retry_after is not None


async def test_a_refusal_for_good_is_not_repeated_and_opens_nothing() -> None:
    provider = Held()
    provider.always = refused(provider.model, "access denied")
    async with desk(provider) as at:
        for _ in range(3):
            (flight,) = at.submit("text")
            assert (await failure(flight)).reason == errors_pb2.REASON_PROVIDER_REFUSED
        assert not at.dispatcher.broken
    assert len(provider.calls) == 3


async def test_a_dead_provider_is_left_alone_and_everybody_learns_it_at_once() -> None:
    provider = Held()
    provider.always = unavailable(provider.model)
    policy = Policy(most_calls=1, gather=0.0, breaker_failures=2, breaker_seconds=60.0)
    async with desk(provider, policy) as at:
        waiting = at.submit(*(f"text {index}" for index in range(50)))
        errors = [await failure(flight) for flight in waiting]
        assert at.dispatcher.broken
        assert at.dispatcher.waiting(Urgency.INTERACTIVE) == 0
        began = time.perf_counter()
        error = await failure(at.submit("later")[0])
        assert time.perf_counter() - began < 1
        for one in (*errors, error):
            assert one.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE
            assert one.retry_after is not None
        assert error.retry_after is not None
        assert error.retry_after > timedelta(seconds=40)
    assert len(provider.calls) == 2


async def test_one_text_looks_whether_the_provider_is_back() -> None:
    provider = Held()
    provider.failures = [unavailable(provider.model) for _ in range(2)]
    policy = Policy(most_calls=4, gather=0.0, breaker_failures=2, breaker_seconds=0.01, attempts=1)
    async with desk(provider, policy) as at:
        for flight in at.submit("one", "two"):
            await failure(flight)
        assert at.dispatcher.broken
        await asyncio.sleep(0.02)  # the time that the breaker stays open
        (probe,) = at.submit("probe")
        assert (await failure(at.submit("beside")[0])).reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE
        provider.let(1)
        await asyncio.wait_for(probe.future, 5)
        assert not at.dispatcher.broken


async def test_a_text_that_nobody_waits_for_any_more_is_not_asked() -> None:
    provider = Held()
    async with desk(provider) as at:
        at.submit("running")
        left, late, wanted = at.submit("left", "late", "wanted")
        left.waiters, late.deadline = 0, 0.0
        provider.let(2)
        await asyncio.wait_for(wanted.future, 5)
        assert (await failure(late)).reason == errors_pb2.REASON_DEADLINE_EXCEEDED
    assert provider.calls == [["running"], ["wanted"]]


async def test_closing_ends_all_that_wait_rest_or_run() -> None:
    provider = Held()
    provider.failures = [throttled(provider.model)]
    async with desk(provider) as at:
        flights = at.submit("rests", "runs", "waits")
        await provider.asked(2)
    for flight in flights:
        assert (await failure(flight)).reason == errors_pb2.REASON_SHUTTING_DOWN
    assert len(at.ended) == 3


async def test_a_model_in_this_process_gets_one_call_at_a_time() -> None:
    provider = Held()
    provider.model = Model("held", "held", 1, 100, 1, local=True)
    async with desk(provider, Policy(most_calls=16)) as at:
        at.submit("one", "two")
        await provider.asked(1)
        await asyncio.sleep(0)
        assert at.dispatcher.running == 1
