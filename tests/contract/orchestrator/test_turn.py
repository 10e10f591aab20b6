"""One turn, as its caller sees it and as recall holds it."""

from __future__ import annotations

from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, calls, kinds, says, texts, thinks


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
