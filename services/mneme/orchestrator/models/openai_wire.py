"""Requests and answers of the OpenAI chat protocol."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

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
    ToolUse,
    Turn,
    Usage,
)
from mneme.orchestrator.models.table import ModelInfo, accepted_sampling

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk
    from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

_STOP_REASONS = {
    "stop": StopReason.END_TURN,
    "tool_calls": StopReason.TOOL_USE,
    "function_call": StopReason.TOOL_USE,
    "length": StopReason.MAX_TOKENS,
    "content_filter": StopReason.REFUSAL,
}


def chat_arguments(request: ModelRequest, info: ModelInfo) -> dict[str, Any]:
    """The keyword arguments of `chat.completions.create`."""
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": list(_messages(request)),
        "max_tokens": min(request.max_tokens, info.max_output_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        **accepted_sampling(request, info),
    }
    if request.tools:
        arguments["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in request.tools
        ]
        if request.tool_choice:
            arguments["tool_choice"] = _choice(request.tool_choice)
    return arguments


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    match choice:
        case OneTool(name):
            return {"type": "function", "function": {"name": name}}
        case AnyTool():
            return "required"
    return "auto"


def _messages(request: ModelRequest) -> Iterable[dict[str, Any]]:
    """The instructions as one system message, then the turns. Reasoning is not sent back: endpoints refuse it."""
    system = "\n\n".join(part.text for part in request.system if part.text.strip())
    if system:
        yield {"role": "system", "content": system}
    for turn in shaped(request.turns, with_tools=bool(request.tools)):
        yield from _turn(turn)


def _turn(turn: Turn) -> Iterable[dict[str, Any]]:
    if turn.role == "tool":
        for outcome in turn.outcomes:
            yield {"role": "tool", "tool_call_id": outcome.tool_call_id, "content": outcome.content}
        return
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(arguments_object(call), ensure_ascii=False)},
            }
            for call in turn.tool_calls
        ]
    yield message


class Answer:
    """An answer as it arrives."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self._call_of_index: dict[int, int] = {}
        self._stop_reason: str = ""
        self._refused = False
        self._usage = Usage()

    @property
    def complete(self) -> bool:
        """True once the model said why it stopped."""
        return bool(self._stop_reason)

    def take(self, chunk: "ChatCompletionChunk") -> Iterable[StreamEvent]:
        """What one chunk adds for the reader."""
        if chunk.usage:
            self._usage = _usage(chunk.usage)
        for choice in chunk.choices[:1]:
            yield from self._extend(choice.delta)
            self._stop_reason = choice.finish_reason or self._stop_reason

    def finished(self) -> Finished:
        """The end of the answer."""
        calls = tuple(ToolUse(call_id, name, "".join(pieces) or "{}") for call_id, name, pieces in self._calls)
        reason = _STOP_REASONS.get(self._stop_reason, StopReason.OTHER)
        if self._refused:
            reason = StopReason.REFUSAL
        elif calls and reason is StopReason.END_TURN:
            # Some endpoints report `stop` beside calls.
            reason = StopReason.TOOL_USE
        reasoning = "".join(self._reasoning)
        output = ModelOutput(
            text="".join(self._text),
            tool_calls=calls,
            reasoning=(Reasoning(reasoning, model=self._model),) if reasoning else (),
            stop_reason=reason,
            usage=self._usage,
            model=self._model,
        )
        return Finished(output)

    def _extend(self, delta: "ChoiceDelta") -> Iterable[StreamEvent]:
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if isinstance(thought, str) and thought:
            self._reasoning.append(thought)
            yield ReasoningDelta(thought)
        self._refused = self._refused or bool(delta.refusal)
        text = (delta.content or "") + (delta.refusal or "")
        if text:
            self._text.append(text)
            yield TextDelta(text)
        for call in delta.tool_calls or ():
            yield from self._extend_call(call)

    def _extend_call(self, piece: "ChoiceDeltaToolCall") -> Iterable[StreamEvent]:
        index = self._call_of_index.get(piece.index)
        function = piece.function
        if index is None or (piece.id and piece.id != self._calls[index][0]):
            # A new id under a known index is a new call: some endpoints number every call 0.
            index = self._call_of_index[piece.index] = len(self._calls)
            name = (function.name if function else None) or ""
            self._calls.append((piece.id or f"call-{uuid4().hex}", name, []))
            yield ToolCallStarted(index, self._calls[index][0], name)
        text = (function.arguments if function else None) or ""
        if text:
            self._calls[index][2].append(text)
            yield ToolArgumentsDelta(index, text)


def _usage(usage: "CompletionUsage") -> Usage:
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens if details else None) or getattr(usage, "prompt_cache_hit_tokens", None) or 0
    return Usage(
        input_tokens=max(0, usage.prompt_tokens - cached),
        output_tokens=usage.completion_tokens,
        cache_read_tokens=cached,
    )
