"""The running call as core memory needs it: who may do what, and who is written down as the author."""

from __future__ import annotations

from mneme.common.v1 import common_pb2
from mneme.core_memory.access import Caller
from mneme.core_memory.blocks import Author
from mneme.runtime import call


def caller() -> Caller:
    """Returns what the running call's credential says."""
    principal = call.current().principal
    return Caller(user=principal.user, service=principal.service)


def owner(requested: str) -> str:
    """Returns whose own a thing becomes, or whose own things are listed; empty for nobody's.

    An end user's are always the user's own. A service names the user itself, as it also makes blocks for all.

    Raises:
        Error: REASON_USER_NOT_ALLOWED.
    """
    user = call.acting_user(requested)
    return user if caller().is_end_user else requested


def author(
    request_id: str, provenance: common_pb2.Provenance | None = None, *, user_id: str = "", agent_id: str = ""
) -> Author:
    """Returns who writes in the running call, on behalf of whom and why."""
    why = provenance or common_pb2.Provenance()
    return Author(
        actor=call.current().principal.actor,
        user_id=user_id,
        agent_id=agent_id,
        request_id=request_id,
        reason=why.reason,
        source_message_ids=tuple(why.source_message_ids),
        trust_level=why.trust_level,
        from_recall=why.from_recall,
        step_id=why.step_id,
        trace_id=call.trace_id(),
    )
