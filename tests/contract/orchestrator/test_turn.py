"""One turn, as its caller sees it and as recall holds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.port import StopReason, ToolUse
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.settings import OrchestratorSettings
from tests.contract.orchestrator.scripted import (
    ScriptedModel,
    Talk,
    calls,
    kinds,
    open_talk,
    says,
    texts,
    thinks,
)
from tests.support.suite import Serve, Suite


async def test_a_plain_turn(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [says("Hello Ann")]
    events = await talk.send("I am Ann")

    assert kinds(events) == [
        "queued",
        "tool_call",
        "usage",
        "tool_result",
        "assistant_message",
        "completed",
    ]
    assert [event.sequence for event in events] == list(range(1, 7))
    assert texts(events) == ["Hello Ann"]
    assert events[-1].completed.stop_reason == pb.STOP_REASON_END_TURN
    assert [(m.role, m.text, m.hidden) for m in await talk.messages()] == [
        (recall_pb2.ROLE_USER, "I am Ann", False),
        (recall_pb2.ROLE_ASSISTANT, "Hello Ann", False),
        (recall_pb2.ROLE_TOOL, "Sent.", True),
    ]


async def test_the_model_sees_the_conversation_so_far(model: ScriptedModel, talk: Talk) -> None:
    await talk.send("first")
    await talk.send("second")

    turns = model.requests[1].turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "user"]
    assert turns[0].text.endswith("] first")
    assert turns[1].tool_calls[0].id == turns[2].outcomes[0].tool_call_id
    assert turns[3].text.endswith("] second")


async def test_a_window_read_again_gives_the_same_prompt(model: ScriptedModel, serve: Serve) -> None:
    suite = await serve(orchestrator=OrchestratorSettings(windows_kept=0))
    talk = await open_talk(suite)
    model.answers = [says("one", text="a thought"), says("two")]
    await talk.send("first", speaker="Ann")
    cold = await talk.send("second")
    warm_suite = await serve()
    warm = Talk(warm_suite, talk.agent_id, talk.conversation_id)
    await warm.send("third")

    seen = model.requests[2].turns
    assert seen[: len(model.requests[1].turns)] == model.requests[1].turns
    assert seen[1].text == "a thought"
    assert texts(cold) == ["two"]


async def test_plain_text_is_a_private_thought(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [thinks("I would rather not answer")]
    events = await talk.send("hello")

    assert kinds(events) == ["queued", "reasoning", "usage", "completed"]
    assert [m.hidden for m in await talk.messages()] == [False, True]


async def test_a_heartbeat_runs_the_model_again(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [calls(("get_current_time", {"request_heartbeat": True})), says("it is late")]
    events = await talk.send("what time is it?")

    assert texts(events) == ["it is late"]
    assert events[-1].completed.step_count == 2
    assert model.requests[1].turns[-1].role == "tool"
    steps = await talk.agents.ListSteps(pb.ListStepsRequest(run_id=events[0].run_id))
    assert [step.continue_reason for step in steps.steps] == ["heartbeat", ""]


async def test_without_a_heartbeat_the_agent_yields(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [calls(("get_current_time", {"request_heartbeat": "yes"}))]
    events = await talk.send("what time is it?")

    assert events[-1].completed.step_count == 1


@pytest.mark.parametrize(
    ("name", "arguments_json", "problem"),
    [
        ("core_memory_append", "{not json", "not valid JSON"),
        ("no_such_tool", "{}", "there is no tool"),
        ("send_message", "{}", "'message' is a required property"),
        ("core_memory_append", '{"label": "nowhere", "content": "x"}', "Failed"),
        ("", "[1]", "there is no tool"),
    ],
)
async def test_a_failed_call_goes_back_to_the_model(
    model: ScriptedModel, talk: Talk, name: str, arguments_json: str, problem: str
) -> None:
    bad = replace(calls(("x", {})), tool_calls=(ToolUse("p1", name, arguments_json),))
    model.answers = [bad, says("sorry")]
    events = await talk.send("hello")

    assert texts(events) == ["sorry"]
    outcome = model.requests[1].turns[-1].outcomes[0]
    assert not outcome.ok
    assert problem in outcome.content
    assert model.requests[1].turns[-2].tool_calls[0].arguments_json == arguments_json


async def test_memory_edits_are_shown_and_last(model: ScriptedModel, talk: Talk) -> None:
    edit = {"label": "human", "content": "Her name is Ann.", "request_heartbeat": True}
    model.answers = [calls(("core_memory_append", edit)), says("Hello Ann")]
    events = await talk.send("I am Ann")

    edits = [event.memory_edit for event in events if event.WhichOneof("event") == "memory_edit"]
    assert [(one.label, one.before, one.after) for one in edits] == [("human", "", "Her name is Ann.")]
    assert "Her name is Ann." in model.requests[1].system[1].text
    assert model.requests[0].system[0] == model.requests[1].system[0]


async def test_parallel_calls_keep_their_order(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [
        calls(
            ("core_memory_append", {"label": "human", "content": "one", "request_heartbeat": False}),
            ("send_message", {"message": "first"}),
            ("send_message", {"message": "second"}),
        )
    ]
    events = await talk.send("go")

    assert texts(events) == ["first", "second"]
    assert [m.text for m in await talk.messages()][1] == "first\nsecond"


async def test_the_chain_ends_at_max_steps(model: ScriptedModel, scripted_suite: Suite) -> None:
    talk = await open_talk(scripted_suite, agent=pb.Agent(max_steps=3))
    model.script = lambda _: calls(("get_current_time", {"request_heartbeat": True}))
    events = await talk.send("loop")

    failed = events[-1].failed
    assert failed.stop_reason == pb.STOP_REASON_MAX_STEPS
    assert failed.failure.reason == errors_pb2.REASON_MAX_STEPS
    assert failed.failure.metadata["max_steps"] == "3"
    assert len(model.requests) == 3
    model.script = None
    assert texts(await talk.send("and now?")) == ["echo and now?"]


async def test_words_are_shown_while_they_arrive(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [says('Grüße, "Ann" 你好')]
    events = await talk.send("hello", stream_tokens=True)

    deltas = [event.token_delta for event in events if event.WhichOneof("event") == "token_delta"]
    assert "".join(delta.text for delta in deltas) == 'Grüße, "Ann" 你好'
    assert deltas[0].offset == 0
    assert all(delta.attempt == 1 for delta in deltas)
    assert [event.sequence for event in events if event.sequence] == list(range(1, 7))


async def test_inner_events_are_shown_to_those_who_ask(model: ScriptedModel, talk: Talk) -> None:
    events = await talk.send("hello", include_inner_events=False)

    assert kinds(events) == ["queued", "assistant_message", "completed"]


async def test_a_refusal_ends_the_turn(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [replace(thinks("I cannot do that"), stop_reason=StopReason.REFUSAL)]
    events = await talk.send("do evil")

    assert events[-1].completed.stop_reason == pb.STOP_REASON_REFUSAL


async def test_odd_characters_of_a_model_reach_the_store_cleaned(model: ScriptedModel, talk: Talk) -> None:
    model.answers = [says("a\x00b", text="x\x00\ud800y")]
    events = await talk.send("hello")

    assert events[-1].WhichOneof("event") == "completed"
    thought, outcome = model.requests[1].turns[-2:]
    assert thought.text == "xy"
    assert "a NUL character" in outcome.outcomes[0].content


async def test_usage_is_billed_by_day_and_model(model: ScriptedModel, talk: Talk) -> None:
    await talk.send("hello")
    usage = await talk.agents.GetUsage(pb.GetUsageRequest(agent_id=talk.agent_id))

    assert [row.model for row in usage.rows] == ["scripted"]
    assert (usage.total.input_tokens, usage.total.output_tokens, usage.total.model_calls) == (100, 10, 1)


async def test_the_context_window_is_the_next_prompt(model: ScriptedModel, talk: Talk) -> None:
    await talk.send("hello")
    window = await talk.agents.GetContextWindow(pb.GetContextWindowRequest(conversation_id=talk.conversation_id))

    assert [part.kind for part in window.parts] == ["tools", "instructions", "memory"] + ["message"] * 3
    assert window.token_count == sum(part.token_count for part in window.parts)
