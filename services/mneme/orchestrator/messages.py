"""Messages of the window to recall's and back.

Recall's `text` is what people see and search: of an assistant message, what was sent to the user. What the model
needs back beside it (its thoughts, reasoning) travels in `content_json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, NoReturn

from mneme.common.v1 import common_pb2
from mneme.orchestrator import journal
from mneme.orchestrator.journal import Input
from mneme.orchestrator.models.port import Role, ToolUse
from mneme.orchestrator.window import Message, Window
from mneme.recall.v1 import recall_pb2

_ROLES: Mapping[int, Role] = {
    recall_pb2.ROLE_USER: "user",
    recall_pb2.ROLE_ASSISTANT: "assistant",
    recall_pb2.ROLE_TOOL: "tool",
    recall_pb2.ROLE_SYSTEM: "system",
}

_KINDS: Mapping[str, recall_pb2.MessageKind.ValueType] = {
    "user": recall_pb2.MESSAGE_KIND_USER_MESSAGE,
    "system": recall_pb2.MESSAGE_KIND_SYSTEM_EVENT,
    "interaction": recall_pb2.MESSAGE_KIND_INTERACTION,
    "timed": recall_pb2.MESSAGE_KIND_TIMED,
    "pressure": recall_pb2.MESSAGE_KIND_MEMORY_PRESSURE,
}
_KIND_NAMES = {kind: name for name, kind in _KINDS.items()}


def wire_input(message: Input, token_count: int, run_id: str, step_id: str) -> recall_pb2.Message:
    """An input for recall."""
    wire = recall_pb2.Message(
        message_id=message.message_id,
        role=recall_pb2.ROLE_USER if message.role == "user" else recall_pb2.ROLE_SYSTEM,
        text=message.text,
        token_count=token_count,
        run_id=run_id,
        step_id=step_id,
        hidden=message.hidden,
        speaker=message.speaker,
        kind=_KINDS[message.kind],
    )
    wire.create_time.FromDatetime(message.create_time)
    return wire


def wire_assistant(message: Message, sent: Sequence[str], run_id: str, step_id: str) -> recall_pb2.Message:
    """What a model wrote, for recall.

    Args:
        sent: Messages to the user among it.
    """
    wire = recall_pb2.Message(
        message_id=message.id,
        role=recall_pb2.ROLE_ASSISTANT,
        text="\n".join(sent) or message.text,
        tool_calls=[
            common_pb2.ToolCall(id=call.id, name=call.name, arguments_json=_as_object(call))
            for call in message.tool_calls
        ],
        token_count=message.token_count,
        run_id=run_id,
        step_id=step_id,
        hidden=not sent,
    )
    wire.create_time.FromDatetime(message.created_at)
    content = _content(message, sent)
    if content:
        wire.content_json = _json(content)
    return wire


def wire_result(message: Message, run_id: str, step_id: str, *, from_recall: bool) -> recall_pb2.Message:
    """A tool's result, for recall."""
    wire = recall_pb2.Message(
        message_id=message.id,
        role=recall_pb2.ROLE_TOOL,
        text=message.text,
        tool_call_id=message.tool_call_id,
        tool_ok=message.tool_ok,
        token_count=message.token_count,
        run_id=run_id,
        step_id=step_id,
        hidden=True,
    )
    wire.create_time.FromDatetime(message.created_at)
    if from_recall:
        wire.provenance.from_recall = True
        wire.provenance.step_id = step_id
    return wire


def window_of(response: recall_pb2.GetWindowResponse, count_tokens: Callable[[str], int]) -> Window:
    """The window as recall holds it."""
    names: dict[str, str] = {}
    messages = []
    for wire in response.messages:
        names.update({call.id: call.name for call in wire.tool_calls})
        messages.append(_message(wire, names.get(wire.tool_call_id, ""), count_tokens))
    return Window(
        summary=response.summary,
        summary_version=response.summary_version,
        messages=tuple(messages),
        next_sequence=response.next_sequence or 1,
        evicted_count=response.evicted_count,
    )


def _message(wire: recall_pb2.Message, tool_name: str, count_tokens: Callable[[str], int]) -> Message:
    role = _ROLES[wire.role]
    content: dict[str, Any] = json.loads(wire.content_json) if wire.content_json else {}
    calls = tuple(_call(call, content) for call in wire.tool_calls)
    text = _model_text(wire, role, content)
    return Message(
        id=wire.message_id,
        role=role,
        text=text,
        sequence=wire.sequence,
        created_at=wire.create_time.ToDatetime(UTC),
        token_count=wire.token_count or journal.assistant_tokens(text, calls, count_tokens),
        tool_calls=calls,
        tool_call_id=wire.tool_call_id,
        tool_name=tool_name,
        tool_ok=wire.tool_ok,
        reasoning=journal.reasoning_of(content.get("reasoning", ())),
        hidden=wire.hidden,
    )


def _model_text(wire: recall_pb2.Message, role: Role, content: Mapping[str, Any]) -> str:
    """The text as the model reads it; the same bytes as when the message was new."""
    if role == "assistant":
        return str(content["thought"]) if "thought" in content else wire.text
    if role == "tool":
        return wire.text
    kind = _KIND_NAMES.get(wire.kind) or ("user" if role == "user" else "system")
    return journal.shown_text(kind, wire.text, wire.create_time.ToDatetime(UTC), wire.speaker)


def _content(message: Message, sent: Sequence[str]) -> dict[str, Any]:
    broken = {call.id: call.arguments_json for call in message.tool_calls if not _is_object(call)}
    content: dict[str, Any] = {}
    if sent:
        content["thought"] = message.text
    if message.reasoning:
        content["reasoning"] = journal.reasoning_json(message.reasoning)
    if broken:
        content["broken_arguments"] = broken
    return content


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _call(call: common_pb2.ToolCall, content: Mapping[str, Any]) -> ToolUse:
    written = content.get("broken_arguments", {}).get(call.id, call.arguments_json)
    return ToolUse(call.id, call.name, str(written))


def _as_object(call: ToolUse) -> str:
    """The arguments for recall, which takes JSON objects only; what a model wrote else stays in `content`."""
    return call.arguments_json if _is_object(call) else "{}"


def _is_object(call: ToolUse) -> bool:
    try:
        value = json.loads(call.arguments_json, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)
