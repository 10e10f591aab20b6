"""The gateway's promises to its callers, with a provider that is told what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mneme.embedding.dispatch import Policy
from mneme.embedding.fair_queue import Urgency
from mneme.embedding.gateway import Gateway, Outcome, Source
from mneme.embedding.provider import Embedded, InputType, Model, Result, TooLong, Unfit, unavailable
from mneme.embedding.quota import Quotas
from mneme.embedding.vectors import Vector, unit
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

DIMENSIONS = 4


def vector_of(text: str) -> Vector:
    """A vector that only this text has."""
    made = unit([1.0 + ord(text[0]), len(text), 1.0, hash(text) % 97], DIMENSIONS)
    assert made is not None
    return made


class Scripted:
    """A provider that records its calls, waits until it is let go, and cuts texts at ten characters."""

    def __init__(self, *, batch_size: int = 2, asymmetric: bool = False) -> None:
        self.model = Model("scripted", "scripted", DIMENSIONS, 10, batch_size, asymmetric)
        self.calls: list[list[str]] = []
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.unfit: set[str] = set()

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        self.calls.append(list(texts))
        self.asked.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return [self._embed_one(text, truncate) for text in texts]

    async def close(self) -> None:
        self.go.set()

    def _embed_one(self, text: str, truncate: bool) -> Result:
        if text in self.unfit:
            return Unfit("no words")
        if len(text) > 10 and not truncate:
            return TooLong(10, size=len(text))
        return Embedded(vector_of(text), len(text), truncated=len(text) > 10)


class Memory:
    """The cache port, kept in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, Embedded] = {}
        self.claims: dict[str, bool] = {}

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        self.kept.update(vectors)
        await self.release(list(vectors))

    async def claim(self, keys: Sequence[str], *, urgent: bool) -> set[str]:
        missing = [key for key in keys if key not in self.kept]
        won = {key for key in missing if key not in self.claims or (urgent and not self.claims[key])}
        self.claims |= {key: self.claims.get(key, urgent) for key in missing}
        return won

    async def unclaimed(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if key not in self.claims}

    async def release(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.claims.pop(key, None)


class Unlimited:
    """A meter that refuses nobody."""

    async def take(self, tenant: str, tokens: int, limit: int) -> float:
        return 0.0


def gateway_of(provider: Scripted, memory: Memory | None = None, **options: Any) -> Gateway:
    """A gateway before a provider, with a cache of its own unless two share one."""
    policy = options.pop("policy", Policy(attempts=1, gather=0.0))
    quotas = options.pop("quotas", Quotas(Unlimited()))
    return Gateway(provider, memory or Memory(), b"secret", policy=policy, quotas=quotas, **options)


@pytest.fixture
def provider() -> Scripted:
    return Scripted()


@pytest.fixture
def gateway(provider: Scripted) -> Gateway:
    return gateway_of(provider)


async def embed(
    gateway: Gateway,
    *texts: str,
    tenant: str = "acme",
    input_type: InputType = InputType.DOCUMENT,
    truncate: bool = False,
    urgency: Urgency = Urgency.INTERACTIVE,
) -> list[Outcome]:
    return await gateway.embed(texts, tenant=tenant, input_type=input_type, truncate=truncate, urgency=urgency)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the others work until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what changes it knows nothing of the test
            await asyncio.sleep(0)


async def test_vectors_come_in_the_order_of_the_texts(gateway: Gateway, provider: Scripted) -> None:
    texts = ["e", "d", "c", "b", "a"]
    outcomes = await embed(gateway, *texts)
    for text, outcome in zip(texts, outcomes, strict=True):
        np.testing.assert_array_equal(outcome.vector, vector_of(text))
    assert [len(call) for call in provider.calls] == [2, 2, 1]


async def test_no_texts_need_no_provider(gateway: Gateway, provider: Scripted) -> None:
    assert await embed(gateway) == []
    assert provider.calls == []


async def test_a_text_given_twice_is_asked_and_billed_once(gateway: Gateway, provider: Scripted) -> None:
    outcomes = await embed(gateway, "one", "two", "one")
    assert provider.calls == [["one", "two"]]
    assert [outcome.token_count for outcome in outcomes] == [3, 3, 0]


async def test_equal_texts_in_flight_are_asked_once(gateway: Gateway, provider: Scripted) -> None:
    provider.go.clear()
    callers = [asyncio.create_task(embed(gateway, "same")) for _ in range(100)]
    await provider.asked.wait()
    provider.go.set()
    outcomes = [outcome for caller in callers for outcome in await caller]
    assert provider.calls == [["same"]]
    assert sum(outcome.token_count for outcome in outcomes) == 4
    assert sum(outcome.source is Source.JOINED for outcome in outcomes) == 99


async def test_a_second_call_is_served_from_the_cache(gateway: Gateway, provider: Scripted) -> None:
    (first,) = await embed(gateway, "again")
    (second,) = await embed(gateway, "again")
    assert second.source is Source.CACHE
    assert second.token_count == 0
    np.testing.assert_array_equal(first.vector, second.vector)


async def test_tenants_do_not_share_cached_vectors(gateway: Gateway, provider: Scripted) -> None:
    await embed(gateway, "secret")
    (outcome,) = await embed(gateway, "secret", tenant="other")
    assert outcome.source is Source.PROVIDER


@pytest.mark.parametrize(("asymmetric", "calls"), [(True, 2), (False, 1)])
async def test_questions_and_documents_are_kept_apart_where_the_model_does(asymmetric: bool, calls: int) -> None:
    provider = Scripted(asymmetric=asymmetric)
    gateway = gateway_of(provider)
    await embed(gateway, "text", input_type=InputType.DOCUMENT)
    await embed(gateway, "text", input_type=InputType.QUERY)
    assert len(provider.calls) == calls


async def test_a_long_text_is_refused_by_its_index(gateway: Gateway) -> None:
    with pytest.raises(Error) as caught:
        await embed(gateway, "short", "far too long for it")
    assert caught.value.reason == errors_pb2.REASON_TEXT_TOO_LONG
    assert caught.value.metadata["field"] == "texts[1]"
    assert caught.value.metadata["limit"] == "10"


async def test_a_cached_cut_vector_does_not_serve_a_caller_who_wants_none_cut(gateway: Gateway) -> None:
    (cut,) = await embed(gateway, "far too long for it", truncate=True)
    assert cut.truncated
    (again,) = await embed(gateway, "far too long for it", truncate=True)
    assert again.truncated
    assert again.source is Source.CACHE
    with pytest.raises(Error) as caught:
        await embed(gateway, "far too long for it")
    assert caught.value.reason == errors_pb2.REASON_TEXT_TOO_LONG


async def test_a_long_text_of_one_caller_does_not_fail_another(gateway: Gateway, provider: Scripted) -> None:
    provider.go.clear()
    failing = asyncio.create_task(embed(gateway, "shared", "far too long for it"))
    await provider.asked.wait()
    joining = asyncio.create_task(embed(gateway, "shared"))
    await asyncio.sleep(0)
    provider.go.set()
    with pytest.raises(Error):
        await failing
    (outcome,) = await joining
    np.testing.assert_array_equal(outcome.vector, vector_of("shared"))
    assert len(provider.calls) == 1


async def test_the_work_goes_on_when_its_caller_leaves(gateway: Gateway, provider: Scripted) -> None:
    provider.go.clear()
    leaving = asyncio.create_task(embed(gateway, "text"))
    await provider.asked.wait()
    staying = asyncio.create_task(embed(gateway, "text"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    provider.go.set()
    (outcome,) = await staying
    assert outcome.source is Source.JOINED
    assert len(provider.calls) == 1


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(gateway: Gateway, provider: Scripted) -> None:
    provider.failure = unavailable(provider.model)
    results = await asyncio.gather(*(embed(gateway, "text") for _ in range(3)), return_exceptions=True)
    assert all(
        isinstance(result, Error) and result.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE for result in results
    )
    provider.failure = None
    (outcome,) = await embed(gateway, "text")
    assert outcome.source is Source.PROVIDER


async def test_a_defect_of_the_provider_is_not_taken_for_a_cancellation(gateway: Gateway, provider: Scripted) -> None:
    provider.failure = RuntimeError("defect")
    with pytest.raises(RuntimeError, match="defect"):
        await embed(gateway, "text")


async def test_closing_ends_those_who_wait(gateway: Gateway, provider: Scripted) -> None:
    provider.go.clear()
    waiting = asyncio.create_task(embed(gateway, "text"))
    await provider.asked.wait()
    await gateway.close()
    with pytest.raises(Error) as caught:
        await waiting
    assert caught.value.reason == errors_pb2.REASON_SHUTTING_DOWN


async def test_texts_of_many_calls_share_a_batch_and_each_caller_gets_its_own(provider: Scripted) -> None:
    provider.model = Model("scripted", "scripted", DIMENSIONS, 10, 50)
    provider.go.clear()
    gateway = gateway_of(provider, policy=Policy(most_calls=1))
    running = asyncio.create_task(embed(gateway, "running"))
    await provider.asked.wait()
    callers = [asyncio.create_task(embed(gateway, f"a{index}", f"b{index}", tenant=f"t{index}")) for index in range(20)]
    await until(lambda: gateway.dispatcher.waiting(Urgency.INTERACTIVE) == 40)
    provider.go.set()
    for index, caller in enumerate(callers):
        first, second = await caller
        np.testing.assert_array_equal(first.vector, vector_of(f"a{index}"))
        np.testing.assert_array_equal(second.vector, vector_of(f"b{index}"))
    await running
    assert [len(call) for call in provider.calls] == [1, 40]


async def test_a_text_that_the_model_refuses_is_named_and_fails_no_neighbour(
    gateway: Gateway, provider: Scripted
) -> None:
    provider.unfit.add("\u200b")
    with pytest.raises(Error) as caught:
        await embed(gateway, "good", "\u200b")
    assert caught.value.reason == errors_pb2.REASON_INVALID_FIELD
    assert caught.value.metadata["field"] == "texts[1]"
    (good,) = await embed(gateway, "good")
    assert good.source is not Source.PROVIDER


async def test_an_interactive_caller_pulls_a_text_out_of_the_bulk(provider: Scripted) -> None:
    provider.model = Model("scripted", "scripted", DIMENSIONS, 10, 1)
    provider.go.clear()
    gateway = gateway_of(provider, policy=Policy(most_calls=1))
    bulk = asyncio.create_task(embed(gateway, *(f"b{index}" for index in range(30)), urgency=Urgency.BULK))
    await provider.asked.wait()
    urgent = asyncio.create_task(embed(gateway, "b29"))
    await asyncio.sleep(0)
    provider.go.set()
    (outcome,) = await urgent
    assert outcome.source is Source.JOINED
    assert provider.calls[1] == ["b29"]
    await bulk


async def test_what_was_not_billed_is_counted_as_saved(gateway: Gateway) -> None:
    outcomes = [*await embed(gateway, "one", "one"), *await embed(gateway, "one")]
    assert [(outcome.token_count, outcome.saved_tokens) for outcome in outcomes] == [(3, 0), (0, 3), (0, 3)]


async def test_two_gateways_with_one_cache_ask_once(provider: Scripted) -> None:
    memory, other = Memory(), Scripted()
    provider.go.clear()
    one, two = gateway_of(provider, memory, join_wait=30.0), gateway_of(other, memory, join_wait=30.0)
    asking = asyncio.create_task(embed(one, "same"))
    await provider.asked.wait()
    joining = asyncio.create_task(embed(two, "same", "own"))
    await until(lambda: len(memory.claims) == 2)
    provider.go.set()
    (first,) = await asking
    second, own = await joining
    assert (first.source, second.source, own.source) == (Source.PROVIDER, Source.PEER, Source.PROVIDER)
    assert (second.token_count, second.saved_tokens) == (0, 4)
    assert (provider.calls, other.calls) == ([["same"]], [["own"]])
    await until(lambda: not memory.claims)


async def test_the_wait_for_another_process_is_bounded_and_ends_when_it_gives_up(provider: Scripted) -> None:
    memory = Memory()
    gateway = gateway_of(provider, memory, join_wait=0.02)
    (key,) = gateway.keys(["dead"], "acme", InputType.DOCUMENT)
    memory.claims[key] = True
    (outcome,) = await embed(gateway, "dead")
    assert outcome.source is Source.PROVIDER
    patient = gateway_of(Scripted(), memory, join_wait=30.0)
    (key,) = patient.keys(["given up"], "acme", InputType.DOCUMENT)
    memory.claims[key] = True
    waiting = asyncio.create_task(embed(patient, "given up"))
    await asyncio.sleep(0.01)
    await memory.release([key])
    assert (await waiting)[0].source is Source.PROVIDER


async def test_nobody_who_waits_is_held_up_by_the_bulk_work_of_another_process(provider: Scripted) -> None:
    memory = Memory()
    gateway = gateway_of(provider, memory, join_wait=30.0)
    (key,) = gateway.keys(["text"], "acme", InputType.DOCUMENT)
    memory.claims[key] = False
    (outcome,) = await asyncio.wait_for(embed(gateway, "text"), 5)
    assert outcome.source is Source.PROVIDER


async def test_a_model_in_this_process_never_waits_for_another_one() -> None:
    memory, provider = Memory(), Scripted()
    provider.model = Model("scripted", "scripted", DIMENSIONS, 10, 2, local=True)
    gateway = gateway_of(provider, memory, join_wait=30.0)
    (key,) = gateway.keys(["text"], "acme", InputType.DOCUMENT)
    memory.claims[key] = True
    assert (await asyncio.wait_for(embed(gateway, "text"), 5))[0].source is Source.PROVIDER


async def test_a_used_up_quota_refuses_what_the_provider_would_be_asked_for_and_nothing_else(
    provider: Scripted,
) -> None:
    spent: list[int] = []

    class Once:
        async def take(self, tenant: str, tokens: int, limit: int) -> float:
            spent.append(tokens)
            return 0.0 if len(spent) == 1 else 9.0

    memory = Memory()
    gateway = gateway_of(provider, memory, quotas=Quotas(Once(), default=10), join_wait=1.0)
    await embed(gateway, "paid")
    assert (await embed(gateway, "paid"))[0].source is not Source.PROVIDER
    with pytest.raises(Error) as caught:
        await embed(gateway, "unpaid")
    assert caught.value.reason == errors_pb2.REASON_QUOTA_EXCEEDED
    assert provider.calls == [["paid"]]
    await until(lambda: not memory.claims)
