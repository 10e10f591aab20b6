"""What is done about answers behind the users' backs: they are made anew before they end, and judged; and a cache that
hangs costs next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mneme.orchestrator.answers import health
from mneme.orchestrator.answers.health import CacheHealth, UnavailableError
from mneme.orchestrator.answers.judge import verdict_of
from mneme.orchestrator.models.port import ModelOutput, ModelRequest, OneTool
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub
from mneme.settings import OrchestratorSettings, SemanticCacheSettings
from tests.contract.orchestrator.scripted import ScriptedModel, calls, open_talk, says, texts, thinks, until
from tests.contract.orchestrator.test_shared_answers import QUESTION, hit, is_public, shared_agent, shown, with_user
from tests.support.suite import Serve

OTHER_WORDS = "How long can a customer return a lamp?"


async def test_an_answer_that_is_about_to_end_is_served_and_made_anew(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve(semantic_cache=SemanticCacheSettings(refresh_fraction=1e-6))
    ann = await open_talk(suite, agent=shared_agent())
    model.answers = [says("Thirty days."), says("A month.")]
    await ann.send(QUESTION)
    assert texts(await (await with_user(ann, "bob")).send(QUESTION)) == ["Thirty days."]

    async def made_anew() -> bool:
        rows = (await ann.agents.GetUsage(pb.GetUsageRequest())).rows
        return any(row.purpose == "refresh" and row.usage.model_calls >= 1 for row in rows)

    await until(made_anew)
    assert all(is_public(request) for request in model.requests)
    assert shown(model.requests[0]) == shown(model.requests[1])
    eve = await with_user(ann, "eve")

    async def served_anew() -> bool:
        events = await eve.send(QUESTION)
        assert hit(events) is not None
        return texts(events) != ["Thirty days."]

    await until(served_anew)


async def test_an_answer_that_cannot_be_made_anew_is_served_to_its_end(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve(semantic_cache=SemanticCacheSettings(refresh_fraction=1e-6))
    ann = await open_talk(suite, agent=shared_agent())
    model.answers = [says("Thirty days.")]
    model.script = lambda _: calls(("needs_context", {"reason": "knowledge"}))
    await ann.send(QUESTION)
    for _ in range(3):
        assert texts(await ann.send(QUESTION)) == ["Thirty days."]


async def test_a_judge_rules_on_what_was_served_for_other_words(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve(
        orchestrator=OrchestratorSettings(cache_timeout=5.0, judge_model="offline", judge_per_minute=6000),
        semantic_cache=SemanticCacheSettings(sample_rate=1.0),
    )
    judged: list[ModelRequest] = []

    def script(request: ModelRequest) -> ModelOutput:
        if request.tool_choice != OneTool("verdict"):
            return says("Thirty days.")
        judged.append(request)
        return calls(("verdict", {"answers_both": "no"}))

    model.script = script
    ann = await open_talk(suite, agent=shared_agent())
    await ann.send(QUESTION)
    served = hit(await (await with_user(ann, "bob")).send(OTHER_WORDS))
    assert served is not None
    assert not served.exact
    assert served.score >= 0.85
    cache = suite.stub(SemanticCacheServiceStub)

    async def ruled() -> bool:
        strata = (await cache.GetStats(cache_pb.GetStatsRequest())).strata
        return any(one.wrong_count for one in strata)

    await until(ruled)
    text = shown(judged[0])
    assert QUESTION in text
    assert OTHER_WORDS in text
    rows = (await ann.agents.GetUsage(pb.GetUsageRequest(agent_id=ann.agent_id))).rows
    assert "judge" in {row.purpose for row in rows}
    again = hit(await (await with_user(ann, "eve")).send(OTHER_WORDS))
    assert again is None


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        (calls(("verdict", {"answers_both": "yes"})), cache_pb.VERDICT_RIGHT),
        (calls(("verdict", {"answers_both": "no"})), cache_pb.VERDICT_WRONG),
        (calls(("verdict", {"answers_both": "unsure"})), None),
        (calls(("verdict", {"answers_both": ["yes"]})), None),
        (calls(("verdict", {})), None),
        (calls(("other", {"answers_both": "yes"})), None),
        (calls(("verdict", {"answers_both": "yes"}), ("verdict", {"answers_both": "no"})), None),
        (thinks("YES"), None),
    ],
)
def test_only_a_clear_verdict_counts(output: ModelOutput, verdict: int | None) -> None:
    assert verdict_of(output) == verdict


@dataclass
class Silent(health_pb2_grpc.HealthServicer):
    """A health service that answers when it is alive."""

    alive: bool = False
    asked: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        self.asked += 1
        if not self.alive:
            await self.ended.wait()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@dataclass
class OnePeer:
    """The cache alone."""

    semantic_cache_health: Any


@pytest.fixture
async def silent() -> AsyncIterator[tuple[Silent, CacheHealth]]:
    """A cache that takes calls and does not answer."""
    server, servicer = grpc.aio.server(), Silent()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        peer: Any = OnePeer(health_pb2_grpc.HealthStub(channel))  # type: ignore[no-untyped-call]
        yield servicer, CacheHealth(peer, timeout=0.2)
    servicer.ended.set()
    await server.stop(0)


async def answering(seconds: float) -> str:
    """What the cache says after a time."""
    await asyncio.sleep(seconds)
    return "answer"


async def test_a_cache_that_hangs_costs_no_more_than_its_time_and_then_nothing(
    silent: tuple[Silent, CacheHealth],
) -> None:
    servicer, cache = silent
    for _ in range(health._FAILURES):
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            await cache.call(asyncio.Event().wait)
        assert time.monotonic() - began < 5
    assert servicer.asked == health._FAILURES

    with pytest.raises(UnavailableError):
        await cache.call(asyncio.Event().wait)
    assert servicer.asked == health._FAILURES


async def test_all_who_wait_ask_once_whether_a_cache_is_alive(silent: tuple[Silent, CacheHealth]) -> None:
    servicer, cache = silent
    outcomes = await asyncio.gather(*(cache.call(asyncio.Event().wait) for _ in range(50)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 50
    assert servicer.asked == 1

    servicer.alive = True
    assert await cache.call(lambda: answering(0.5)) == "answer"


async def test_a_cache_that_answered_a_moment_ago_is_alive_and_one_that_began_to_hang_is_found_out(
    silent: tuple[Silent, CacheHealth],
) -> None:
    servicer, cache = silent
    assert await cache.call(lambda: answering(0)) == "answer"
    assert await cache.call(lambda: answering(0.5)) == "answer"
    assert servicer.asked > 0

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError):
            await cache.call(asyncio.Event().wait)


async def test_a_cache_that_is_alive_may_take_its_time(silent: tuple[Silent, CacheHealth]) -> None:
    servicer, cache = silent
    servicer.alive = True

    assert await cache.call(lambda: answering(0.5)) == "answer"
