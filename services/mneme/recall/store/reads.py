"""Reading messages: by page, by id, around others, and the window of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mneme.recall.records import Filter, Message, Window
from mneme.recall.store.rows import MESSAGE_COLUMNS, condition_of, message_of
from mneme.runtime import call
from mneme.runtime.db import Connection
from mneme.runtime.errors import not_found

Position = tuple[datetime, str, int]
"""Time, conversation and sequence of a message: its place among all messages of an agent."""

_IN_CONVERSATION = {"m.sequence_id": "%(at_sequence)s"}
_IN_TIME = {"m.created_at": "%(at)s", "m.conversation_id": "%(at_conversation)s", **_IN_CONVERSATION}


async def page(
    tx: Connection, wanted: Filter, *, after: Position | None, newest_first: bool, limit: int
) -> list[Message]:
    """Returns up to `limit` messages that pass the filter and come after a position in the order.

    The order is the sequence within one conversation; over several it is the time.
    """
    condition, parameters = condition_of(wanted, call.tenant())
    key = _IN_CONVERSATION if wanted.conversation_id else _IN_TIME
    direction = "DESC" if newest_first else "ASC"
    if after is not None:
        places = ", ".join(key.values())
        condition += f" AND ({', '.join(key)}) {'<' if newest_first else '>'} ({places})"
        parameters |= {"at": after[0], "at_conversation": after[1], "at_sequence": after[2]}
    order = ", ".join(f"{column} {direction}" for column in key)
    cursor = await tx.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM recall.messages m WHERE {condition} ORDER BY {order} LIMIT %(limit)s",  # noqa: S608
        {**parameters, "limit": limit},
    )
    return [message_of(row) for row in await cursor.fetchall()]


_BY_ID = f"""
SELECT {MESSAGE_COLUMNS} FROM recall.messages m
WHERE m.tenant_id = %(tenant)s AND m.agent_id = %(agent)s AND m.id = ANY(%(ids)s)
    AND (%(user)s = '' OR m.user_id = %(user)s)
"""  # noqa: S608


async def by_id(tx: Connection, *, agent_id: str, user_id: str, message_ids: Sequence[str]) -> list[Message]:
    """Returns the messages of an agent (and of one user, unless empty) with these ids, in the order asked."""
    key = {"tenant": call.tenant(), "agent": agent_id, "user": user_id, "ids": list(message_ids)}
    found = {row["id"]: message_of(row) for row in await (await tx.execute(_BY_ID, key)).fetchall()}
    return [found[message_id] for message_id in message_ids if message_id in found]


async def around(tx: Connection, wanted: Filter, hits: Sequence[Message], *, distance: int) -> dict[str, list[Message]]:
    """Returns, for the id of each hit, the messages up to `distance` sequences before and after it.

    They belong to its conversation and may have any role and time; user and hidden are held to.
    """
    narrowed = Filter(agent_id=wanted.agent_id, user_id=wanted.user_id, include_hidden=wanted.include_hidden)
    condition, parameters = condition_of(narrowed, call.tenant())
    cursor = await tx.execute(
        f"""
        SELECT h.id AS hit_id, {MESSAGE_COLUMNS}
        FROM unnest(%(ids)s::text[], %(conversations)s::text[], %(sequences)s::bigint[])
            AS h (id, conversation_id, sequence_id)
        JOIN recall.messages m ON m.conversation_id = h.conversation_id AND m.sequence_id <> h.sequence_id
            AND m.sequence_id BETWEEN h.sequence_id - %(distance)s AND h.sequence_id + %(distance)s
        WHERE {condition} ORDER BY m.sequence_id
        """,  # noqa: S608
        {
            **parameters,
            "ids": [hit.message_id for hit in hits],
            "conversations": [hit.conversation_id for hit in hits],
            "sequences": [hit.sequence for hit in hits],
            "distance": distance,
        },
    )
    neighbours: dict[str, list[Message]] = {hit.message_id: [] for hit in hits}
    for row in await cursor.fetchall():
        neighbours[row["hit_id"]].append(message_of(row))
    return neighbours


# The summary travels on the first row only.
_WINDOW = f"""
SELECT c.next_sequence, c.evicted_count, coalesce(s.version, c.summary_version) AS summary_version,
    CASE WHEN row_number() OVER (ORDER BY m.sequence_id) = 1 THEN s.text END AS summary, {MESSAGE_COLUMNS}
FROM recall.conversation c
LEFT JOIN recall.summary s ON s.tenant_id = %(tenant)s AND s.conversation_id = c.conversation_id
    AND s.version = coalesce(nullif(%(version)s, 0), c.summary_version)
LEFT JOIN recall.messages m ON m.tenant_id = %(tenant)s AND m.conversation_id = c.conversation_id
    AND m.sequence_id >= c.window_start
WHERE c.tenant_id = %(tenant)s AND c.conversation_id = %(conversation)s AND c.agent_id = %(agent)s
    AND (%(user)s = '' OR c.user_id = %(user)s)
ORDER BY m.sequence_id
"""  # noqa: S608


async def window(
    tx: Connection, *, agent_id: str, conversation_id: str, user_id: str, summary_version: int = 0
) -> Window:
    """Returns the window of a conversation; an empty one when it is unknown or serves another user.

    Args:
        tx: Tenant transaction.
        agent_id: The agent.
        conversation_id: The conversation.
        user_id: Only user whose conversation may be read; empty for all.
        summary_version: Which summary to return; 0 for the current one.

    Raises:
        Error: NOT_FOUND, for a summary version that does not exist.
    """
    key = {
        "tenant": call.tenant(),
        "agent": agent_id,
        "conversation": conversation_id,
        "user": user_id,
        "version": summary_version,
    }
    rows = await (await tx.execute(_WINDOW, key)).fetchall()
    head = rows[0] if rows else None
    if summary_version and (head is None or head["summary"] is None):
        raise not_found(f"{conversation_id} summary {summary_version}")
    if head is None:
        return Window()
    return Window(
        summary=head["summary"] or "",
        summary_version=head["summary_version"],
        messages=tuple(message_of(row) for row in rows if row["id"] is not None),
        next_sequence=head["next_sequence"],
        evicted_count=head["evicted_count"],
    )
