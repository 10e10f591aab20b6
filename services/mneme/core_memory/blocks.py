"""What core memory keeps, as plain values: blocks, their attachments and versions, and who changed them why."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

DEFAULT_LIMIT = 5000
"""Limit of a block that names none, in characters."""


class Visibility(StrEnum):
    """Who may see answers that were made with a block."""

    PRIVATE = "private"
    SHARED = "shared"


class ChangeKind(StrEnum):
    """What a write did, as the audit names it."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    RESTORED = "restored"
    ATTACHED = "attached"
    DETACHED = "detached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A labelled text of limited length."""

    id: str
    label: str
    value: str
    limit: int
    """Largest length of `value`, in characters (Unicode code points)."""
    description: str = ""
    template_name: str = ""
    is_template: bool = False
    read_only: bool = False
    visibility: Visibility = Visibility.PRIVATE
    metadata: dict[str, Any] = field(default_factory=dict)
    user_id: str = ""
    """User whose own block it is; empty for one of an agent or the tenant."""
    version: int = 1
    """Number of the current version of `value`, from 1."""
    change: int = 1
    """Number of changes of any field, from 1."""
    create_time: datetime | None = None
    """None until it is stored."""
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Names this state of this block. The id is part of it: a user's copy never matches its source."""
        return hashlib.sha256(f"{self.id}/{self.change}".encode()).hexdigest()[:16]

    @property
    def sha256(self) -> str:
        """Hash of the text, as hex."""
        return hashlib.sha256(self.value.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Attachment:
    """An agent that sees a block."""

    agent_id: str
    user_id: str = ""
    """Only in conversations that serve this user; empty for all."""
    copy_per_user: bool = False
    """The first edit for a user makes the user's own copy."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A block as one agent sees it in a conversation with one user."""

    block: Block
    attachment: Attachment

    def needs_copy(self, user: str) -> bool:
        """Whether an edit for this user must make the user's copy first."""
        return bool(user) and self.attachment.copy_per_user and not self.attachment.user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who writes, on whose behalf, and why."""

    actor: str
    user_id: str = ""
    agent_id: str = ""
    request_id: str = ""
    reason: str = ""
    source_message_ids: tuple[str, ...] = ()
    trust_level: int = 0
    """Number of the contract's TrustLevel."""
    from_recall: bool = False
    step_id: str = ""
    trace_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a block's text."""

    id: str
    block_id: str
    version: int
    value: str
    author: Author
    kind: ChangeKind
    restored_version: int
    """Version whose text was restored; 0 for none."""
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the audit: ids, hashes and lengths."""

    sequence: int
    create_time: datetime
    kind: ChangeKind
    resource_id: str
    author: Author
    old_version: int
    new_version: int
    old_sha256: str
    new_sha256: str
    old_chars: int
    new_chars: int


@dataclass(frozen=True, slots=True)
class Rendering:
    """What an agent sees at one moment."""

    blocks: list[Block]
    """Ordered by label."""
    revision: int
    shared_revision: int
    deleted_on: datetime | None
    """When the agent or the user was deleted; None for neither."""
