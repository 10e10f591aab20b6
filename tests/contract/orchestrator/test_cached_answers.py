"""The semantic cache in front of a turn: the same question is answered once, and never from a stale memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.orchestrator.models.port import ModelOutput, StopReason
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
    until,
)
from tests.contract.orchestrator.test_shared_answers import add_passage, knowledge_base
from tests.support.suite import Serve, Suite

QUESTION = "What is the capital of France?"


@pytest.fixture
async def cached(scripted_suite: Suite) -> Talk:
    """A conversation with an agent that caches."""
    return await open_talk(scripted_suite, user="ann", agent=pb.Agent(cache_policy=pb.CACHE_POLICY_PER_USER))


async def test_a_repeated_question_is_answered_without_the_model(model: ScriptedModel, cached: Talk) -> None:
    model.answers = [says("Paris")]
    first = await cached.send(QUESTION)
    second = await cached.send(QUESTION)

    assert "cache_miss" in kinds(first)
    assert kinds(second) == ["queued", "cache_hit", "assistant_message", "completed"]
    assert texts(second) == ["Paris"]
    assert second[-1].completed.stop_reason == pb.STOP_REASON_CACHE_HIT
    assert len(model.requests) == 1
    assert [m.text for m in await cached.messages()] == [QUESTION, "Paris", "Sent."] * 2
    await cached.send("Statements are not questions.")
    assert [turn.role for turn in model.requests[-1].turns] == ["user", "assistant", "tool"] * 2 + ["user"]


async def test_another_run_makes_earlier_answers_unservable(model: ScriptedModel, cached: Talk) -> None:
    await cached.send(QUESTION)
    await cached.send("I have moved to Berlin.")
    events = await cached.send(QUESTION)

    assert "cache_hit" not in kinds(events)


async def test_an_edited_block_makes_earlier_answers_unservable(model: ScriptedModel, cached: Talk) -> None:
    await cached.send(QUESTION)
    assert "cache_hit" in kinds(await cached.send(QUESTION))
    memory = cached.suite.stub(CoreMemoryServiceStub)
    ref = core_memory_pb2.BlockRef(agent_label=core_memory_pb2.AgentLabel(agent_id=cached.agent_id, label="persona"))
    await memory.AppendText(
        core_memory_pb2.AppendTextRequest(request_id=request_id(), ref=ref, text="I answer in French.")
    )

    assert "cache_hit" not in kinds(await cached.send(QUESTION))


async def test_a_run_that_wrote_memory_is_not_kept(model: ScriptedModel, cached: Talk) -> None:
    edit = {"label": "human", "content": "Asks about France.", "request_heartbeat": False}
    model.answers = [calls(("core_memory_append", edit), ("send_message", {"message": "Paris"}))]
    await cached.send(QUESTION)

    assert "cache_hit" not in kinds(await cached.send(QUESTION))


async def test_a_run_that_read_the_clock_is_not_kept(model: ScriptedModel, cached: Talk) -> None:
    model.answers = [calls(("get_current_time", {"request_heartbeat": True})), says("Noon")]
    await cached.send("What is the time in France now?")

    assert "cache_hit" not in kinds(await cached.send("What is the time in France now?"))


UNFIT: dict[str, list[ModelOutput]] = {
    "a tool failed": [calls(("core_memory_search", {"query": "x"})), says("Paris")],
    "it was cut": [replace(says("Par"), stop_reason=StopReason.MAX_TOKENS)],
    "it was refused": [replace(says("No."), stop_reason=StopReason.REFUSAL)],
    "it paused": [calls(("pause_heartbeats", {"minutes": 5}), ("send_message", {"message": "Paris"}))],
}


async def test_only_complete_and_successful_runs_are_kept(model: ScriptedModel, scripted_suite: Suite) -> None:
    for name, answers in UNFIT.items():
        talk = await open_talk(scripted_suite, user="ann", agent=pb.Agent(cache_policy=pb.CACHE_POLICY_PER_USER))
        model.answers = list(answers)
        await talk.send(QUESTION)
        assert "cache_hit" not in kinds(await talk.send(QUESTION)), name


async def test_of_a_searched_knowledge_base_only_what_was_shown_must_stay(model: ScriptedModel, cached: Talk) -> None:
    kb = await knowledge_base(cached, "Paris is the capital of France.")
    other = await add_passage(cached, kb, "Steel is made of iron and carbon.")
    search = {"query": "capital of France", "limit": 1, "request_heartbeat": True}
    model.answers = [calls(("archival_memory_search", search)), says("Paris")]
    await cached.send(QUESTION)

    archival = cached.suite.stub(ArchivalServiceStub)
    await archival.DeletePassage(archival_pb2.DeletePassageRequest(request_id=request_id(), passage_id=other))
    assert "cache_hit" in kinds(await cached.send(QUESTION))
    await add_passage(cached, kb, "France moved its capital to Lyon.")
    assert "cache_hit" not in kinds(await cached.send(QUESTION))


@pytest.mark.parametrize(
    ("policy", "bound"),
    [
        (pb.CACHE_POLICY_PER_USER, "valid_from"),
        (pb.CACHE_POLICY_PER_USER, "valid_to"),
        (pb.CACHE_POLICY_SHARED, "valid_from"),
    ],
)
async def test_an_answer_lasts_no_longer_than_what_is_true(
    model: ScriptedModel, scripted_suite: Suite, policy: pb.CachePolicy.ValueType, bound: str
) -> None:
    talk = await open_talk(scripted_suite, user="ann", agent=pb.Agent(cache_policy=policy))
    kb = await knowledge_base(talk, "Paris is the capital of France.")
    await talk.send("Is everything loaded that the first turn loads?")
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(seconds=2.0))
    await add_passage(talk, kb, "Lyon is the capital of France.", **{bound: moment})
    await talk.send(QUESTION)
    assert "cache_hit" in kinds(await talk.send(QUESTION))

    async def served() -> bool:
        return "cache_hit" in kinds(await talk.send(QUESTION))

    async def asked_again() -> bool:
        return not await served()

    await until(asked_again)
    # An end is drawn a little early, so that what was kept at once does not end at once.
    assert datetime.now(UTC) >= moment.ToDatetime(UTC) - timedelta(seconds=0.5)
    await until(served)


async def test_an_answer_that_was_made_while_the_truth_changed_is_not_kept(model: ScriptedModel, cached: Talk) -> None:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.7))
    await add_passage(cached, cached.agent_id, "Lyon is the capital of France.", valid_from=moment)

    async def changed() -> bool:
        return datetime.now(UTC) > moment.ToDatetime(UTC)

    async def slow() -> ModelOutput:
        await until(changed)
        return says("Paris")

    model.script = lambda _: slow()
    await cached.send(QUESTION)
    assert "cache_hit" not in kinds(await cached.send(QUESTION))
    assert "cache_hit" in kinds(await cached.send(QUESTION))


async def test_a_caller_may_go_past_the_cache(model: ScriptedModel, cached: Talk) -> None:
    await cached.send(QUESTION)

    assert "cache_hit" not in kinds(await cached.send(QUESTION, bypass_cache=True))


async def test_an_agent_without_a_cache_asks_the_model(model: ScriptedModel, talk: Talk) -> None:
    await talk.send(QUESTION)
    events = await talk.send(QUESTION)

    assert not {"cache_hit", "cache_miss"} & set(kinds(events))
    assert len(model.requests) == 2


async def test_without_redis_every_question_is_a_miss(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve()
    down = suite.settings.redis.model_copy(update={"url": SecretStr("redis://127.0.0.1:1/0")})
    suite = await serve(redis=down)
    talk = await open_talk(suite, agent=pb.Agent(cache_policy=pb.CACHE_POLICY_PER_USER))
    for _ in range(2):
        events = await talk.send(QUESTION)
        assert texts(events) == [f"echo {QUESTION}"]
        misses = [event.cache_miss for event in events if event.WhichOneof("event") == "cache_miss"]
        assert [miss.reason for miss in misses] == ["UNAVAILABLE"]
