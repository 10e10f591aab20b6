"""The port every language model stands behind: what a model is asked, and what comes back.

There is one code path: `ChatModel.stream`. A provider that cannot stream yields a single `Finished`.
Failures are `mneme.runtime.errors.Error` with one of the reasons PROVIDER_THROTTLED (with `retry_after`),
PROVIDER_UNAVAILABLE, PROVIDER_REFUSED or CONTEXT_OVERFLOW; anything else is a defect of the adapter.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments object."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call the model made. The arguments stand as the model wrote them: they may be no valid JSON."""

    id: str
    """The provider's id of the call: pairs it with its outcome, and serves nothing else."""
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What came of a call, as the model reads it."""

    tool_call_id: str
    ok: bool
    content: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning, kept because some providers require it back unchanged with the next
    request.
    """

    text: str = ""
    signature: str = ""
    """Proof of origin that the provider checks when the piece comes back; empty where it makes none."""
    redacted: str = ""
    """Base64 of a piece that the provider encrypted; `text` is then empty."""
    model: str = ""
    """Model that wrote it: the piece is returned to that model only."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the window.

    system: a notice inside the conversation (summary, memory pressure), not the instructions. user: `text`.
    assistant: `text` (private thought), `tool_calls`, `reasoning`. tool: `outcomes`, all of the assistant
    turn before.
    """

    role: Role
    text: str = ""
    tool_calls: tuple[ToolUse, ...] = ()
    outcomes: tuple[ToolOutcome, ...] = ()
    reasoning: tuple[Reasoning, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemPart:
    """A piece of the instructions."""

    text: str
    cache_point: bool = False
    """True where the provider may keep everything up to the end of this part for the next request."""


@dataclass(frozen=True, slots=True)
class AnyTool:
    """The model must call some tool."""


@dataclass(frozen=True, slots=True)
class OneTool:
    """The model must call the named tool."""

    name: str


ToolChoice = AnyTool | OneTool | None
"""What the model must call; None leaves it free."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Everything a model sees. Equal requests are equal prompts."""

    model: str
    system: tuple[SystemPart, ...]
    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 4096
    temperature: float | None = None
    top_p: float | None = None
    """Sampling parameters that the model's row in the table refuses are left out by the adapter."""
    tool_choice: ToolChoice = None


class StopReason(StrEnum):
    """Why the model stopped."""

    END_TURN = "end_turn"
    TOOL_USE = "tool_use"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    REFUSAL = "refusal"
    """The model or a guardrail declined. The output holds what was said, which may be nothing."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token bill of one request. `input_tokens` counts neither cache reads nor cache writes."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt, however they were billed."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A complete answer."""

    text: str
    tool_calls: tuple[ToolUse, ...]
    reasoning: tuple[Reasoning, ...]
    stop_reason: StopReason
    usage: Usage
    model: str

    def as_turn(self) -> Turn:
        """The assistant turn that carries this answer in the next request."""
        return Turn("assistant", self.text, tool_calls=self.tool_calls, reasoning=self.reasoning)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call begins. `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More characters of the arguments of call `index`."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end, always the last event, with the whole answer."""

    output: ModelOutput


StreamEvent = TextDelta | ReasoningDelta | ToolCallStarted | ToolArgumentsDelta | Finished


class ChatModel(Protocol):
    """A language model behind a provider."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer, ended by exactly one `Finished`.

        Closing the generator (`contextlib.aclosing`), or cancelling the task that reads it, ends the
        request at the provider.

        Raises:
            Error: PROVIDER_THROTTLED, PROVIDER_UNAVAILABLE, PROVIDER_REFUSED, CONTEXT_OVERFLOW.
        """
        ...

    async def close(self) -> None:
        """Gives the provider's connections and threads back."""
        ...


async def complete(model: ChatModel, request: ModelRequest) -> ModelOutput:
    """The whole answer, for callers that show nothing while it arrives.

    Raises:
        Error: as `ChatModel.stream`.
        RuntimeError: the adapter ended its stream without `Finished`, which is a defect.
    """
    async with aclosing(model.stream(request)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.output
    raise RuntimeError("the model's stream ended without Finished")
