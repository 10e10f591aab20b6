"""Requests and answers of Bedrock's Converse API."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from mneme.orchestrator.models.conversation import arguments_object, shaped
from mneme.orchestrator.models.port import (
    AnyTool,
    Finished,
    ModelOutput,
    ModelRequest,
    OneTool,
    Reasoning,
    ReasoningDelta,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    ToolChoice,
    ToolSpec,
    ToolUse,
    Turn,
    Usage,
)
from mneme.orchestrator.models.table import ModelInfo, accepted_sampling

_NAMES = {"temperature": "temperature", "top_p": "topP"}
_STOP_REASONS = {
    "end_turn": StopReason.END_TURN,
    "tool_use": StopReason.TOOL_USE,
    "max_tokens": StopReason.MAX_TOKENS,
    "model_context_window_exceeded": StopReason.MAX_TOKENS,
    "stop_sequence": StopReason.STOP_SEQUENCE,
    "guardrail_intervened": StopReason.REFUSAL,
    "content_filtered": StopReason.REFUSAL,
    "refusal": StopReason.REFUSAL,
}
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CACHE_POINT = {"cachePoint": {"type": "default"}}


def converse_arguments(request: ModelRequest, info: ModelInfo) -> dict[str, Any]:
    """The keyword arguments of `converse` and `converse_stream`."""
    sampling = {_NAMES[name]: value for name, value in accepted_sampling(request, info).items()}
    arguments: dict[str, Any] = {
        "modelId": request.model,
        "messages": _messages(request),
        "inferenceConfig": {"maxTokens": min(request.max_tokens, info.max_output_tokens), **sampling},
    }
    system = list(_system(request, info))
    if system:
        arguments["system"] = system
    if request.tools:
        arguments["toolConfig"] = {"tools": [_tool(tool) for tool in request.tools]}
        if request.tool_choice:
            arguments["toolConfig"]["toolChoice"] = _choice(request.tool_choice)
    return arguments


def _system(request: ModelRequest, info: ModelInfo) -> Iterable[dict[str, Any]]:
    for part in request.system:
        if part.text.strip():
            yield {"text": part.text}
            if part.cache_point and info.cache_points:
                yield _CACHE_POINT


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = {"json": dict(tool.parameters)}
    return {"toolSpec": {"name": tool.name, "description": tool.description, "inputSchema": schema}}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    match choice:
        case OneTool(name):
            return {"tool": {"name": name}}
        case AnyTool():
            return {"any": {}}
    return {"auto": {}}


def _messages(request: ModelRequest) -> list[dict[str, Any]]:
    """The turns as messages of strictly alternating roles; results of tools come first in the user's."""
    messages: list[dict[str, Any]] = []
    for turn in shaped(request.turns, with_tools=bool(request.tools)):
        role = "assistant" if turn.role == "assistant" else "user"
        content = list(_content(turn, request.model))
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    return messages


def _content(turn: Turn, model: str) -> Iterable[dict[str, Any]]:
    for piece in turn.reasoning:
        if piece.model == model:
            yield {"reasoningContent": _reasoning(piece)}
    for outcome in turn.outcomes:
        yield {
            "toolResult": {
                "toolUseId": _id(outcome.tool_call_id),
                "content": [{"text": outcome.content or "(empty)"}],
                "status": "success" if outcome.ok else "error",
            }
        }
    if turn.text.strip():
        yield {"text": turn.text}
    for call in turn.tool_calls:
        yield {"toolUse": {"toolUseId": _id(call.id), "name": call.name, "input": arguments_object(call)}}


def _reasoning(piece: Reasoning) -> dict[str, Any]:
    if piece.redacted:
        return {"redactedContent": base64.b64decode(piece.redacted)}
    signature = {"signature": piece.signature} if piece.signature else {}
    return {"reasoningText": {"text": piece.text, **signature}}


def _id(call_id: str) -> str:
    """The id as Bedrock accepts it: calls may come from another provider's part of the conversation."""
    return call_id if _ID.fullmatch(call_id) else f"call-{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


class Answer:
    """An answer as it arrives."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self._call_of_block: dict[int, int] = {}
        self._reasoning: dict[int, Reasoning] = {}
        self._stop_reason: str = ""
        self._usage = Usage()

    @property
    def complete(self) -> bool:
        """True once the model said why it stopped."""
        return bool(self._stop_reason)

    def take(self, event: dict[str, Any]) -> Iterable[StreamEvent]:
        """What one event of the stream, or the whole answer of `converse`, adds for the reader."""
        match event:
            case {"contentBlockStart": {"start": {"toolUse": tool}, "contentBlockIndex": block}}:
                yield self._start_call(block, tool)
            case {"contentBlockDelta": {"delta": delta, "contentBlockIndex": block}}:
                yield from self._extend(block, delta)
            case {"messageStop": {"stopReason": reason}}:
                self._stop_reason = reason
            case {"metadata": {"usage": usage}}:
                self._usage = _usage(usage)
            case {"converse": answer}:
                self._take_whole(answer)

    def finished(self) -> Finished:
        """The end of the answer."""
        reason = _STOP_REASONS.get(self._stop_reason, StopReason.OTHER)
        calls = tuple(ToolUse(call_id, name, "".join(pieces) or "{}") for call_id, name, pieces in self._calls)
        output = ModelOutput(
            text="".join(self._text),
            tool_calls=calls,
            reasoning=tuple(self._reasoning.values()),
            stop_reason=reason,
            usage=self._usage,
            model=self._model,
        )
        return Finished(output)

    def _start_call(self, block: int, tool: dict[str, Any]) -> ToolCallStarted:
        index = self._call_of_block[block] = len(self._calls)
        self._calls.append((tool["toolUseId"], tool["name"], []))
        return ToolCallStarted(index, tool["toolUseId"], tool["name"])

    def _extend(self, block: int, delta: dict[str, Any]) -> Iterable[StreamEvent]:
        match delta:
            case {"text": text}:
                self._text.append(text)
                yield TextDelta(text)
            case {"toolUse": {"input": text}} if block in self._call_of_block:
                index = self._call_of_block[block]
                self._calls[index][2].append(text)
                yield ToolArgumentsDelta(index, text)
            case {"reasoningContent": piece}:
                yield from self._reason(block, piece)

    def _reason(self, block: int, piece: dict[str, Any]) -> Iterable[StreamEvent]:
        so_far = self._reasoning.get(block, Reasoning(model=self._model))
        text = piece.get("text", "")
        redacted = base64.b64decode(so_far.redacted) + piece.get("redactedContent", b"")
        self._reasoning[block] = Reasoning(
            text=so_far.text + text,
            signature=so_far.signature + piece.get("signature", ""),
            redacted=base64.b64encode(redacted).decode(),
            model=self._model,
        )
        if text:
            yield ReasoningDelta(text)

    def _take_whole(self, answer: dict[str, Any]) -> None:
        for block, content in enumerate(answer["output"]["message"]["content"]):
            match content:
                case {"text": text}:
                    self._text.append(text)
                case {"toolUse": tool}:
                    self._calls.append((tool["toolUseId"], tool["name"], [json.dumps(tool["input"])]))
                case {"reasoningContent": {"reasoningText": piece}}:
                    list(self._reason(block, piece))
                case {"reasoningContent": piece}:
                    list(self._reason(block, piece))
        self._stop_reason = answer["stopReason"]
        self._usage = _usage(answer["usage"])


def _usage(usage: dict[str, Any]) -> Usage:
    return Usage(
        input_tokens=usage.get("inputTokens", 0),
        output_tokens=usage.get("outputTokens", 0),
        cache_read_tokens=usage.get("cacheReadInputTokens", 0),
        cache_write_tokens=usage.get("cacheWriteInputTokens", 0),
    )
