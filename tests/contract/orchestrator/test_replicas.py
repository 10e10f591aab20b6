"""Two orchestrators on one database share the work, and either shows what the other does."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from mneme import registry
from mneme.orchestrator import service
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.relay.watch import Hub
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.settings import OrchestratorSettings, Settings
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, echo, kinds, open_talk, texts, until
from tests.support.suite import Serve, Suite


@pytest.fixture
async def replicas(model: ScriptedModel, serve: Serve) -> tuple[Suite, Suite]:
    """Two processes' worth of services that know nothing of each other but the database."""
    few = OrchestratorSettings(max_concurrent_turns=4, lease_renew=0.3, lease_seconds=2.0)
    return await serve(data_dir=None, orchestrator=few), await serve(data_dir=None, orchestrator=few)


def through(suite: Suite, talk: Talk) -> Talk:
    """The same conversation through another replica."""
    return Talk(suite, talk.agent_id, talk.conversation_id)


async def test_events_of_many_conversations_are_all_answered(replicas: tuple[Suite, Suite]) -> None:
    first, second = replicas
    talks = [await open_talk(first) for _ in range(12)]
    sent = [(through(replicas[number % 2], talk), f"message {number}") for talk in talks for number in range(4)]
    answers = await asyncio.gather(*(talk.send(text) for talk, text in sent))

    assert [texts(events) for events in answers] == [[f"echo {text}"] for _, text in sent]
    for events in answers:
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for talk in talks:
        assert [m.role for m in await talk.messages()] == [1, 2, 3] * 4
    assert second is replicas[1]


async def test_a_watch_through_the_other_replica_misses_no_durable_event(
    model: ScriptedModel, replicas: tuple[Suite, Suite]
) -> None:
    first, second = replicas
    talk = await open_talk(first)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        await answer.wait()
        return echo(request)

    model.script = slow
    sending = asyncio.create_task(talk.send("hello"))
    await asked.wait()
    runs = (await talk.agents.ListRuns(pb.ListRunsRequest(conversation_id=talk.conversation_id))).runs
    watching = asyncio.create_task(through(second, talk).watch(runs[0].run_id))
    answer.set()

    assert await watching == await sending


async def test_words_are_shown_at_the_other_replica_too(
    model: ScriptedModel, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs: list[Hub] = []

    def hub() -> Hub:
        hubs.append(Hub())
        return hubs[-1]

    monkeypatch.setattr(service, "Hub", hub)
    first, second = await serve(data_dir=None), await serve(data_dir=None)
    talk = await open_talk(first)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        await answer.wait()
        return echo(request)

    model.script = slow
    sending = asyncio.create_task(talk.send("hello"))
    await asked.wait()
    run = (await talk.agents.ListRuns(pb.ListRunsRequest(conversation_id=talk.conversation_id))).runs[0]
    watching = asyncio.create_task(through(second, talk).watch(run.run_id, stream_tokens=True))

    async def relayed() -> bool:
        return hubs[0].wants_tokens(run.run_id)

    await until(relayed)
    answer.set()
    events = await watching
    words = "".join(event.token_delta.text for event in events if event.WhichOneof("event") == "token_delta")
    assert words == "echo hello"
    assert [event for event in events if event.sequence] == await sending


async def test_a_process_that_stops_hands_its_turns_over(
    model: ScriptedModel, serve: Serve, suite_settings: Settings
) -> None:
    second = await serve(data_dir=None)
    talk = await open_talk(second)
    asked = asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        if len(model.requests) == 1:
            await asyncio.Event().wait()
        return echo(request)

    model.script = slow
    quick = suite_settings.server.model_copy(update={"drain_timeout": 0.5, "stop_grace": 0.1})
    stopping = suite_settings.model_copy(update={"data_dir": None, "server": quick})
    async with registry.running(stopping) as server:
        dying = Suite(server.address, stopping, second.credentials)
        async with dying.channels:
            sending = asyncio.create_task(through(dying, talk).send("hello"))
            await asked.wait()
            run = (await talk.agents.ListRuns(pb.ListRunsRequest(conversation_id=talk.conversation_id))).runs[0]
            sending.cancel()
    events = await talk.watch(run.run_id)

    assert texts(events) == ["echo hello"]
    assert "restarted" in kinds(events)


async def test_an_event_that_kills_every_process_becomes_a_dead_letter(
    model: ScriptedModel, replicas: tuple[Suite, Suite], owner_url: str
) -> None:
    talk = await open_talk(replicas[0])
    asked, ending = asyncio.Event(), asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        await ending.wait()
        return echo(request)

    model.script = slow
    sending = asyncio.create_task(talk.send("hello"))
    await asked.wait()
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("SELECT set_config('app.tenant', 'acme', true)")
        await owner.execute("UPDATE orchestrator.run SET begun_count = 5")
        await owner.execute("UPDATE orchestrator.conversation_lease SET worker_id = 'worker-dead'")
    failed = (await sending)[-1].failed
    ending.set()

    assert failed.dead_lettered
    assert failed.failure.metadata["attempts"] == "5"


async def test_a_conversation_goes_on_at_the_other_replica(model: ScriptedModel, replicas: tuple[Suite, Suite]) -> None:
    talk = await open_talk(replicas[0])
    for number in range(6):
        answered = await through(replicas[number % 2], talk).send(f"message {number}")
        assert texts(answered) == [f"echo message {number}"]

    said = [turn.text.rpartition("] ")[2] for turn in model.requests[-1].turns if turn.role == "user"]
    assert said == [f"message {number}" for number in range(6)]


async def test_a_worker_that_lost_its_lease_writes_nothing(
    model: ScriptedModel, replicas: tuple[Suite, Suite], owner_url: str
) -> None:
    talk = await open_talk(replicas[0])
    asked = asyncio.Event()
    answers: list[asyncio.Event] = []

    async def slow(request: ModelRequest) -> ModelOutput:
        answers.append(asyncio.Event())
        asked.set()
        await answers[-1].wait()
        return echo(request)

    model.script = slow
    sending = asyncio.create_task(talk.send("hello"))
    await asked.wait()
    asked.clear()
    # As if the first process had been silent too long: its conversation is free to be taken over.
    async with await psycopg.AsyncConnection.connect(owner_url) as owner:
        await owner.execute("UPDATE orchestrator.conversation_lease SET worker_id = 'worker-dead'")
    await asked.wait()
    answers[0].set()
    answers[1].set()
    events = await sending

    assert kinds(events).count("restarted") == 1
    assert texts(events) == ["echo hello"]
    assert [m.role for m in await talk.messages()] == [1, 2, 3]
