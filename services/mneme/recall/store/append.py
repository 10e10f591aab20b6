"""Appending to a conversation: the hot path of every turn, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import errors
from psycopg.types.json import Jsonb

from mneme.errors.v1 import errors_pb2
from mneme.recall.records import Appended, Batch, IndexState, Message, NewMessage
from mneme.recall.rules import open_results, unanswerable
from mneme.recall.store.rows import MESSAGE_COLUMNS, message_of
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, invalid, not_found

SCHEMA = "recall"


class RefusedError(Exception):
    """The batch cannot be appended as it stands. The transaction is lost; `settle` says why in a new one."""


_TOMBSTONE = """
SELECT t.subject_id, t.create_time
FROM (VALUES ('agent', %(agent)s), ('conversation', %(conversation)s), ('user', %(user)s)) AS s (kind, id)
JOIN recall.tombstone t ON t.tenant_id = %(tenant)s AND t.subject_kind = s.kind AND t.subject_id = s.id
"""

# The conversation's row is locked first, and its numbers are read after that: two writers take turns, without gaps.
# The word counters, which all conversations of an agent share, are locked last and so for the shortest time.
_APPEND = f"""
WITH head AS (
    INSERT INTO recall.conversation AS c (
        tenant_id, conversation_id, agent_id, user_id, next_sequence, window_start, evicted_count,
        summary_version, create_time)
    SELECT %(tenant)s, %(conversation)s, %(agent)s, %(user)s, 1 + %(count)s, 1, 0, 0, clock_timestamp()
    WHERE NOT EXISTS ({_TOMBSTONE})
        AND (%(expected)s <= 1 OR EXISTS (
            SELECT 1 FROM recall.conversation k
            WHERE k.tenant_id = %(tenant)s AND k.conversation_id = %(conversation)s))
    ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET next_sequence = c.next_sequence + %(count)s
    WHERE c.agent_id = %(agent)s
        AND (%(expected)s = 0 OR c.next_sequence = %(expected)s)
        AND (c.user_id = %(user)s OR (NOT %(only_own)s AND (c.user_id = '' OR %(user)s = '')))
    RETURNING next_sequence - %(count)s AS first, coalesce(nullif(%(user)s, ''), user_id) AS user_id,
        clock_timestamp() AS now
), added AS (
    INSERT INTO recall.messages (
        tenant_id, id, agent_id, conversation_id, user_id, sequence_id, role, text, content, tool_calls,
        tool_call_id, tool_ok, created_at, step_id, run_id, token_count, provenance, hidden, index_state, speaker,
        kind)
    SELECT %(tenant)s, m.id, %(agent)s, %(conversation)s, h.user_id, h.first + m.number - 1, m.role, m.text,
        m.content, m.tool_calls, m.tool_call_id, m.tool_ok, coalesce(m.created_at, h.now), m.step_id,
        m.run_id, m.token_count, m.provenance, m.hidden, m.index_state, m.speaker, m.kind
    FROM head h, unnest(
        %(ids)s::text[], %(roles)s::smallint[], %(texts)s::text[], %(contents)s::text[],
        %(tool_calls)s::jsonb[], %(tool_call_ids)s::text[], %(tool_oks)s::boolean[],
        %(times)s::timestamptz[], %(step_ids)s::text[],
        %(run_ids)s::text[], %(token_counts)s::int[], %(provenances)s::bytea[], %(hiddens)s::boolean[],
        %(states)s::smallint[], %(speakers)s::text[], %(kinds)s::smallint[]) WITH ORDINALITY AS m (
        id, role, text, content, tool_calls, tool_call_id, tool_ok, created_at, step_id, run_id, token_count,
        provenance, hidden, index_state, speaker, kind, number)
), called AS (
    INSERT INTO recall.tool_call (tenant_id, conversation_id, call_id, sequence_id, result_sequence)
    SELECT %(tenant)s, %(conversation)s, k.call_id, h.first + k.number, h.first + k.result
    FROM head h, unnest(%(call_ids)s::text[], %(call_numbers)s::int[], %(call_results)s::int[])
        AS k (call_id, number, result)
), answered AS (
    UPDATE recall.tool_call t SET result_sequence = h.first + r.number
    FROM head h, unnest(%(result_ids)s::text[], %(result_numbers)s::int[]) AS r (call_id, number)
    WHERE t.tenant_id = %(tenant)s AND t.conversation_id = %(conversation)s AND t.call_id = r.call_id
        AND t.call_id = ANY(%(result_ids)s::text[]) AND t.result_sequence IS NULL
    RETURNING t.call_id
), queued AS (
    INSERT INTO recall.index_queue (tenant_id, message_id, attempts, due_time)
    SELECT %(tenant)s, q.id, 0, h.now FROM head h, unnest(%(queued_ids)s::text[]) AS q (id)
), {lexical.index_cte(SCHEMA)}
SELECT h.first, h.user_id, h.now, (SELECT array_agg(call_id) FROM answered) AS answered FROM head h
"""  # noqa: S608


async def append(tx: Connection, batch: Batch, documents: Sequence[lexical.Document]) -> Appended:
    """Stores a batch and makes it findable by words; meaning follows through the queue.

    Args:
        tx: Tenant transaction.
        batch: Checked by `rules.check_batch`.
        documents: Terms of each message to be searched, none of them empty.

    Raises:
        RefusedError: Something stands against it; call `settle` in a new transaction.
        Error: INVALID_TOOL_CALL for a result without a call.
    """
    searched = {doc.document_id for doc in documents}
    try:
        parameters = _parameters(batch, searched) | lexical.index_parameters(documents)
        row = await (await tx.execute(_APPEND, parameters)).fetchone()
    except errors.UniqueViolation as error:
        raise RefusedError from error
    if row is None:
        raise RefusedError
    answered = set(row["answered"] or ())
    for number, call_id in open_results(batch.messages):
        if call_id not in answered:
            raise unanswerable(number, call_id)
    return Appended(
        tuple(
            _stored(batch, message, row["first"] + number, row["user_id"], row["now"], searched)
            for number, message in enumerate(batch.messages)
        ),
        row["first"] + len(batch.messages),
    )


async def settle(tx: Connection, batch: Batch) -> Appended:
    """Returns the stored rows when the same batch is in the store already, else raises what stands against it.

    Raises:
        Error: DELETED, ALREADY_EXISTS, NOT_FOUND, INVALID_FIELD, INVALID_TOOL_CALL or SEQUENCE_MISMATCH.
    """
    await check_not_deleted(tx, batch)
    key = {"tenant": call.tenant(), "conversation": batch.conversation_id}
    cursor = await tx.execute(_HEAD, key)
    head = await cursor.fetchone()
    stored = await _stored_by_id(tx, batch)
    if stored and head and _is_repeat(batch, stored):
        return Appended(tuple(stored[one.message_id] for one in batch.messages), head["next_sequence"])
    if stored:
        taken = min(stored)
        raise _exists(taken, f"{taken} is in the store with other content")
    actual = 1
    if head:
        _check_head(batch, head["agent_id"], head["user_id"])
        actual = head["next_sequence"]
    if batch.expected_next_sequence in (0, actual):
        await _check_calls(tx, batch, key)
    raise Error(
        errors_pb2.REASON_SEQUENCE_MISMATCH,
        f"{batch.conversation_id}: expected next sequence {batch.expected_next_sequence}, it is {actual}",
        metadata={
            "conversation_id": batch.conversation_id,
            "expected": str(batch.expected_next_sequence),
            "actual": str(actual),
        },
    )


_HEAD = """
SELECT agent_id, user_id, next_sequence FROM recall.conversation
WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s
"""


async def check_not_deleted(tx: Connection, batch: Batch) -> None:
    """Returns when neither the agent nor the conversation nor the user was purged.

    Raises:
        Error: DELETED.
    """
    key = {
        "tenant": call.tenant(),
        "agent": batch.agent_id,
        "conversation": batch.conversation_id,
        "user": batch.user_id,
    }
    row = await (await tx.execute(_TOMBSTONE, key)).fetchone()
    if row:
        raise Error(
            errors_pb2.REASON_DELETED,
            f"{row['subject_id']} was deleted on {row['create_time']:%Y-%m-%d}",
            metadata={"resource": row["subject_id"]},
        )


_BY_ID = f"""
SELECT {MESSAGE_COLUMNS} FROM recall.messages m WHERE m.tenant_id = %(tenant)s AND m.id = ANY(%(ids)s)
"""  # noqa: S608


async def _stored_by_id(tx: Connection, batch: Batch) -> dict[str, Message]:
    ids = [message.message_id for message in batch.messages]
    cursor = await tx.execute(_BY_ID, {"tenant": call.tenant(), "ids": ids})
    return {row["id"]: message_of(row) for row in await cursor.fetchall()}


def _is_repeat(batch: Batch, stored: dict[str, Message]) -> bool:
    previous = 0
    for message in batch.messages:
        kept = stored.get(message.message_id)
        if kept is None or (kept.conversation_id, kept.agent_id) != (batch.conversation_id, batch.agent_id):
            return False
        if batch.user_id and kept.user_id != batch.user_id:
            return False
        if _identity(message) != _identity(kept) or (previous and kept.sequence != previous + 1):
            return False
        previous = kept.sequence
    return True


def _identity(message: NewMessage) -> tuple[object, ...]:
    # The time is left out: a repeated step may stamp another one on the same message.
    return (
        message.role,
        message.text,
        message.content,
        message.tool_calls,
        message.tool_call_id,
        message.tool_ok,
        message.step_id,
        message.run_id,
        message.hidden,
        message.speaker,
        message.kind,
    )


def _check_head(batch: Batch, agent_id: str, user_id: str) -> None:
    if agent_id != batch.agent_id or (batch.only_own and user_id != batch.user_id):
        raise not_found(batch.conversation_id)
    if user_id and batch.user_id and user_id != batch.user_id:
        raise invalid("user_id", f"{batch.conversation_id} serves another user")


_TAKEN_CALL = """
SELECT call_id FROM recall.tool_call
WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s AND call_id = ANY(%(calls)s) LIMIT 1
"""


async def _check_calls(tx: Connection, batch: Batch, key: dict[str, str]) -> None:
    calls = [one.call_id for message in batch.messages for one in message.tool_calls]
    row = await (await tx.execute(_TAKEN_CALL, {**key, "calls": calls})).fetchone()
    if row:
        raise _exists(row["call_id"], f"call '{row['call_id']}' is in {batch.conversation_id} already")


def _exists(resource: str, message: str) -> Error:
    return Error(errors_pb2.REASON_ALREADY_EXISTS, message, metadata={"resource": resource})


def _parameters(batch: Batch, searched: set[str]) -> dict[str, Any]:
    messages = batch.messages
    results = {one.tool_call_id: number for number, one in enumerate(messages) if one.tool_call_id}
    calls = [(one.call_id, number) for number, message in enumerate(messages) for one in message.tool_calls]
    open_ones = list(open_results(messages))
    return {
        "tenant": call.tenant(),
        "conversation": batch.conversation_id,
        "agent": batch.agent_id,
        "user": batch.user_id,
        "only_own": batch.only_own,
        "expected": batch.expected_next_sequence,
        "count": len(messages),
        "ids": [message.message_id for message in messages],
        "roles": [message.role for message in messages],
        "texts": [message.text for message in messages],
        "contents": [message.content for message in messages],
        "tool_calls": [Jsonb(_calls_json(message)) for message in messages],
        "tool_call_ids": [message.tool_call_id for message in messages],
        "tool_oks": [message.tool_ok for message in messages],
        "times": [message.created_at for message in messages],
        "step_ids": [message.step_id for message in messages],
        "run_ids": [message.run_id for message in messages],
        "token_counts": [message.token_count for message in messages],
        "provenances": [message.provenance for message in messages],
        "hiddens": [message.hidden for message in messages],
        "states": [_state(message, searched) for message in messages],
        "speakers": [message.speaker for message in messages],
        "kinds": [message.kind for message in messages],
        "call_ids": [call_id for call_id, _ in calls],
        "call_numbers": [number for _, number in calls],
        "call_results": [results.get(call_id) for call_id, _ in calls],
        "result_ids": [call_id for _, call_id in open_ones],
        "result_numbers": [number for number, _ in open_ones],
        "queued_ids": [message.message_id for message in messages if message.message_id in searched],
    }


def _calls_json(message: NewMessage) -> list[dict[str, str]]:
    return [{"id": one.call_id, "name": one.name, "arguments": one.arguments_json} for one in message.tool_calls]


def _state(message: NewMessage, searched: set[str]) -> IndexState:
    return IndexState.PENDING if message.message_id in searched else IndexState.SKIPPED


def _stored(
    batch: Batch, message: NewMessage, sequence: int, user_id: str, now: datetime, searched: set[str]
) -> Message:
    return Message(
        message_id=message.message_id,
        role=message.role,
        text=message.text,
        tool_call_id=message.tool_call_id,
        tool_ok=message.tool_ok,
        created_at=message.created_at or now,
        step_id=message.step_id,
        run_id=message.run_id,
        token_count=message.token_count,
        hidden=message.hidden,
        speaker=message.speaker,
        kind=message.kind,
        agent_id=batch.agent_id,
        conversation_id=batch.conversation_id,
        user_id=user_id,
        sequence=sequence,
        index_state=_state(message, searched),
    )
