"""All blocks and versions of an agent or a user, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from psycopg.rows import DictRow

from mneme.core_memory.blocks import Block, Version
from mneme.core_memory.store.reads import VERSION
from mneme.core_memory.store.rows import BLOCK_COLUMNS, block_of, version_of
from mneme.runtime.db import Database

# A user's blocks are the user's own copies and those attached for the user alone. What a user's words did to a block
# that others see too is not among them: its text is others' as well.
_BLOCK_IDS = {
    "agent": "SELECT block_id FROM core_memory.attachment WHERE tenant_id = %(tenant)s AND agent_id = %(subject)s",
    "user": """SELECT id FROM core_memory.block WHERE tenant_id = %(tenant)s AND user_id = %(subject)s
        UNION SELECT block_id FROM core_memory.attachment WHERE tenant_id = %(tenant)s AND user_id = %(subject)s""",
}

_BLOCKS = f"""
SELECT {BLOCK_COLUMNS} FROM core_memory.block AS b
WHERE b.tenant_id = %(tenant)s AND b.id IN ({{ids}}) AND b.id > %(id)s
ORDER BY b.id LIMIT %(limit)s
"""  # noqa: S608

_VERSIONS = f"""{VERSION} AND v.block_id IN ({{ids}}) AND (v.block_id, v.version) > (%(id)s, %(version)s)
ORDER BY v.block_id, v.version LIMIT %(limit)s
"""


async def blocks(database: Database, tenant: str, kind: str, subject: str, *, rows: int) -> AsyncIterator[list[Block]]:
    """Yields the blocks that an agent sees, or that are a user's, by id; at most `rows` at once."""
    statement = _BLOCKS.format(ids=_BLOCK_IDS[kind])
    async for page in _pages(database, tenant, subject, statement, {"id": "id"}, rows):
        yield [block_of(row) for row in page]


async def versions(
    database: Database, tenant: str, kind: str, subject: str, *, rows: int
) -> AsyncIterator[list[Version]]:
    """Yields the versions of those blocks, oldest first; at most `rows` at once."""
    statement = _VERSIONS.format(ids=_BLOCK_IDS[kind])
    async for page in _pages(database, tenant, subject, statement, {"id": "block_id", "version": "version"}, rows):
        yield [version_of(row) for row in page]


async def _pages(
    database: Database, tenant: str, subject: str, statement: str, keys: dict[str, str], rows: int
) -> AsyncIterator[list[DictRow]]:
    place: dict[str, Any] = {"id": "", "version": 0}
    while True:
        async with database.tenant(tenant) as tx:
            parameters = {"tenant": tenant, "subject": subject, "limit": rows, **place}
            page = await (await tx.execute(statement.encode(), parameters)).fetchall()
        if page:
            yield page
        if len(page) < rows:
            return
        place |= {name: page[-1][column] for name, column in keys.items()}
