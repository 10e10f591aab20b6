"""Moving a window's start, and deleting messages: a call and its result always stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mneme.errors.v1 import errors_pb2
from mneme.recall.store.append import SCHEMA
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, invalid, not_found


@dataclass(frozen=True, slots=True)
class Eviction:
    """How far a window moves, and the summary of what it leaves behind."""

    agent_id: str
    conversation_id: str
    first_kept_sequence: int
    summary: str
    expected_summary_version: int


_LOCK = """
SELECT agent_id, next_sequence, window_start, summary_version FROM recall.conversation
WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s FOR UPDATE
"""

# A call that waits for its result counts as split too: the result would come back to a window without its
# call.
_SPLIT = """
SELECT call_id, sequence_id, result_sequence FROM recall.tool_call
WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s
    AND sequence_id >= %(start)s AND sequence_id < %(first_kept)s
    AND (result_sequence IS NULL OR result_sequence >= %(first_kept)s)
ORDER BY sequence_id LIMIT 1
"""

_EVICT = """
WITH moved AS (
    SELECT count(*) AS messages FROM recall.messages
    WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s
        AND sequence_id >= %(start)s AND sequence_id < %(first_kept)s
), head AS (
    UPDATE recall.conversation SET window_start = %(first_kept)s, summary_version = summary_version + 1,
        evicted_count = evicted_count + (SELECT messages FROM moved)
    WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s
    RETURNING summary_version
), written AS (
    INSERT INTO recall.summary
        (tenant_id, conversation_id, version, text, first_kept_sequence, actor, create_time)
    SELECT %(tenant)s, %(conversation)s, summary_version, %(summary)s, %(first_kept)s, %(actor)s, now() FROM
    head
)
SELECT summary_version, (SELECT messages FROM moved) AS messages FROM head
"""


async def evict(tx: Connection, eviction: Eviction) -> tuple[int, int]:
    """Moves the window's start and stores the summary; returns the summary's version and the number evicted.

    Raises:
        Error: NOT_FOUND, INVALID_FIELD for a start outside the window, ETAG_MISMATCH for an outdated summary
            version, INVALID_STATE where a call would lose its result.
    """
    key: dict[str, object] = {"tenant": call.tenant(), "conversation": eviction.conversation_id}
    head = await (await tx.execute(_LOCK, key)).fetchone()
    if head is None or head["agent_id"] != eviction.agent_id:
        raise not_found(eviction.conversation_id)
    _check_version(eviction, head["summary_version"])
    start, end = head["window_start"], head["next_sequence"]
    if not start <= eviction.first_kept_sequence <= end:
        problem = f"{eviction.first_kept_sequence} is outside the window, which is {start} to {end}"
        raise invalid("first_kept_sequence", problem, start=str(start), end=str(end))
    key |= {"start": start, "first_kept": eviction.first_kept_sequence}
    split = await (await tx.execute(_SPLIT, key)).fetchone()
    if split:
        raise _split(split["call_id"], f"{eviction.first_kept_sequence} would part call")
    key |= {"summary": eviction.summary, "actor": call.current().principal.actor}
    row = await (await tx.execute(_EVICT, key)).fetchone()
    assert row is not None
    return row["summary_version"], row["messages"]


def _check_version(eviction: Eviction, actual: int) -> None:
    expected = eviction.expected_summary_version
    if expected != actual:
        raise Error(
            errors_pb2.REASON_ETAG_MISMATCH,
            f"{eviction.conversation_id}: expected summary version {expected}, it is {actual}",
            metadata={
                "resource": eviction.conversation_id,
                "etag": str(expected),
                "current_etag": str(actual),
            },
        )


def _split(call_id: str, what: str) -> Error:
    return Error(
        errors_pb2.REASON_INVALID_STATE,
        f"{what} '{call_id}' from its result",
        metadata={"resource": call_id, "state": "PAIRED"},
    )


_VICTIMS = """
SELECT id, conversation_id, sequence_id FROM recall.messages
WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s AND id = ANY(%(ids)s)
    AND (%(user)s = '' OR user_id = %(user)s)
ORDER BY id
"""

_LOCK_ALL = """
SELECT 1 FROM recall.conversation
WHERE tenant_id = %(tenant)s AND conversation_id = ANY(%(conversations)s) ORDER BY conversation_id FOR UPDATE
"""

_PAIRS = """
SELECT t.call_id FROM recall.tool_call t
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT 1 FROM unnest(%(conversations)s::text[], %(sequences)s::bigint[]) AS v (c, s)
                   WHERE v.c = t.conversation_id AND v.s = t.sequence_id) AS call_goes,
        EXISTS (SELECT 1 FROM unnest(%(conversations)s::text[], %(sequences)s::bigint[]) AS v (c, s)
                WHERE v.c = t.conversation_id AND v.s = t.result_sequence) AS result_goes
) g
WHERE t.tenant_id = %(tenant)s AND t.conversation_id = ANY(%(conversations)s)
    AND g.call_goes <> g.result_goes AND NOT (g.call_goes AND t.result_sequence IS NULL)
LIMIT 1
"""

_DELETE = """
WITH gone AS (
    DELETE FROM recall.messages m WHERE m.tenant_id = %(tenant)s AND m.id = ANY(%(ids)s)
    RETURNING m.id, m.conversation_id, m.sequence_id
), calls AS (
    DELETE FROM recall.tool_call t USING gone g
    WHERE t.tenant_id = %(tenant)s AND t.conversation_id = g.conversation_id AND t.sequence_id = g.sequence_id
), queue AS (
    DELETE FROM recall.index_queue q USING gone g WHERE q.tenant_id = %(tenant)s AND q.message_id = g.id
), counted AS (
    UPDATE recall.conversation c SET evicted_count = c.evicted_count - e.messages
    FROM (SELECT g.conversation_id, count(*) AS messages
          FROM gone g JOIN recall.conversation k
              ON k.tenant_id = %(tenant)s AND k.conversation_id = g.conversation_id
          WHERE g.sequence_id < k.window_start GROUP BY g.conversation_id) e
    WHERE c.tenant_id = %(tenant)s AND c.conversation_id = e.conversation_id
)
SELECT count(*) AS messages FROM gone
"""


async def delete(tx: Connection, *, agent_id: str, user_id: str, message_ids: Sequence[str]) -> int:
    """Deletes messages of an agent (and of one user, unless empty) by id; returns how many there were.

    Raises:
        Error: INVALID_STATE, when a call would stay without its result or a result without its call.
    """
    tenant = call.tenant()
    key = {"tenant": tenant, "agent": agent_id, "user": user_id, "ids": list(message_ids)}
    victims = await (await tx.execute(_VICTIMS, key)).fetchall()
    if not victims:
        return 0
    places = {
        "tenant": tenant,
        "conversations": [row["conversation_id"] for row in victims],
        "sequences": [row["sequence_id"] for row in victims],
    }
    await tx.execute(_LOCK_ALL, places)
    parted = await (await tx.execute(_PAIRS, places)).fetchone()
    if parted:
        raise _split(parted["call_id"], "deleting these messages would part call")
    ids = [row["id"] for row in victims]
    row = await (await tx.execute(_DELETE, {"tenant": tenant, "ids": ids})).fetchone()
    await lexical.remove(tx, SCHEMA, scope=agent_id, document_ids=ids)
    return int(row["messages"]) if row else 0
