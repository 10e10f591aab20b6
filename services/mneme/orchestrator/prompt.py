"""Builds the prompt of a step, the same bytes from the same parts.

Order, after MemGPT (arXiv 2310.08560), section 2.1: instructions, working context, recursive summary, queue. The
instructions end at a cache point and the working context stands after it, so that an edit of a block never
rewrites the prefix that providers keep.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mneme.orchestrator.models.port import ModelRequest, SystemPart, ToolOutcome, ToolSpec, ToolUse, Turn
from mneme.orchestrator.window import Message, Window

RENDER_VERSION = 1
"""Raised with every change of the layout: a replay needs to know how the bytes were made."""

DEFAULT_INSTRUCTIONS = """\
You are an assistant with a memory that outlives this conversation.

Your context window is small, but your memory is not:
- Core memory stands below in labelled blocks. You always see it. Keep in it what you need in every conversation: \
who the user is, what they want, how you should behave. Edit it as soon as you learn something lasting; replace what \
is no longer true. Each block has a limit in characters.
- Recall memory holds every message ever exchanged, also those that have left this window. Search it with \
conversation_search or conversation_search_date.
- Archival memory holds facts and documents without limit. Search it before you say that you do not know; insert \
what does not fit into core memory.

Only send_message reaches the user; everything else you write is private. To act again right after a tool call, set \
request_heartbeat to true; otherwise you wait for the next event. What a search returns is memory, not news: do not \
store it again.
"""

PRESSURE_NOTICE = (
    "[memory pressure] The conversation fills {percent} % of your window. The oldest messages will soon leave it. "
    "Save what must not be lost to core or archival memory now. This notice is not from the user; do not answer it."
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model is asked."""

    model: str
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Related:
    """Something found in memory before the model was asked (augmented mode)."""

    id: str
    kind: str
    """`message` or `passage`."""
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What a part of the prompt was made from; the journal keeps these instead of the text."""

    kind: str
    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the prompt as a person wants to see it."""

    kind: str
    """`instructions`, `memory`, `summary`, `related`, `message` or `tools`."""
    id: str
    role: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, and what it was made from."""

    request: ModelRequest
    parts: tuple[Part, ...]
    references: tuple[Reference, ...]
    tokens: int
    """Estimated tokens of the whole request."""
    sha256: str
    """Hash of the request's canonical form, as hex."""


def build(
    *,
    instructions: str,
    sampling: Sampling,
    memory_text: str,
    blocks: Sequence[tuple[str, int]],
    window: Window,
    related: Sequence[Related],
    tools: tuple[ToolSpec, ...],
    count_tokens: Callable[[str], int],
) -> Prompt:
    """The prompt of one step.

    Args:
        instructions: The agent's own; empty for the default ones.
        memory_text: Working context as core memory rendered it.
        blocks: Id and version of each block in it.
        related: What was found beforehand, best first; empty in self-directed mode.
        count_tokens: Estimates the tokens of a text.
    """
    prefix = instructions.strip() or DEFAULT_INSTRUCTIONS.strip()
    system = [
        Part(
            "instructions",
            hashlib.sha256(prefix.encode()).hexdigest(),
            "system",
            prefix,
            count_tokens(prefix),
        ),
        Part("memory", "", "system", memory_text, count_tokens(memory_text)),
    ]
    queue = [*_summary(window, count_tokens), *_related(related, count_tokens)]
    messages = [Part("message", m.id, m.role, _shown(m), m.token_count) for m in window.messages]
    tools_text = _tools_text(tools)
    parts = (Part("tools", "", "system", tools_text, count_tokens(tools_text)), *system, *queue, *messages)
    request = ModelRequest(
        model=sampling.model,
        system=(SystemPart(prefix, cache_point=True), SystemPart(memory_text)),
        turns=(*(Turn("system", part.text) for part in queue), *_turns(window.messages)),
        tools=tools,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    return Prompt(request, parts, _references(parts, blocks, window), sum(p.tokens for p in parts), digest(request))


def digest(request: ModelRequest) -> str:
    """SHA-256 of a request's canonical JSON, as hex: two requests are the same prompt when it is equal."""
    text = json.dumps(request, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_fields)
    return hashlib.sha256(text.encode()).hexdigest()


def user_text(text: str, created_at: datetime, speaker: str = "") -> str:
    """A user's message as the model reads it: with its time, which the model cannot know otherwise."""
    name = f" {speaker}" if speaker else ""
    return f"[{_stamp(created_at)}{name}] {text}"


def event_text(kind: str, text: str, created_at: datetime) -> str:
    """A system, interaction or timed event as the model reads it."""
    return f"[{_stamp(created_at)} {kind}] {text}"


def _fields(value: Any) -> list[object] | dict[str, object]:
    """A value of the port as plain JSON: its fields in order; ten times as fast as a deep copy into dictionaries."""
    if isinstance(value, Mapping):
        return dict(value)
    return [getattr(value, name) for name in value.__dataclass_fields__]


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _summary(window: Window, count_tokens: Callable[[str], int]) -> list[Part]:
    if not window.summary and not window.evicted_count:
        return []
    text = (
        f"[summary] {window.evicted_count} earlier messages have left this window. They stay in recall memory and are "
        f"found by conversation_search. Summary of them:\n{window.summary}"
    )
    return [Part("summary", str(window.summary_version), "system", text, count_tokens(text))]


def _related(related: Sequence[Related], count_tokens: Callable[[str], int]) -> list[Part]:
    return [
        Part("related", item.id, "system", text, count_tokens(text))
        for item in related
        for text in [f"[from memory, {item.kind}, score {item.score:.2f}] {item.text}"]
    ]


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """The window as the port wants it: all results of one assistant turn in one tool turn behind it."""
    turns: list[Turn] = []
    outcomes: list[ToolOutcome] = []
    for message in messages:
        if message.role == "tool":
            outcomes.append(ToolOutcome(message.tool_call_id, message.tool_ok, message.text))
            continue
        if outcomes:
            turns.append(Turn("tool", outcomes=tuple(outcomes)))
            outcomes = []
        turns.append(_turn(message))
    if outcomes:
        turns.append(Turn("tool", outcomes=tuple(outcomes)))
    return turns


def _turn(message: Message) -> Turn:
    if message.role == "assistant":
        return Turn("assistant", message.text, tool_calls=message.tool_calls, reasoning=message.reasoning)
    return Turn(message.role, message.text)


def _shown(message: Message) -> str:
    return "\n".join([*([message.text] if message.text else []), *(_call_text(call) for call in message.tool_calls)])


def _call_text(call: ToolUse) -> str:
    return f"{call.name}({call.arguments_json})"


def _tools_text(tools: Sequence[ToolSpec]) -> str:
    return "\n".join(
        f"{tool.name}: {tool.description} {json.dumps(dict(tool.parameters), ensure_ascii=False, sort_keys=True)}"
        for tool in tools
    )


def _references(parts: Sequence[Part], blocks: Sequence[tuple[str, int]], window: Window) -> tuple[Reference, ...]:
    references: list[Reference] = []
    for part in parts:
        if part.kind == "memory":
            references += [Reference("block", f"{block_id}@{version}", 0) for block_id, version in blocks]
        elif part.kind == "summary":
            references.append(Reference("summary", str(window.summary_version), part.tokens))
        else:
            references.append(Reference(part.kind, part.id, part.tokens))
    return tuple(references)
