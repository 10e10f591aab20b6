"""What a step writes: a model's output as the journal keeps it, and the messages that recall gets.

Pure. Ids derive from the run and the number of the step, so a step that is executed again names the same messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mneme.orchestrator.models.port import ModelOutput, Reasoning, StopReason, ToolUse, Usage
from mneme.orchestrator.models.tokens import TURN_OVERHEAD
from mneme.orchestrator.prompt import event_text, user_text
from mneme.orchestrator.window import Message
from mneme.runtime import ids

SEND_MESSAGE = "send_message"
NOTHING_SAID = "(nothing)"
"""Stands for an answer without text and calls, which no provider takes back."""

_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_NAME_CHARS = 64
MAX_CALLS = 64
"""Calls of one answer that are carried out; a model that makes more has lost its way, and recall takes no more."""


@dataclass(frozen=True, slots=True)
class Input:
    """A message that comes into the prompt with a step: the event itself, or a notice of the system."""

    message_id: str
    kind: str
    """`user`, `speaker` (a user's message with its speaker's name), `system`, `interaction`, `timed`, `pressure`."""
    text: str
    create_time: datetime
    speaker: str = ""

    @property
    def role(self) -> str:
        """Who speaks."""
        return "user" if self.kind == "user" else "system"

    @property
    def hidden(self) -> bool:
        """True for what the user never sees."""
        return self.kind == "pressure"

    def shown(self) -> str:
        """The text as the model reads it."""
        return shown_text(self.kind, self.text, self.create_time, self.speaker)


def shown_text(kind: str, text: str, create_time: datetime, speaker: str = "") -> str:
    """A user's message or an event as the model reads it; always the same for the same stored message."""
    if kind == "user":
        return user_text(text, create_time, speaker)
    return text if kind == "pressure" else event_text(kind, text, create_time)


def incoming_id(run_id: str) -> str:
    """Id of the message that a run answers."""
    return ids.derived("message", run_id, "input")


def step_id(run_id: str, number: int) -> str:
    """Id of a run's step."""
    return ids.derived("step", run_id, number)


def call_id(step: str, index: int) -> str:
    """Id of a step's tool call; the provider's own ids are never used."""
    return ids.derived("call", step, index)


def assistant_id(step: str) -> str:
    """Id of the message that holds what the model wrote."""
    return ids.derived("message", step, "assistant")


def result_id(step: str, index: int) -> str:
    """Id of the message that holds a call's result."""
    return ids.derived("message", step, "result", index)


def cleaned(output: ModelOutput, step: str) -> ModelOutput:
    """The output as it is stored and acted on: with our own call ids, and without characters no store takes."""
    calls = tuple(
        ToolUse(call_id(step, index), _clean(call.name)[:_NAME_CHARS] or "unnamed", _clean(call.arguments_json))
        for index, call in enumerate(output.tool_calls[:MAX_CALLS])
    )
    text = _clean(output.text)
    reasoning = tuple(replace(piece, text=_clean(piece.text)) for piece in output.reasoning)
    said = text or ("" if calls else NOTHING_SAID)
    return replace(output, text=said, tool_calls=calls, reasoning=reasoning)


def output_json(output: ModelOutput) -> dict[str, Any]:
    """A cleaned output as the journal keeps it."""
    return {
        "text": output.text,
        "calls": [[call.id, call.name, call.arguments_json] for call in output.tool_calls],
        "reasoning": reasoning_json(output.reasoning),
        "stop_reason": output.stop_reason.value,
        "model": output.model,
    }


def output_of(stored: Mapping[str, Any], usage: Usage) -> ModelOutput:
    """The output that the journal keeps."""
    return ModelOutput(
        text=stored["text"],
        tool_calls=tuple(ToolUse(*call) for call in stored["calls"]),
        reasoning=reasoning_of(stored["reasoning"]),
        stop_reason=StopReason(stored["stop_reason"]),
        usage=usage,
        model=stored["model"],
    )


def reasoning_json(reasoning: Sequence[Reasoning]) -> list[list[str]]:
    """Reasoning as lists of text, signature, redacted part and model."""
    return [[piece.text, piece.signature, piece.redacted, piece.model] for piece in reasoning]


def reasoning_of(stored: Sequence[Sequence[str]]) -> tuple[Reasoning, ...]:
    """Reasoning from its stored form."""
    return tuple(Reasoning(*piece) for piece in stored)


def input_json(message: Input) -> dict[str, Any]:
    """An input as the journal keeps it."""
    return {
        "id": message.message_id,
        "kind": message.kind,
        "text": message.text,
        "create_time": message.create_time.isoformat(),
        "speaker": message.speaker,
    }


def input_of(stored: Mapping[str, Any]) -> Input:
    """An input from its stored form."""
    return Input(
        stored["id"],
        stored["kind"],
        stored["text"],
        datetime.fromisoformat(stored["create_time"]),
        stored["speaker"],
    )


def input_message(message: Input, sequence: int, count_tokens: Callable[[str], int]) -> Message:
    """An input as the window holds it."""
    text = message.shown()
    return Message(
        id=message.message_id,
        role="user" if message.role == "user" else "system",
        text=text,
        sequence=sequence,
        created_at=message.create_time,
        token_count=count_tokens(text) + TURN_OVERHEAD,
        hidden=message.hidden,
    )


def assistant_message(
    step: str, output: ModelOutput, sequence: int, created_at: datetime, count_tokens: Callable[[str], int]
) -> Message:
    """What a model wrote, as the window holds it."""
    return Message(
        id=assistant_id(step),
        role="assistant",
        text=output.text,
        sequence=sequence,
        created_at=created_at,
        token_count=assistant_tokens(output.text, output.tool_calls, count_tokens),
        tool_calls=output.tool_calls,
        reasoning=output.reasoning,
    )


def assistant_tokens(text: str, calls: Sequence[ToolUse], count_tokens: Callable[[str], int]) -> int:
    """Estimated tokens of an assistant message."""
    return TURN_OVERHEAD + count_tokens(text) + sum(
        count_tokens(call.name) + count_tokens(call.arguments_json) + TURN_OVERHEAD for call in calls
    )  # fmt: skip


def result_message(
    step: str,
    index: int,
    call: ToolUse,
    *,
    ok: bool,
    text: str,
    sequence: int,
    created_at: datetime,
    count_tokens: Callable[[str], int],
) -> Message:
    """A call's result, as the window holds it."""
    return Message(
        id=result_id(step, index),
        role="tool",
        text=text,
        sequence=sequence,
        created_at=created_at,
        token_count=count_tokens(text) + TURN_OVERHEAD,
        tool_call_id=call.id,
        tool_name=call.name,
        tool_ok=ok,
        hidden=True,
    )


def _clean(text: str) -> str:
    return _UNSTORABLE.sub("", text)
