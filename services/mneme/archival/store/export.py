"""All passages of an agent or a user, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import fields

from mneme.archival.records import Passage, PassageVersion
from mneme.archival.store import history
from mneme.runtime.db import Connection, Database

_COLUMNS = ", ".join(f"p.{field.name}" for field in fields(Passage))

_OWN = {"agent": "p.owner_id = %(subject)s", "user": "p.user_id = %(subject)s"}

_PASSAGES = f"""
SELECT {_COLUMNS} FROM archival.agent_passages p
WHERE p.tenant_id = %(tenant)s AND {{own}} AND p.id > %(after)s
ORDER BY p.id LIMIT %(limit)s
"""  # noqa: S608

_VERSIONS_AT_ONCE = 50


async def passages(
    database: Database, tenant: str, kind: str, subject: str, *, rows: int
) -> AsyncIterator[list[tuple[Passage, list[PassageVersion]]]]:
    """Yields a subject's passages by id, each with its earlier versions, newest first; at most `rows` at once."""
    statement, after = _PASSAGES.format(own=_OWN[kind]), ""
    while True:
        parameters = {"tenant": tenant, "subject": subject, "after": after, "limit": rows}
        async with database.tenant(tenant) as tx:
            found = await (await tx.execute(statement.encode(), parameters)).fetchall()
            page = [Passage(**row) for row in found]
            read = [(one, await _earlier(tx, tenant, one)) for one in page]
        if read:
            yield read
        if len(page) < rows:
            return
        after = page[-1].id


async def _earlier(tx: Connection, tenant: str, passage: Passage) -> list[PassageVersion]:
    versions: list[PassageVersion] = []
    before = passage.version
    while before > 1:
        found = await history.page(tx, tenant, passage.id, before=before, limit=_VERSIONS_AT_ONCE)
        if not found:
            break
        versions += found
        before = found[-1].passage.version
    return versions
