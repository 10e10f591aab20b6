"""Models and services that do not answer: a turn waits, goes on without, or becomes a dead letter; never half done."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc.aio
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error, from_rpc_error
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    echo,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
)
from tests.support.suite import Suite

DOWN = Error(errors_pb2.REASON_PROVIDER_UNAVAILABLE, "the provider does not answer")
REFUSED = Error(errors_pb2.REASON_PROVIDER_REFUSED, "access is denied", metadata={"model": "scripted"})
THROTTLED = Error(errors_pb2.REASON_PROVIDER_THROTTLED, "slow down", retry_after=timedelta(seconds=0.05))


@pytest.mark.parametrize("error", [DOWN, THROTTLED])
async def test_a_model_that_does_not_answer_is_asked_again(model: ScriptedModel, talk: Talk, error: Error) -> None:
    model.answers = [error, error, says("back")]

    assert texts(await talk.send("hello")) == ["back"]
    assert len(model.requests) == 3


async def test_a_model_that_stays_down_makes_a_dead_letter_that_can_be_retried(
    model: ScriptedModel, scripted_suite: Suite
) -> None:
    agent = pb.Agent()
    agent.run_timeout.FromTimedelta(timedelta(seconds=1))
    talk = await open_talk(scripted_suite, agent=agent)
    model.script = lambda _: DOWN
    events = await talk.send("hello")

    failed = events[-1].failed
    assert failed.stop_reason == pb.STOP_REASON_TIMEOUT
    assert failed.dead_lettered
    assert failed.failure.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE
    assert await talk.messages() == []
    letters = (await talk.agents.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert [letter.run_id for letter in letters] == [events[0].run_id]

    model.script = None
    request = pb.RetryDeadLetterRequest(request_id=request_id(), event_id=letters[0].event_id)
    run = (await talk.agents.RetryDeadLetter(request)).run
    assert run.state == pb.RUN_STATE_QUEUED
    again = await talk.watch(run.run_id)
    assert [event.sequence for event in again] == list(range(1, len(again) + 1))
    assert kinds(again)[1] == "restarted"
    assert texts(again) == ["echo hello"]
    assert not (await talk.agents.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert [m.role for m in await talk.messages()] == [1, 2, 3]


async def test_a_model_that_refuses_for_good_fails_at_once(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [REFUSED]
    failed = (await talk.send("hello"))[-1].failed

    assert failed.stop_reason == pb.STOP_REASON_FAILED
    assert failed.failure.reason == errors_pb2.REASON_PROVIDER_REFUSED
    assert failed.failure.metadata["model"] == "scripted"
    assert texts(await talk.send("next")) == ["echo next"]


async def test_an_answer_that_is_cut_is_asked_for_again(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [says("A first try"), says("Once more")]
    model.cuts = [25]
    events = await talk.send("hello", stream_tokens=True)

    deltas = [event.token_delta for event in events if event.WhichOneof("event") == "token_delta"]
    said = {attempt: "".join(d.text for d in deltas if d.attempt == attempt) for attempt in (1, 2)}
    assert said[1]
    assert "A first try".startswith(said[1])
    assert said[2] == "Once more"
    restarted = next(event.restarted for event in events if event.WhichOneof("event") == "restarted")
    assert restarted.attempt == 2
    assert texts(events) == ["Once more"]


async def test_fallback_models_are_asked_in_order(model: ScriptedModel, scripted_suite: Suite) -> None:
    def script(request: ModelRequest) -> ModelOutput | Error:
        return echo(request) if request.model == "third" else REFUSED

    model.script = script
    config = pb.ModelConfig(model="first", fallback_models=["second", "third"])
    talk = await open_talk(scripted_suite, agent=pb.Agent(model=config))
    events = await talk.send("hello")

    assert texts(events) == ["echo hello"]
    assert [request.model for request in model.requests] == ["first", "second", "third"]
    steps = await talk.agents.ListSteps(pb.ListStepsRequest(run_id=events[0].run_id))
    assert steps.steps[0].model_reason == "fallback: PROVIDER_REFUSED"


async def test_a_defect_of_ours_ends_the_run_and_not_the_conversation(model: ScriptedModel, talk: Talk) -> None:
    def script(request: ModelRequest) -> ModelOutput:
        raise RuntimeError("a defect")

    model.script = script
    failed = (await talk.send("hello"))[-1].failed

    assert failed.failure.reason == errors_pb2.REASON_INTERNAL
    assert "defect" not in failed.failure.message
    model.script = None
    assert texts(await talk.send("next")) == ["echo next"]


async def test_cancelling_while_a_model_is_asked_stops_at_once(model: ScriptedModel, talk: Talk) -> None:
    asked = asyncio.Event()

    async def never(request: ModelRequest) -> ModelOutput:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    model.script = never
    sending = asyncio.create_task(talk.send("hello"))
    await asked.wait()
    runs = (await talk.agents.ListRuns(pb.ListRunsRequest(conversation_id=talk.conversation_id))).runs
    cancel = pb.CancelRunRequest(request_id=request_id(), run_id=runs[0].run_id)
    await talk.agents.CancelRun(cancel)
    events = await sending

    assert events[-1].failed.stop_reason == pb.STOP_REASON_CANCELLED
    assert not events[-1].failed.dead_lettered
    assert (await talk.agents.CancelRun(cancel)).run.run_id == runs[0].run_id
    run = (await talk.agents.GetRun(pb.GetRunRequest(run_id=runs[0].run_id))).run
    assert run.state == pb.RUN_STATE_CANCELLED
    model.script = None
    assert texts(await talk.send("next")) == ["echo next"]


async def test_an_ended_run_cannot_be_cancelled(model: ScriptedModel, talk: Talk) -> None:
    events = await talk.send("hello")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await talk.agents.CancelRun(pb.CancelRunRequest(request_id=request_id(), run_id=events[0].run_id))

    error = from_rpc_error(raised.value)
    assert error.reason == errors_pb2.REASON_INVALID_STATE
    assert error.metadata["state"] == "COMPLETED"
