"""The mailbox: events are durable, worked on in order, one at a time a conversation, and never refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import psycopg
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.runtime.errors import from_rpc_error
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    echo,
    kinds,
    open_talk,
    request_id,
    texts,
    until,
)
from tests.support.suite import Suite


class Gate:
    """Holds a model's answers back until it is opened."""

    def __init__(self, model: ScriptedModel) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        model.script = self._script

    async def _script(self, request: ModelRequest) -> ModelOutput:
        self.reached.set()
        await self.opened.wait()
        return echo(request)


async def test_fifty_messages_at_once_are_answered_one_after_the_other(model: ScriptedModel, talk: Talk) -> None:
    sent = [f"message {number}" for number in range(50)]
    answers = await asyncio.gather(*(talk.send(text) for text in sent))

    assert [texts(events) for events in answers] == [[f"echo {text}"] for text in sent]
    stored = await talk.messages()
    assert [m.sequence for m in stored] == list(range(1, 151))
    assert [m.role for m in stored] == [1, 2, 3] * 50
    said = [m.text for m in stored if m.role == 1]
    assert sorted(said) == sorted(sent)
    assert [m.text for m in stored if m.role == 2] == [f"echo {text}" for text in said]


async def test_a_repeated_request_attaches_to_the_same_run(model: ScriptedModel, talk: Talk) -> None:
    gate = Gate(model)
    same = request_id()
    first = asyncio.create_task(talk.send("hello", request_id=same))
    await gate.reached.wait()
    second = asyncio.create_task(talk.send("hello", request_id=same))
    gate.opened.set()

    assert await first == await second == await talk.send("hello", request_id=same)
    assert len(model.requests) == 1


async def test_a_request_id_with_other_content_is_refused(model: ScriptedModel, talk: Talk) -> None:
    same = request_id()
    await talk.send("hello", request_id=same)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await talk.send("something else", request_id=same)

    assert from_rpc_error(raised.value).reason == errors_pb2.REASON_REQUEST_ID_REUSED


async def test_a_caller_that_leaves_does_not_stop_the_run(model: ScriptedModel, talk: Talk) -> None:
    gate = Gate(model)
    request = pb.SendMessageRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="hello")
    stream = talk.agents.SendMessage(request)
    first = await stream.read()
    await gate.reached.wait()
    stream.cancel()
    gate.opened.set()

    assert texts(await talk.watch(first.event.run_id)) == ["echo hello"]


async def test_user_messages_come_before_system_events(model: ScriptedModel, talk: Talk) -> None:
    gate = Gate(model)
    first = asyncio.create_task(talk.send("first"))
    await gate.reached.wait()
    event = pb.SendEventRequest(
        request_id=request_id(),
        conversation_id=talk.conversation_id,
        kind=pb.EVENT_KIND_INTERACTION,
        text="logged in",
    )
    queued = await talk.agents.SendEvent(event)
    second = asyncio.create_task(talk.send("second"))

    async def both_wait() -> bool:
        request = pb.GetConversationRequest(conversation_id=talk.conversation_id)
        conversation = (await talk.agents.GetConversation(request)).conversation
        return bool(conversation.queued_event_count == 2)

    await until(both_wait)
    gate.opened.set()
    await asyncio.gather(first, second)
    await talk.watch(queued.run_id)

    asked = [request.turns[-1].text.rpartition("] ")[2] for request in model.requests]
    assert asked == ["first", "second", "logged in"]
    assert model.requests[-1].turns[-1].role == "system"
    assert "interaction]" in model.requests[-1].turns[-1].text


async def test_an_event_rises_a_class_for_each_minute_it_waits(
    model: ScriptedModel, talk: Talk, owner_url: str
) -> None:
    gate = Gate(model)
    first = asyncio.create_task(talk.send("first"))
    await gate.reached.wait()
    event = pb.SendEventRequest(
        request_id=request_id(), conversation_id=talk.conversation_id, kind=pb.EVENT_KIND_SYSTEM, text="waited long"
    )
    queued = await talk.agents.SendEvent(event)
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("UPDATE orchestrator.mailbox SET arrival = now() - interval '61 s' WHERE priority = 1")
    second = asyncio.create_task(talk.send("second"))

    async def both_wait() -> bool:
        request = pb.GetConversationRequest(conversation_id=talk.conversation_id)
        conversation = (await talk.agents.GetConversation(request)).conversation
        return bool(conversation.queued_event_count == 2)

    await until(both_wait)
    gate.opened.set()
    await asyncio.gather(first, second)
    await talk.watch(queued.run_id)

    asked = [request.turns[-1].text.rpartition("] ")[2] for request in model.requests]
    assert asked == ["first", "waited long", "second"]


async def test_a_queued_run_is_cancelled_at_once(model: ScriptedModel, talk: Talk) -> None:
    gate = Gate(model)
    first = asyncio.create_task(talk.send("first"))
    await gate.reached.wait()
    waiting = asyncio.create_task(talk.send("second"))

    async def is_queued() -> bool:
        listed = await talk.agents.ListRuns(pb.ListRunsRequest(states=[pb.RUN_STATE_QUEUED]))
        return len(listed.runs) == 1

    await until(is_queued)
    listed = await talk.agents.ListRuns(pb.ListRunsRequest(states=[pb.RUN_STATE_QUEUED]))
    request = pb.CancelRunRequest(request_id=request_id(), run_id=listed.runs[0].run_id)
    assert (await talk.agents.CancelRun(request)).run.state == pb.RUN_STATE_CANCELLED
    assert kinds(await waiting) == ["queued", "failed"]
    gate.opened.set()
    await first
    assert len(model.requests) == 1


async def test_a_watch_goes_on_after_a_sequence(model: ScriptedModel, talk: Talk) -> None:
    events = await talk.send("hello")
    run_id = events[0].run_id

    assert await talk.watch(run_id) == events
    assert await talk.watch(run_id, after_sequence=3) == events[3:]
    assert await talk.watch(run_id, after_sequence=events[-1].sequence) == []


async def test_a_timer_goes_off_once(model: ScriptedModel, talk: Talk) -> None:
    request = pb.ScheduleEventRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="wake up")
    request.schedule.at.FromDatetime(datetime.now(UTC) - timedelta(days=3))
    await talk.agents.ScheduleEvent(request)

    async def answered() -> bool:
        return len(await talk.messages()) == 3

    await until(answered)
    assert "timed]" in model.requests[0].turns[-1].text
    listed = await talk.agents.ListScheduledEvents(pb.ListScheduledEventsRequest())
    assert not listed.scheduled_events


async def test_a_cron_timer_makes_up_for_a_missed_time_once(model: ScriptedModel, talk: Talk, owner_url: str) -> None:
    request = pb.ScheduleEventRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="daily")
    request.schedule.cron = "30 9 * * *"
    request.schedule.time_zone = "Asia/Shanghai"
    timer = (await talk.agents.ScheduleEvent(request)).scheduled_event
    assert timer.next_time.ToDatetime().strftime("%H:%M") == "01:30"
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("SELECT set_config('app.tenant', 'acme', true)")
        await owner.execute("UPDATE orchestrator.timer_head SET due = now() - interval '3 days'")
        await owner.execute("UPDATE orchestrator.timer SET next_time = now() - interval '3 days'")

    async def answered() -> bool:
        return len(await talk.messages()) == 3

    await until(answered)
    listed = (await talk.agents.ListScheduledEvents(pb.ListScheduledEventsRequest())).scheduled_events
    assert listed[0].next_time.ToDatetime(UTC) > datetime.now(UTC)
    cancel = pb.CancelScheduledEventRequest(request_id=request_id(), timer_id=timer.timer_id)
    await talk.agents.CancelScheduledEvent(cancel)
    assert not (await talk.agents.ListScheduledEvents(pb.ListScheduledEventsRequest())).scheduled_events


async def test_paused_heartbeats_hold_timers_and_not_users(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [calls(("pause_heartbeats", {"minutes": 5}), ("send_message", {"message": "quiet"}))]
    await talk.send("leave me alone")
    request = pb.ScheduleEventRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="wake up")
    request.schedule.at.FromDatetime(datetime.now(UTC))
    await talk.agents.ScheduleEvent(request)

    async def fired() -> bool:
        return not (await talk.agents.ListScheduledEvents(pb.ListScheduledEventsRequest())).scheduled_events

    await until(fired)
    assert texts(await talk.send("but I may speak")) == ["echo but I may speak"]
    found = await talk.agents.GetConversation(pb.GetConversationRequest(conversation_id=talk.conversation_id))
    assert found.conversation.queued_event_count == 1


@pytest.mark.parametrize(
    ("cron", "zone", "field"),
    [
        ("every day", "", "schedule.cron"),
        ("0 0 31 2 *", "", "schedule.cron"),
        ("* * * * * *", "", "schedule.cron"),
        ("0 9 * * *", "Mars/Olympus", "schedule.time_zone"),
        ("0 9 * * *", "../../etc/passwd", "schedule.time_zone"),
    ],
)
async def test_a_schedule_that_makes_no_sense_is_refused(
    model: ScriptedModel, talk: Talk, cron: str, zone: str, field: str
) -> None:
    request = pb.ScheduleEventRequest(request_id=request_id(), conversation_id=talk.conversation_id, text="x")
    request.schedule.cron = cron
    request.schedule.time_zone = zone
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await talk.agents.ScheduleEvent(request)

    error = from_rpc_error(raised.value)
    assert error.reason == errors_pb2.REASON_INVALID_SCHEDULE
    assert error.metadata["field"] == field


async def test_other_users_and_tenants_see_nothing(model: ScriptedModel, scripted_suite: Suite) -> None:
    ann = await open_talk(scripted_suite, user="ann")
    events = await ann.send("hello")
    run_id = events[0].run_id
    for tenant, user in (("acme", "bob"), ("other", "")):
        stranger = scripted_suite.stub(AgentServiceStub, tenant=tenant, user=user)
        refused: list[Any] = [
            stranger.GetRun(pb.GetRunRequest(run_id=run_id)),
            stranger.GetAgent(pb.GetAgentRequest(agent_id=ann.agent_id)),
            stranger.GetConversation(pb.GetConversationRequest(conversation_id=ann.conversation_id)),
            stranger.CancelRun(pb.CancelRunRequest(request_id=request_id(), run_id=run_id)),
            stranger.SendMessage(
                pb.SendMessageRequest(request_id=request_id(), conversation_id=ann.conversation_id, text="hello")
            ).read(),
            stranger.WatchRun(pb.WatchRunRequest(run_id=run_id)).read(),
        ]
        for running in refused:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await running
            assert from_rpc_error(raised.value).reason == errors_pb2.REASON_NOT_FOUND
        assert not (await stranger.ListRuns(pb.ListRunsRequest())).runs
        assert not (await stranger.ListConversations(pb.ListConversationsRequest())).conversations
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stranger.ListSteps(pb.ListStepsRequest(run_id=run_id))
        steps_refused = errors_pb2.REASON_CALLER_NOT_ALLOWED if user else errors_pb2.REASON_NOT_FOUND
        assert from_rpc_error(raised.value).reason == steps_refused


async def test_an_end_user_does_not_see_the_instructions_of_an_agent(scripted_suite: Suite) -> None:
    agent = pb.Agent(display_name="Test", instructions="The secret of the house.", description="Helps.")
    agent.metadata.update({"plan": "secret"})
    talk = await open_talk(scripted_suite, user="ann", agent=agent)
    request = pb.GetAgentRequest(agent_id=talk.agent_id)
    listed = (await talk.agents.ListAgents(pb.ListAgentsRequest())).agents
    for shown in ((await talk.agents.GetAgent(request)).agent, *listed):
        assert (shown.description, shown.instructions) == ("Helps.", "")
        assert not shown.HasField("metadata")
    operator = scripted_suite.stub(AgentServiceStub)
    assert (await operator.GetAgent(request)).agent.instructions == "The secret of the house."


async def test_a_user_message_kind_cannot_be_sent_as_an_event(model: ScriptedModel, talk: Talk) -> None:
    event = pb.SendEventRequest(
        request_id=request_id(),
        conversation_id=talk.conversation_id,
        kind=pb.EVENT_KIND_USER_MESSAGE,
        text="x",
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await talk.agents.SendEvent(event)

    assert from_rpc_error(raised.value).metadata["field"] == "kind"
