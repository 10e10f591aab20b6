"""What recall works with inside: messages, filters, windows. No rows and no wire messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from mneme.runtime.ranking import NO_WORDS, Evidence, Statistics


class Role(IntEnum):
    """Who speaks in a message; the numbers are those of the contract."""

    USER = 1
    ASSISTANT = 2
    TOOL = 3
    SYSTEM = 4


class Kind(IntEnum):
    """What a message is; the numbers are those of the contract."""

    USER_MESSAGE = 1
    AGENT_MESSAGE = 2
    TOOL_RESULT = 3
    SYSTEM_EVENT = 4
    INTERACTION = 5
    TIMED = 6
    MEMORY_PRESSURE = 7


class IndexState(IntEnum):
    """How far a message is indexed by meaning; the numbers are those of the contract."""

    PENDING = 1
    INDEXED = 2
    FAILED = 3
    SKIPPED = 4


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call an agent asked for."""

    call_id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message as its writer hands it in."""

    message_id: str
    """Empty for a new id."""
    role: int
    text: str
    content: str = ""
    """JSON object, opaque here and kept byte for byte; empty for none."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    tool_ok: bool | None = None
    """None for all but the results of tools."""
    created_at: datetime | None = None
    """None for now."""
    step_id: str = ""
    run_id: str = ""
    token_count: int = 0
    provenance: bytes | None = None
    """Serialised mneme.common.v1.Provenance."""
    from_recall: bool = False
    """True for a text that came out of a search; it is found at its source, so it is not indexed again."""
    hidden: bool = False
    speaker: str = ""
    """Who of several people speaks; empty where there is one."""
    kind: int = 0
    """0 for what the role says."""


@dataclass(frozen=True, slots=True)
class Message(NewMessage):
    """A message as it is stored."""

    agent_id: str = ""
    conversation_id: str = ""
    user_id: str = ""
    sequence: int = 0
    index_state: int = IndexState.PENDING


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages to append to one conversation."""

    agent_id: str
    conversation_id: str
    user_id: str
    """User to stamp; empty takes the conversation's."""
    only_own: bool
    """True when the writer may append to conversations of `user_id` only."""
    expected_next_sequence: int
    """0 for any."""
    messages: tuple[NewMessage, ...]
    """All with ids."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append stored."""

    messages: tuple[Message, ...]
    next_sequence: int


@dataclass(frozen=True, slots=True)
class Window:
    """What the prompt of a conversation holds."""

    summary: str = ""
    summary_version: int = 0
    messages: tuple[Message, ...] = ()
    next_sequence: int = 1
    evicted_count: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages of an agent a read considers; empty fields do not restrict."""

    agent_id: str
    conversation_id: str = ""
    user_id: str = ""
    roles: tuple[int, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    include_hidden: bool = False
    before_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that a search found, with what each way of searching says of it."""

    message: Message
    cosine: float | None = None
    """None for a message without a vector, or when no vector was searched for."""
    bm25: float | None = None
    """None when no word matched."""
    own: Evidence = NO_WORDS
    """The query's words in it, for a search both ways."""
    before: Evidence | None = None
    """Those of the turn before it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, before it is ranked."""

    candidates: Sequence[Candidate] = field(default_factory=tuple)
    total_count: int = 0
    """Messages that match, also those not returned."""
    statistics: Statistics = field(default_factory=Statistics)
    """What the query's words weigh, for a search both ways."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked result."""

    candidate: Candidate
    score: float
    rerank: float | None = None
    """What the reranker says; None where it did not look."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose data a purge removes."""

    kind: str
    """`agent`, `user` or `conversation`."""
    subject_id: str


@dataclass(frozen=True, slots=True)
class Purged:
    """What went from one table, and what a recount still finds."""

    store: str
    removed: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One version of the summary of what was evicted from a conversation's window."""

    conversation_id: str
    version: int
    text: str
    first_kept_sequence: int
    create_time: datetime
