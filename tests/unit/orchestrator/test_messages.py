"""Messages on their way to recall and back: what the model reads must be the same bytes after a restart."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mneme.orchestrator import journal, messages
from mneme.orchestrator.journal import Input
from mneme.orchestrator.models.port import ModelOutput, Reasoning, StopReason, ToolUse, Usage
from mneme.orchestrator.window import Message
from mneme.recall.v1 import recall_pb2

NOW = datetime(2026, 11, 22, 10, 30, 15, 123456, tzinfo=UTC)
STEP = journal.step_id("run-1", 1)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
pieces = st.builds(Reasoning, text=texts, signature=texts, redacted=texts, model=texts)
arguments = st.one_of(
    st.dictionaries(texts, texts, max_size=3).map(lambda found: json.dumps(found, ensure_ascii=False)),
    st.sampled_from(["", "{", "[1]", "null", '{"a": NaN}', '{"a": "\\ud800"}', "nonsense"]),
)
tool_uses = st.builds(ToolUse, id=texts, name=st.text("abc_", max_size=8), arguments_json=arguments)
outputs = st.builds(
    ModelOutput,
    text=st.text(max_size=30),
    tool_calls=st.lists(tool_uses, max_size=3).map(tuple),
    reasoning=st.lists(pieces, max_size=2).map(tuple),
    stop_reason=st.sampled_from(StopReason),
    usage=st.just(Usage()),
    model=texts,
)


def count(text: str) -> int:
    """A token is a character."""
    return len(text)


def read_again(wires: list[recall_pb2.Message]) -> tuple[Message, ...]:
    """Messages as a fresh window holds them, after a trip over the wire."""
    response = recall_pb2.GetWindowResponse(next_sequence=len(wires) + 1)
    for sequence, wire in enumerate(wires, start=1):
        sent = recall_pb2.Message.FromString(wire.SerializeToString())
        sent.sequence = sequence
        response.messages.append(sent)
    return messages.window_of(response, count).messages


@given(outputs, st.booleans())
def test_what_a_model_wrote_comes_back_as_it_was(output: ModelOutput, sent: bool) -> None:
    cleaned = journal.cleaned(output, STEP)
    message = journal.assistant_message(STEP, cleaned, 1, NOW, count)
    said = ["hello", "again"] if sent else []

    [again] = read_again([messages.wire_assistant(message, said, "run-1", STEP)])
    assert again == Message(
        id=message.id,
        role="assistant",
        text=message.text,
        sequence=1,
        created_at=NOW,
        token_count=message.token_count,
        tool_calls=message.tool_calls,
        reasoning=message.reasoning,
        hidden=not sent,
    )


@given(outputs)
def test_every_call_reaches_recall_as_a_json_object(output: ModelOutput) -> None:
    message = journal.assistant_message(STEP, journal.cleaned(output, STEP), 1, NOW, count)
    wire = messages.wire_assistant(message, [], "run-1", STEP)

    assert all(isinstance(json.loads(call.arguments_json), dict) for call in wire.tool_calls)
    assert all(call.name and len(call.name) <= 64 for call in wire.tool_calls)


@given(outputs)
def test_the_journal_gives_back_what_it_got(output: ModelOutput) -> None:
    cleaned = journal.cleaned(output, STEP)
    stored: Any = json.loads(json.dumps(journal.output_json(cleaned)))

    assert journal.output_of(stored, Usage()) == cleaned
    json.dumps(stored, ensure_ascii=False).encode()
    assert "\x00" not in cleaned.text


@given(
    st.sampled_from(["user", "system", "interaction", "timed", "pressure"]),
    texts.filter(bool),
    st.sampled_from(["", "Ann"]),
)
def test_an_event_comes_back_as_the_model_read_it(kind: str, text: str, speaker: str) -> None:
    incoming = Input("message-1", kind, text, NOW, speaker)
    shown = journal.input_message(incoming, 1, count)

    [again] = read_again([messages.wire_input(incoming, shown.token_count, "run-1", STEP)])
    assert again == shown
    assert journal.input_of(json.loads(json.dumps(journal.input_json(incoming)))) == incoming


def test_a_message_that_a_person_appended_is_read_as_the_users() -> None:
    wire = recall_pb2.Message(message_id="message-1", role=recall_pb2.ROLE_USER, text="from outside")
    wire.create_time.FromDatetime(NOW)

    [again] = read_again([wire])
    assert again.text == "[2026-11-22 10:30 UTC] from outside"
    assert again.token_count > 0


def test_calls_get_our_own_ids_and_results_find_them() -> None:
    output = ModelOutput("", (ToolUse("p", "x", "{}"), ToolUse("p", "y", "{}")), (), StopReason.TOOL_USE, Usage(), "m")
    cleaned = journal.cleaned(output, STEP)

    assert len({call.id for call in cleaned.tool_calls}) == 2
    assert journal.cleaned(output, STEP) == cleaned
    result = journal.result_message(
        STEP, 1, cleaned.tool_calls[1], ok=True, text="done", sequence=2, created_at=NOW, count_tokens=count
    )
    assistant = journal.assistant_message(STEP, cleaned, 1, NOW, count)
    again = read_again(
        [
            messages.wire_assistant(assistant, [], "run-1", STEP),
            messages.wire_result(result, "run-1", STEP, from_recall=True),
        ]
    )
    assert again[1] == result
    assert again[1].tool_name == "y"
