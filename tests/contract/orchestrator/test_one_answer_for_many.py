"""Equal questions at the same time make one model call, over replicas, cancellations and crashes."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from mneme import registry
from mneme.orchestrator.answers import public
from mneme.orchestrator.answers.keys import Public
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.records import LeaseLostError, Step
from mneme.orchestrator.turn import Turn
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.peers import Peers
from mneme.settings import OrchestratorSettings, Settings
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    echo,
    kinds,
    open_talk,
    request_id,
    says,
    texts,
    until,
)
from tests.contract.orchestrator.test_shared_answers import QUESTION, hit, is_public, shared_agent, with_user
from tests.support.suite import Serve, Suite

# Patient, as a busy machine may starve a probe; what the defaults do in a burst is proven in the tests of the probe.
SHORT_LEASES = OrchestratorSettings(cache_timeout=10.0, lease_renew=0.3, lease_seconds=2.0)


@pytest.fixture
async def replicas(model: ScriptedModel, serve: Serve) -> tuple[Suite, Suite]:
    """Two processes' worth of services on the same stores."""
    return await serve(data_dir=None, orchestrator=SHORT_LEASES), await serve(data_dir=None, orchestrator=SHORT_LEASES)


def through(suite: Suite, talk: Talk) -> Talk:
    """The same conversation through another replica."""
    return Talk(suite, talk.agent_id, talk.conversation_id)


async def test_a_hundred_users_at_two_replicas_are_answered_by_one_model_call(
    model: ScriptedModel, replicas: tuple[Suite, Suite]
) -> None:
    operator = await open_talk(replicas[0], agent=shared_agent())
    talks = [await with_user(operator, f"user-{number}") for number in range(100)]
    begun = 0

    async def only_after_all_have_asked(request: ModelRequest) -> ModelOutput:
        async def all_asked() -> bool:
            await asyncio.sleep(0.2)
            runs = (await operator.agents.ListRuns(pb.ListRunsRequest(page_size=500))).runs
            return len(runs) == len(talks)

        nonlocal begun
        begun += 1
        await until(all_asked)
        return echo(request)

    model.script = only_after_all_have_asked
    answers = await asyncio.gather(
        *(through(replicas[number % 2], talk).send(QUESTION) for number, talk in enumerate(talks))
    )

    assert begun == 1
    assert [texts(events) for events in answers] == [[f"echo {QUESTION}"]] * 100
    assert sum(hit(events) is not None for events in answers) == 99


async def test_those_who_wait_do_not_try_what_one_could_not_answer_for_all(
    model: ScriptedModel, replicas: tuple[Suite, Suite]
) -> None:
    operator = await open_talk(replicas[0], agent=shared_agent())
    talks = [await with_user(operator, f"user-{number}") for number in range(10)]

    async def only_after_all_have_asked(request: ModelRequest) -> ModelOutput:
        async def all_asked() -> bool:
            return len((await operator.agents.ListRuns(pb.ListRunsRequest(page_size=500))).runs) == len(talks)

        await until(all_asked)
        return calls(("needs_context", {"reason": "user"})) if is_public(request) else echo(request)

    model.script = only_after_all_have_asked
    answers = await asyncio.gather(*(talk.send(QUESTION) for talk in talks))

    assert [texts(events) for events in answers] == [[f"echo {QUESTION}"]] * len(talks)
    assert sum(map(is_public, model.requests)) == 1


async def test_those_who_wait_do_not_search_in_turn_what_one_could_not_search(
    model: ScriptedModel, replicas: tuple[Suite, Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await open_talk(replicas[0], agent=shared_agent())
    talks = [await with_user(operator, f"user-{number}") for number in range(10)]
    searches = 0

    async def never_answered(_peers: Peers, _asked: Public) -> None:
        async def all_asked() -> bool:
            return len((await operator.agents.ListRuns(pb.ListRunsRequest(page_size=500))).runs) == len(talks)

        nonlocal searches
        searches += 1
        await until(all_asked)

    monkeypatch.setattr(public, "search", never_answered)
    answers = await asyncio.gather(*(talk.send(QUESTION) for talk in talks))

    assert [texts(events) for events in answers] == [[f"echo {QUESTION}"]] * len(talks)
    assert searches == 1
    assert not any(map(is_public, model.requests))


async def test_whoever_waits_for_a_process_that_died_answers_when_its_lease_ends(
    model: ScriptedModel, serve: Serve, suite_settings: Settings
) -> None:
    short = SHORT_LEASES.model_copy(update={"cache_lease": 1.0})
    second = await serve(data_dir=None, orchestrator=short)
    ann = await open_talk(second, agent=shared_agent())
    bob = await with_user(ann, "bob")
    asked = asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        if len(model.requests) == 1:
            await asyncio.Event().wait()
        return echo(request)

    model.script = slow
    quick = suite_settings.server.model_copy(update={"drain_timeout": 0.1, "stop_grace": 0.1})
    dying_settings = suite_settings.model_copy(update={"data_dir": None, "server": quick, "orchestrator": short})
    async with registry.running(dying_settings) as server:
        dying = Suite(server.address, dying_settings, second.credentials)
        async with dying.channels:
            sending = asyncio.create_task(through(dying, ann).send(QUESTION))
            await asked.wait()
            waiting = asyncio.create_task(bob.send(QUESTION))
            run = (await ann.agents.ListRuns(pb.ListRunsRequest(conversation_id=ann.conversation_id))).runs[0]
            sending.cancel()
    events = await waiting

    assert texts(events) == [f"echo {QUESTION}"]
    assert texts(await ann.watch(run.run_id)) == [f"echo {QUESTION}"]


async def test_whoever_waits_may_cancel_and_others_go_on_when_the_first_is_cancelled(
    model: ScriptedModel, replicas: tuple[Suite, Suite]
) -> None:
    ann = await open_talk(replicas[0], agent=shared_agent())
    bob, eve = through(replicas[1], await with_user(ann, "bob")), await with_user(ann, "eve")
    asked = asyncio.Event()

    async def slow(request: ModelRequest) -> ModelOutput:
        asked.set()
        if len(model.requests) == 1:
            await asyncio.Event().wait()
        return says("Thirty days.")

    async def cancel(talk: Talk) -> None:
        async def there() -> bool:
            return bool((await talk.agents.ListRuns(listing)).runs)

        listing = pb.ListRunsRequest(conversation_id=talk.conversation_id)
        await until(there)
        run = (await talk.agents.ListRuns(listing)).runs[0]
        await talk.agents.CancelRun(pb.CancelRunRequest(request_id=request_id(), run_id=run.run_id))

    model.script = slow
    first = asyncio.create_task(ann.send(QUESTION))
    await asked.wait()
    waiting = [asyncio.create_task(talk.send(QUESTION)) for talk in (bob, eve)]
    await cancel(eve)
    assert kinds(await waiting[1])[-1] == "failed"
    await cancel(ann)
    assert kinds(await first)[-1] == "failed"
    assert texts(await waiting[0]) == ["Thirty days."]
    assert len(model.requests) == 2


async def test_an_answer_that_is_journaled_before_a_crash_is_sent_once(
    model: ScriptedModel, replicas: tuple[Suite, Suite], owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = Turn._carry_out
    crashed: list[str] = []

    async def crash_first(turn: Turn, step: Step) -> object:
        if not crashed:
            crashed.append(step.step_id)
            async with await psycopg.AsyncConnection.connect(owner_url) as owner:
                await owner.execute("UPDATE orchestrator.conversation_lease SET worker_id = 'worker-dead'")
            raise LeaseLostError
        return await carry_out(turn, step)

    monkeypatch.setattr(Turn, "_carry_out", crash_first)
    ann = await open_talk(replicas[0], agent=shared_agent())
    events = await ann.send(QUESTION)

    assert len(model.requests) == 1
    assert texts(events) == [f"echo {QUESTION}"]
    assert "restarted" in kinds(events)
    assert [m.text for m in await ann.messages()] == [QUESTION, f"echo {QUESTION}", "Sent."]
    steps = (await ann.agents.ListSteps(pb.ListStepsRequest(run_id=events[0].run_id))).steps
    assert [step.step_id for step in steps] == crashed
