"""The first-in-first-out part of a prompt, and when and where it is cut.

After MemGPT (arXiv 2310.08560), section 2.2: a warning above 70 % of the model's window, an eviction of the
oldest messages above 100 % down to about 50 %. A tool call and its result are never parted, which the paper
leaves open and every provider requires.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mneme.orchestrator.models.port import Reasoning, Role, ToolUse


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the window, as recall keeps it."""

    id: str
    role: Role
    text: str
    sequence: int
    """Position in the conversation, from 1."""
    created_at: datetime
    token_count: int
    """Estimated tokens, overhead included."""
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str = ""
    """For a tool message: the call it answers."""
    tool_name: str = ""
    tool_ok: bool = False
    reasoning: tuple[Reasoning, ...] = ()
    hidden: bool = False
    """True for what the user never sees: warnings and other inner events."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a prompt holds of a conversation."""

    summary: str = ""
    """Summary of everything before the window; empty before the first eviction."""
    summary_version: int = 0
    messages: tuple[Message, ...] = ()
    """In order of sequence."""
    next_sequence: int = 1
    evicted_count: int = 0

    def appended(self, *messages: Message) -> "Window":
        """The window with messages at its end, which must follow on its last sequence."""
        for offset, message in enumerate(messages):
            if message.sequence != self.next_sequence + offset:
                raise ValueError(f"sequence {message.sequence} where {self.next_sequence + offset} is next")
        return replace(self, messages=(*self.messages, *messages), next_sequence=self.next_sequence + len(messages))

    def evicted(self, first_kept_sequence: int, summary: str, summary_version: int) -> "Window":
        """The window without the messages before a sequence, under its new summary."""
        kept = tuple(m for m in self.messages if m.sequence >= first_kept_sequence)
        return replace(
            self,
            summary=summary,
            summary_version=summary_version,
            messages=kept,
            evicted_count=self.evicted_count + len(self.messages) - len(kept),
        )

    def before(self, first_kept_sequence: int) -> tuple[Message, ...]:
        """The messages that an eviction at this sequence takes out."""
        return tuple(m for m in self.messages if m.sequence < first_kept_sequence)


@dataclass(frozen=True, slots=True)
class Policy:
    """When the window is relieved. Fractions are of `window_tokens`."""

    window_tokens: int
    warn_fraction: float = 0.7
    """0 for never."""
    flush_fraction: float = 1.0
    target_fraction: float = 0.5
    max_turns: int = 0
    """Keeps only the messages of this many user turns; 0 for no such limit."""
    keep_last: int = 3
    """Messages at the end that an eviction by size never takes, as the paper's own code does."""


def should_warn(prompt_tokens: int, policy: Policy, *, warned: bool) -> bool:
    """True when the model must be told to save what matters; once a period, re-armed by an eviction."""
    return not warned and 0 < policy.warn_fraction * policy.window_tokens < prompt_tokens


def should_flush(prompt_tokens: int, window: Window, policy: Policy) -> bool:
    """True when messages must leave the window before the model is asked."""
    return prompt_tokens > policy.flush_fraction * policy.window_tokens or _surplus_turns(window, policy) > 0


def plan_eviction(
    window: Window, prompt_tokens: int, policy: Policy, *, incoming: bool = False, answering: str = ""
) -> int | None:
    """Sequence of the first message that stays; None when nothing can leave.

    Takes the shortest run of oldest messages that brings the prompt down to the target and keeps at most `max_turns`
    user turns, then goes on to the next place where no call is parted from its result. The message that is being
    answered and what followed it stay, and so do the last `keep_last` messages, where any other cut is possible.

    Args:
        incoming: True when messages follow that are not in the window yet: then all of it may leave.
        answering: Id of the message that is being answered.
    """
    cuts = safe_cuts(window.messages, incoming=incoming)
    excess = prompt_tokens - policy.target_fraction * policy.window_tokens
    over_size = prompt_tokens > policy.flush_fraction * policy.window_tokens
    wanted = max(
        _cut_by_tokens(window.messages, excess) if over_size else 0,
        _cut_by_turns(window.messages, policy),
    )
    if wanted == 0 or not cuts:
        return None
    current = next((i for i, message in enumerate(window.messages) if message.id == answering), len(window.messages))
    whole_turns = [cut for cut in cuts if cut <= current]
    preferred = [cut for cut in whole_turns if cut <= len(window.messages) - policy.keep_last]
    allowed = preferred or whole_turns or cuts
    index = next((cut for cut in allowed if cut >= wanted), allowed[-1])
    return window.messages[index].sequence if index < len(window.messages) else window.next_sequence


def safe_cuts(messages: Sequence[Message], *, incoming: bool = False) -> list[int]:
    """Indices at which the window may begin: not 0, not at a tool's result, no call left behind unanswered.

    Args:
        incoming: Whether the window may begin behind its last message.
    """
    cuts: list[int] = []
    pending: set[str] = set()
    for index, message in enumerate(messages):
        if index > 0 and not pending and message.role != "tool":
            cuts.append(index)
        pending |= {call.id for call in message.tool_calls}
        if message.role == "tool":
            pending.discard(message.tool_call_id)
    return [*cuts, len(messages)] if incoming and messages and not pending else cuts


def _cut_by_tokens(messages: Sequence[Message], excess: float) -> int:
    freed = 0
    for index, message in enumerate(messages):
        if freed >= excess:
            return index
        freed += message.token_count
    return len(messages)


def _cut_by_turns(messages: Sequence[Message], policy: Policy) -> int:
    if not policy.max_turns:
        return 0
    starts = _turn_starts(messages)
    return starts[-policy.max_turns] if len(starts) > policy.max_turns else 0


def _surplus_turns(window: Window, policy: Policy) -> int:
    if not policy.max_turns:
        return 0
    return len(_turn_starts(window.messages)) - policy.max_turns


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message.role == "user"]
