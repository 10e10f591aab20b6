"""Who may see and change which block, beyond the tenant that row-level security keeps apart."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.core_memory.blocks import Block
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, not_found


@dataclass(frozen=True, slots=True)
class Caller:
    """What a credential says about its holder."""

    user: str = ""
    """User it is bound to; empty for none."""
    service: str = ""
    """Service that calls; empty for a user credential."""

    @property
    def is_end_user(self) -> bool:
        """Whether it is a credential of one user, not of the operator and not of a service."""
        return bool(self.user) and not self.service


def check_visible(block: Block, caller: Caller) -> None:
    """Returns unless the block is another user's own, which then cannot be told from a missing one.

    Raises:
        Error: REASON_NOT_FOUND.
    """
    if block.user_id and caller.user and block.user_id != caller.user:
        raise not_found(block.id)


def check_owner(block: Block, caller: Caller) -> None:
    """Returns unless an end user reaches for a block that others see too.

    Raises:
        Error: REASON_USER_NOT_ALLOWED.
    """
    check_visible(block, caller)
    if caller.is_end_user and block.user_id != caller.user:
        raise Error(
            errors_pb2.REASON_USER_NOT_ALLOWED,
            f"the credential is bound to one user, and {block.id} is not this user's own block",
            metadata={"resource": block.id, "field": "user_id"},
        )


def check_operator(caller: Caller, field: str) -> None:
    """Returns unless an end user sets a field that is not an end user's to set.

    Raises:
        Error: REASON_USER_NOT_ALLOWED.
    """
    if caller.is_end_user:
        raise Error(
            errors_pb2.REASON_USER_NOT_ALLOWED,
            f"{field}: not with a credential that is bound to one user",
            metadata={"field": field},
        )


def check_not_read_only(block: Block, caller: Caller, *, by_tool: bool) -> None:
    """Returns unless the block is read-only for this caller: an agent's tool, or an end user.

    Raises:
        Error: REASON_BLOCK_READ_ONLY.
    """
    if block.read_only and (by_tool or caller.is_end_user):
        raise Error(
            errors_pb2.REASON_BLOCK_READ_ONLY,
            f"block '{block.label}' is read-only",
            metadata={"label": block.label, "resource": block.id},
        )


def check_etag(block: Block, etag: str) -> None:
    """Returns when the etag is the block's, or empty.

    Raises:
        Error: REASON_ETAG_MISMATCH.
    """
    if etag and etag != block.etag:
        raise Error(
            errors_pb2.REASON_ETAG_MISMATCH,
            f'{block.id} changed since it was read (etag "{etag}", now "{block.etag}")',
            metadata={"resource": block.id, "etag": etag, "current_etag": block.etag},
        )
