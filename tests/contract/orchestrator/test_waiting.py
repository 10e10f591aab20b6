"""Tools that the caller executes, and approvals: the run waits, durable, and never blocks a conversation for good.

Complaints of users of the archived predecessor that this stands against: letta-ai/letta/issues/3176 and
letta-ai/letta-code/issues/885 (cancelling a run that waits for an approval deadlocks the conversation).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc.aio
import psycopg
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import from_rpc_error
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
)
from tests.support.suite import Suite

SCHEMA = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
EDIT = {"label": "human", "content": "Asks about the weather.", "request_heartbeat": False}


@pytest.fixture
async def weather(model: ScriptedModel, scripted_suite: Suite) -> Talk:
    """A conversation with an agent that has a tool of its caller's."""
    return await with_tool(scripted_suite)


async def with_tool(suite: Suite, *, requires_approval: bool = False) -> Talk:
    """A conversation whose caller tells the weather."""
    tool = pb.ClientTool(
        name="get_weather",
        description="Tells the weather.",
        parameters_json=SCHEMA,
        requires_approval=requires_approval,
    )
    return await open_talk(suite, agent=pb.Agent(client_tools=[tool]))


class Watch:
    """A run that is watched while the test goes on."""

    def __init__(self, talk: Talk, text: str) -> None:
        self._stream = talk.agents.SendMessage(
            pb.SendMessageRequest(
                request_id=request_id(),
                conversation_id=talk.conversation_id,
                text=text,
                include_inner_events=True,
            )
        )
        self.events: list[pb.RunEvent] = []

    async def until(self, *wanted: str) -> pb.RunEvent:
        """The next event of a kind."""
        async with asyncio.timeout(20):
            while True:
                event: pb.RunEvent = (await self._stream.read()).event
                self.events.append(event)
                if event.WhichOneof("event") in wanted:
                    return event


async def resume(talk: Talk, event: pb.RunEvent, **answer: Any) -> pb.Run:
    """Answers what a run waits for."""
    request = pb.ResumeRunRequest(
        request_id=request_id(), run_id=event.run_id, tool_call_id=event.waiting.call.id, **answer
    )
    response: pb.ResumeRunResponse = await talk.agents.ResumeRun(request)
    return response.run


async def test_the_run_waits_for_the_callers_tool(model: ScriptedModel, weather: Talk) -> None:
    model.answers = [
        calls(("core_memory_append", EDIT), ("get_weather", {"city": "Oslo"}), ("get_current_time", {})),
        says("It snows"),
    ]
    watch = Watch(weather, "How is the weather?")
    event = await watch.until("waiting")
    assert event.waiting.call.name == "get_weather"
    assert json.loads(event.waiting.call.arguments_json) == {"city": "Oslo"}
    assert not event.waiting.for_approval
    run = (await weather.agents.GetRun(pb.GetRunRequest(run_id=event.run_id))).run
    assert run.state == pb.RUN_STATE_WAITING
    assert await weather.messages() == []

    await resume(weather, event, tool_result=pb.ClientToolResult(ok=True, text="snow, -3 C"))
    await watch.until("completed", "failed")

    happened = kinds(watch.events)
    assert happened.count("tool_result") == 4
    assert happened.count("memory_edit") == 1
    assert "restarted" not in happened
    assert [e.sequence for e in watch.events] == list(range(1, len(watch.events) + 1))
    assert texts(watch.events) == ["It snows"]
    assert [o.content for o in model.requests[1].turns[-1].outcomes][1] == "snow, -3 C"
    assert [m.role for m in await weather.messages()] == [1, 2, 3, 3, 3, 2, 3]
    run = (await weather.agents.GetRun(pb.GetRunRequest(run_id=event.run_id))).run
    assert (run.state, run.attempt) == (pb.RUN_STATE_COMPLETED, 1)


async def test_an_approval_comes_before_the_tool(model: ScriptedModel, scripted_suite: Suite) -> None:
    talk = await with_tool(scripted_suite, requires_approval=True)
    model.answers = [calls(("get_weather", {"city": "Oslo"})), says("It snows")]
    watch = Watch(talk, "How is the weather?")
    asked = await watch.until("waiting")
    assert asked.waiting.for_approval
    await resume(talk, asked, approval=pb.Approval(approved=True))
    offered = await watch.until("waiting")
    assert not offered.waiting.for_approval
    await resume(talk, offered, tool_result=pb.ClientToolResult(ok=True, text="snow"))
    await watch.until("completed")

    assert texts(watch.events) == ["It snows"]


async def test_a_declined_tool_is_a_failed_result(model: ScriptedModel, scripted_suite: Suite) -> None:
    talk = await with_tool(scripted_suite, requires_approval=True)
    model.answers = [calls(("get_weather", {"city": "Oslo"})), says("Then not")]
    watch = Watch(talk, "How is the weather?")
    asked = await watch.until("waiting")
    await resume(talk, asked, approval=pb.Approval(approved=False, comment="too expensive"))
    await watch.until("completed")

    assert model.requests[1].turns[-1].outcomes[0].content == "Failed: the caller declined. too expensive"


async def test_cancelling_a_waiting_run_leaves_the_conversation_usable(model: ScriptedModel, weather: Talk) -> None:
    model.answers = [calls(("get_weather", {"city": "Oslo"}))]
    watch = Watch(weather, "How is the weather?")
    event = await watch.until("waiting")
    run = (await weather.agents.CancelRun(pb.CancelRunRequest(request_id=request_id(), run_id=event.run_id))).run

    assert run.state == pb.RUN_STATE_CANCELLED
    assert (await watch.until("failed")).failed.stop_reason == pb.STOP_REASON_CANCELLED
    assert texts(await weather.send("hello")) == ["echo hello"]


async def test_events_queue_behind_a_waiting_run(model: ScriptedModel, weather: Talk) -> None:
    model.answers = [calls(("get_weather", {"city": "Oslo"})), says("It snows")]
    watch = Watch(weather, "How is the weather?")
    event = await watch.until("waiting")
    second = Watch(weather, "and tomorrow?")
    await second.until("queued")
    await resume(weather, event, tool_result=pb.ClientToolResult(ok=True, text="snow"))
    await watch.until("completed")
    await second.until("completed")

    assert texts(second.events) == ["echo and tomorrow?"]


async def test_a_caller_that_never_answers_does_not_hold_the_run_for_ever(
    model: ScriptedModel, weather: Talk, owner_url: str
) -> None:
    model.answers = [calls(("get_weather", {"city": "Oslo"})), says("I could not find out")]
    watch = Watch(weather, "How is the weather?")
    await watch.until("waiting")
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("UPDATE orchestrator.conversation_lease SET waiting_until = now() - interval '1 s'")
    await watch.until("completed")

    assert "did not answer in time" in model.requests[1].turns[-1].outcomes[0].content
    assert texts(watch.events) == ["I could not find out"]


async def test_only_what_is_asked_for_is_taken(model: ScriptedModel, weather: Talk) -> None:
    async def refused(**answer: Any) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await resume(weather, event, **answer)
        return from_rpc_error(raised.value).reason_name

    model.answers = [calls(("get_weather", {"city": "Oslo"})), says("It snows")]
    watch = Watch(weather, "How is the weather?")
    event = await watch.until("waiting")
    assert await refused(approval=pb.Approval(approved=True)) == "INVALID_FIELD"
    other = pb.RunEvent(run_id=event.run_id)
    other.waiting.call.id = "call-of-another"
    asked, event = event, other
    assert await refused(tool_result=pb.ClientToolResult(ok=True)) == "INVALID_FIELD"
    event = asked
    await resume(weather, event, tool_result=pb.ClientToolResult(ok=True, text="snow"))
    await watch.until("completed")
    assert await refused(tool_result=pb.ClientToolResult(ok=True)) == "INVALID_STATE"


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        (pb.ClientTool(name="send_message"), "agent.client_tools[0].name"),
        (pb.ClientTool(name="x", parameters_json="{"), "agent.client_tools[0].parameters_json"),
        (pb.ClientTool(name="x", parameters_json='{"type": "array"}'), "agent.client_tools[0].parameters_json"),
        (pb.ClientTool(name="x", parameters_json='{"type": "nonsense"}'), "agent.client_tools[0].parameters_json"),
        (pb.ClientTool(name="x", parameters_json="[]"), "agent.client_tools[0].parameters_json"),
    ],
)
async def test_a_tool_that_makes_no_sense_is_refused(
    model: ScriptedModel, scripted_suite: Suite, tool: pb.ClientTool, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await open_talk(scripted_suite, agent=pb.Agent(client_tools=[tool]))

    error = from_rpc_error(raised.value)
    assert error.reason == errors_pb2.REASON_INVALID_FIELD
    assert error.metadata["field"] == field
