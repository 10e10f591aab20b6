"""What archival memory is made of, free of wire and database formats.

Kinds, states and trust levels are the numbers of the contract's enums. Vectors are float32[dimensions] of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.runtime.ranking import Statistics

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a passage: exactly one of the two is set."""

    agent_id: str = ""
    knowledge_base_id: str = ""

    @property
    def id(self) -> str:
        """The one that is set; it names the scope of revisions and of word statistics."""
        return self.agent_id or self.knowledge_base_id


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector and the space it belongs to."""

    space_id: str
    values: Vector
    beside: Embedded | None = None
    """The same text's vector in the other space, while the deployment has two."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Why something was written and what it rests on."""

    reason: str = ""
    source_message_ids: tuple[str, ...] = ()
    trust_level: int = 0
    from_recall: bool = False
    step_id: str = ""


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, for the audit."""

    tenant: str
    actor: str
    user_id: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage that is not stored yet."""

    passage_id: str
    named: bool
    """True when a service chose the id, so that it may be there already."""
    user_id: str
    text: str
    sha256: bytes
    kind: int
    importance: float
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    quarantined: bool
    provenance: Provenance
    document_id: str
    document_start: int
    document_end: int
    embedded: Embedded | None
    """Vector handed in or made; None leaves the passage waiting for one."""
    supersedes: tuple[str, ...] = ()
    """Passages that it replaces."""
    supersede_reason: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """What one item of a batch or an ingest stores."""

    drafts: tuple[Draft, ...]
    """One, or the pieces of a text that was cut, in their order."""
    cut: bool = False
    replaces_document: bool = False
    """The drafts are the whole document as it is now."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stored passage; the fields carry the names of the columns."""

    id: str
    agent_id: str | None
    knowledge_base_id: str | None
    user_id: str
    text: str
    content_sha256: bytes
    kind: int
    importance: float
    tags: list[str]
    metadata_: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    superseded_by: str
    superseded_reason: str
    quarantined: bool
    reason: str
    source_message_ids: list[str]
    trust_level: int
    from_recall: bool
    step_id: str
    document_id: str
    document_start: int
    document_end: int
    index_state: int
    index_error: str
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Changes with each version."""
        return str(self.version)

    @property
    def owner(self) -> Owner:
        """Who owns it."""
        return Owner(self.agent_id or "", self.knowledge_base_id or "")


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a draft."""

    passage_id: str
    duplicate: bool
    """True when the same text was there already, in the store or earlier in the batch."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an item."""

    stored: tuple[Stored, ...]
    """An outcome a draft, in their order."""
    cut: bool = False
    superseded: tuple[str, ...] = ()
    """Pieces of the document before that are gone from it."""

    @property
    def duplicate(self) -> bool:
        """Whether nothing of it is new."""
        return all(one.duplicate for one in self.stored)

    @property
    def passage_id(self) -> str:
        """The first passage that is new, or the first one."""
        return next((one.passage_id for one in self.stored if not one.duplicate), self.stored[0].passage_id)


@dataclass(frozen=True, slots=True)
class Near:
    """A stored passage that says nearly what another text says."""

    passage_id: str
    cosine: float


@dataclass(frozen=True, slots=True)
class PassageVersion:
    """What a passage was from `passage.updated_at` on, and the write that made it so."""

    passage: Passage
    recorded_to: datetime | None
    """Until when it was current; None for the current version."""
    actor: str
    kind: int
    provenance: Provenance
    trace_id: str


@dataclass(frozen=True, slots=True)
class Ingest:
    """How far an ingest has come; the fields carry the names of the columns."""

    request_id: str
    agent_id: str
    knowledge_base_id: str
    user_id: str
    """User to whom its credential is bound; empty for none."""
    stream: int
    """Number of the stream that feeds it; an earlier one may no longer."""
    next_index: int
    inserted: int
    duplicates: int
    errors: int
    passages: int
    create_time: datetime
    update_time: datetime

    @property
    def owner(self) -> Owner:
        """Who owns the passages."""
        return Owner(self.agent_id, self.knowledge_base_id)


@dataclass(frozen=True, slots=True)
class Change:
    """New values for the fields of a passage that an update names, by column; `text` brings its hash along."""

    values: dict[str, Any]
    provenance: Provenance
    embedded: Embedded | None = None
    """Vector of the new text, if it could be made."""

    @property
    def text(self) -> str | None:
        """The new text; None when it stays."""
        text: str | None = self.values.get("text")
        return text


class Comparison(IntEnum):
    """How a value of the metadata is compared; the numbers of the contract."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4
    GREATER = 5
    GREATER_OR_EQUAL = 6
    PRESENT = 7
    ABSENT = 8


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one value of the metadata."""

    path: tuple[str, ...]
    comparison: Comparison
    value: float | str | bool | datetime | None = None

    @property
    def is_moment(self) -> bool:
        """Whether texts are compared as the moments that they name."""
        return isinstance(self.value, datetime)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which passages a listing or search considers. All conditions hold together."""

    user_id: str = ""
    all_users: bool = False
    """Sees passages of every user, whatever `user_id` says."""
    all_tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    kinds: tuple[int, ...] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    as_of: datetime | None = None
    recorded_as_of: datetime | None = None
    include_quarantined: bool = False
    include_superseded: bool = False
    conditions: tuple[Condition, ...] = ()
    document_ids: tuple[str, ...] = ()
    index_states: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that a search found, with all that its rank depends on."""

    id: str
    cosine: float | None
    bm25: float | None
    created_at: datetime
    importance: float
    superseded_by: str
    vector: Vector | None = None
    """Only loaded when results shall be pushed apart."""
    kind: int = 0
    opening: str = ""
    """Its first characters, unless it is a piece of a document or a summary: what its wording gives away."""
    terms: frozenset[int] = frozenset()
    """Numbers of the query's terms that it holds."""


@dataclass(frozen=True, slots=True)
class WordStatistics:
    """How much the query's words could weigh in the searched scopes."""

    total: int = 0
    """Passages that match any word and the filter."""
    considered: int = 0
    """Passages compared by meaning."""
    best_possible: float = 0.0
    """Sum of the words' inverse document frequencies, words that occur nowhere included."""
    known: Statistics = field(default_factory=Statistics)
    """What each word weighs."""


@dataclass(frozen=True, slots=True)
class KnowledgeBase:
    """A collection of passages that agents share."""

    id: str
    display_name: str
    description: str
    metadata_: dict[str, Any]
    passage_count: int
    revision: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which entries of the audit a listing returns. Empty fields do not filter."""

    agent_id: str = ""
    knowledge_base_id: str = ""
    user_id: str = ""
    passage_id: str = ""
    actor: str = ""
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """One entry of the audit; the fields carry the names of the columns."""

    sequence: int
    create_time: datetime
    actor: str
    user_id: str
    kind: int
    resource_id: str
    agent_id: str
    knowledge_base_id: str
    old_version: int
    new_version: int
    old_sha256: str
    new_sha256: str
    old_chars: int
    new_chars: int
    reason: str
    source_message_ids: list[str]
    trust_level: int
    from_recall: bool
    step_id: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class PurgeCount:
    """What a purge did to one table."""

    store: str
    removed: int
    remaining: int
