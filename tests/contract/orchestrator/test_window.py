"""Memory pressure, eviction and summaries: what leaves the window is never lost."""

from __future__ import annotations

from dataclasses import replace

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import ModelOutput, ModelRequest
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.errors import Error
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, echo, kinds, open_talk, says, texts, thinks
from tests.support.suite import Suite

WINDOW_TOKENS = 6000
LONG = "The quick brown fox jumps over the lazy dog. " * 20


async def small_talk(suite: Suite, **policy: float) -> Talk:
    """A conversation whose window is soon full."""
    agent = pb.Agent(
        model=pb.ModelConfig(context_window_tokens=WINDOW_TOKENS),
        window=pb.WindowPolicy(**policy),  # type: ignore[arg-type]
    )
    return await open_talk(suite, agent=agent)


def unmeasured(request: ModelRequest) -> ModelOutput:
    """An echo whose provider does not count, so that our own estimate counts; summaries are marked."""
    if "Summarise a conversation" in request.system[0].text:
        return thinks(f"SUMMARY after {request.turns[-1].text.count('user:')} more")
    answer = echo(request)
    return replace(answer, usage=replace(answer.usage, input_tokens=0))


async def test_the_model_is_warned_once_and_then_messages_leave(model: ScriptedModel, scripted_suite: Suite) -> None:
    model.script = unmeasured
    talk = await small_talk(scripted_suite)
    runs: list[list[pb.RunEvent]] = []
    while not any("evicted" in kinds(events) for events in runs):
        assert len(runs) < 40
        runs.append(await talk.send(f"{len(runs)}: {LONG}"))

    happened = [kind for events in runs for kind in kinds(events)]
    assert happened[: happened.index("evicted")].count("memory_pressure") == 1
    warned = [number for number, events in enumerate(runs) if "memory_pressure" in kinds(events)]
    pressure = next(e for e in runs[warned[0]] if e.WhichOneof("event") == "memory_pressure").memory_pressure
    assert 0.7 * WINDOW_TOKENS < pressure.prompt_tokens <= 1.2 * WINDOW_TOKENS
    # The model ran again at once, on the warning, without the user.
    assert runs[warned[0]][-1].completed.step_count == 2
    evicted = next(e for e in runs[-1] if e.WhichOneof("event") == "evicted").evicted
    assert evicted.tokens_before > WINDOW_TOKENS
    assert evicted.tokens_after <= 0.6 * WINDOW_TOKENS
    prompt = model.requests[-1]
    assert "SUMMARY" in prompt.turns[0].text
    assert prompt.turns[1].role in ("user", "system", "assistant")
    assert f"{evicted.message_count} earlier messages" in prompt.turns[0].text

    stored = await talk.messages()
    assert [m.text for m in stored if m.role == 1] == [f"{number}: {LONG}" for number in range(len(runs))]
    notices = [m for m in stored if m.text.startswith("[memory pressure]")]
    assert len(notices) == happened.count("memory_pressure")
    assert all(notice.hidden for notice in notices)


async def test_summaries_are_recursive(model: ScriptedModel, scripted_suite: Suite) -> None:
    model.script = unmeasured
    talk = await small_talk(scripted_suite)
    evictions = 0
    for number in range(60):
        evictions += kinds(await talk.send(f"{number}: {LONG}")).count("evicted")
        if evictions == 2:
            break

    asked = [r.turns[-1].text for r in model.requests if "Summarise a conversation" in r.system[0].text]
    assert "Summary of everything before:\nSUMMARY" in asked[-1]


async def test_a_failing_summariser_loses_nothing(model: ScriptedModel, scripted_suite: Suite) -> None:
    def script(request: ModelRequest) -> ModelOutput | Error:
        if "Summarise a conversation" in request.system[0].text:
            return Error(errors_pb2.REASON_PROVIDER_REFUSED, "no")
        return unmeasured(request)

    model.script = script
    talk = await small_talk(scripted_suite)
    events: list[pb.RunEvent] = []
    sent = 0
    while "evicted" not in kinds(events):
        events = await talk.send(f"{sent}: {LONG}")
        sent += 1

    degraded = next(e for e in events if e.WhichOneof("event") == "degraded").degraded
    assert degraded.service == "model"
    assert "The quick brown fox" in model.requests[-1].turns[0].text
    assert len([m for m in await talk.messages() if m.role == 1]) == sent


async def test_a_turn_count_keeps_the_last_turns(model: ScriptedModel, scripted_suite: Suite) -> None:
    model.script = unmeasured
    talk = await small_talk(scripted_suite, max_turns=3)
    for number in range(8):
        await talk.send(f"message {number}")

    said = [turn.text for turn in model.requests[-1].turns if turn.role == "user"]
    assert len(said) <= 4
    assert said[-1].endswith("message 7")


async def test_a_prompt_refused_as_too_long_is_shortened(model: ScriptedModel, talk: Talk) -> None:
    for number in range(6):
        await talk.send(f"message {number}")
    model.answers = [
        Error(errors_pb2.REASON_CONTEXT_OVERFLOW, "too long"),
        thinks("SUMMARY"),
        says("short now"),
    ]
    events = await talk.send("again")

    assert texts(events) == ["short now"]
    assert "evicted" in kinds(events)
    assert len(model.requests[-1].turns) < len(model.requests[-3].turns)


async def test_a_prompt_that_never_fits_fails_with_a_reason(model: ScriptedModel, talk: Talk) -> None:
    model.script = lambda _: Error(errors_pb2.REASON_CONTEXT_OVERFLOW, "too long")
    events = await talk.send("hello")

    failed = events[-1].failed
    assert failed.failure.reason == errors_pb2.REASON_CONTEXT_OVERFLOW
    assert failed.dead_lettered


async def test_a_message_larger_than_the_window_fails_with_both_figures(
    model: ScriptedModel, scripted_suite: Suite
) -> None:
    talk = await small_talk(scripted_suite)
    events = await talk.send(LONG * 40)

    failure = events[-1].failed.failure
    assert failure.reason == errors_pb2.REASON_CONTEXT_OVERFLOW
    assert int(failure.metadata["tokens"]) > int(failure.metadata["window"]) == WINDOW_TOKENS
    assert texts(await talk.send("hello")) == ["echo hello"]
