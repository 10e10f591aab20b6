"""All messages and summaries of an agent or a user, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg.rows import DictRow

from mneme.recall.records import Message, Summary
from mneme.recall.store.rows import MESSAGE_COLUMNS, message_of
from mneme.runtime.db import Database

# A user's are those of the conversations that serve the user, and those the user wrote elsewhere.
_OWN = {
    "agent": "{alias}.conversation_id IN (SELECT conversation_id FROM recall.conversation"
    " WHERE tenant_id = %(tenant)s AND agent_id = %(subject)s)",
    "user": "{alias}.conversation_id IN (SELECT conversation_id FROM recall.conversation"
    " WHERE tenant_id = %(tenant)s AND user_id = %(subject)s)",
}
_WRITTEN = " OR m.user_id = %(subject)s"

_MESSAGES = f"""
SELECT {MESSAGE_COLUMNS} FROM recall.messages m
WHERE m.tenant_id = %(tenant)s AND ({{own}})
    AND (m.conversation_id, m.sequence_id) > (%(conversation)s, %(number)s)
ORDER BY m.conversation_id, m.sequence_id LIMIT %(limit)s
"""  # noqa: S608

_SUMMARIES = """
SELECT s.conversation_id, s.version, s.text, s.first_kept_sequence, s.create_time FROM recall.summary s
WHERE s.tenant_id = %(tenant)s AND {own} AND (s.conversation_id, s.version) > (%(conversation)s, %(number)s)
ORDER BY s.conversation_id, s.version LIMIT %(limit)s
"""


async def messages(
    database: Database, tenant: str, kind: str, subject: str, *, rows: int
) -> AsyncIterator[list[Message]]:
    """Yields a subject's messages by conversation and sequence, at most `rows` at once."""
    own = _OWN[kind].format(alias="m") + (_WRITTEN if kind == "user" else "")
    keys = ("conversation_id", "sequence_id")
    async for page in _pages(database, tenant, subject, _MESSAGES.format(own=own), keys, rows):
        yield [message_of(row) for row in page]


async def summaries(
    database: Database, tenant: str, kind: str, subject: str, *, rows: int
) -> AsyncIterator[list[Summary]]:
    """Yields every version of the summaries of a subject's conversations, at most `rows` at once."""
    statement = _SUMMARIES.format(own=_OWN[kind].format(alias="s"))
    async for page in _pages(database, tenant, subject, statement, ("conversation_id", "version"), rows):
        yield [Summary(**row) for row in page]


async def _pages(
    database: Database, tenant: str, subject: str, statement: str, keys: tuple[str, str], rows: int
) -> AsyncIterator[list[DictRow]]:
    place: dict[str, Any] = {"conversation": "", "number": 0}
    while True:
        async with database.tenant(tenant) as tx:
            parameters = {"tenant": tenant, "subject": subject, "limit": rows, **place}
            page = await (await tx.execute(statement.encode(), parameters)).fetchall()
        if page:
            yield page
        if len(page) < rows:
            return
        place = {"conversation": page[-1][keys[0]], "number": page[-1][keys[1]]}
