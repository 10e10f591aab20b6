"""Repeated requests: the first response to a request_id is kept for seven days and given again."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from psycopg import sql

from mneme.errors.v1 import errors_pb2
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error

R = TypeVar("R", bound=Message)

# One statement claims the id or returns what it was first used for; a twin that runs at this moment is waited
# for at the unique key. Each claim also removes two expired rows, so the table needs no job to stay small.
_CLAIM = """
WITH expired AS (
    DELETE FROM {table} WHERE (tenant_id, request_id) IN (
        SELECT tenant_id, request_id FROM {table}
        WHERE tenant_id = current_setting('app.tenant') AND create_time < now() - interval '7 days'
          AND request_id <> %(request_id)s
        ORDER BY create_time LIMIT 2 FOR UPDATE SKIP LOCKED)
)
INSERT INTO {table} AS kept (tenant_id, request_id, method, request_sha256, response)
VALUES (current_setting('app.tenant'), %(request_id)s, %(method)s, %(sha256)s, '')
ON CONFLICT (tenant_id, request_id) DO UPDATE SET method = kept.method
RETURNING xmax = 0 AS first, method, request_sha256, response
"""

_RECORD = """
UPDATE {table} SET response = %(response)s
WHERE tenant_id = current_setting('app.tenant') AND request_id = %(request_id)s
"""


class MutatingRequest(Protocol):
    """A generated request message with a request_id."""

    DESCRIPTOR: Descriptor
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Returns the message as bytes."""


async def once(
    tx: Connection,
    schema: str,
    request: MutatingRequest,
    response_type: type[R],
    run: Callable[[], Awaitable[R]],
) -> R:
    """Runs a request at most once and returns its first response.

    Nothing is recorded when `run` raises: the record and the effects belong to the same transaction.

    Args:
        tx: The tenant transaction in which `run` works.
        schema: Whose `request` table keeps the response.
        request: The request; its id is unique in the tenant.
        response_type: The message class of the response.
        run: Does the work inside `tx`.

    Raises:
        Error: REQUEST_ID_REUSED, when the id came with other content or to another method before.
    """
    claiming, recording = _statements(schema)
    method = request.DESCRIPTOR.full_name
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    claim = {"request_id": request.request_id, "method": method, "sha256": digest}
    row = await (await tx.execute(claiming, claim)).fetchone()
    assert row is not None
    if not row["first"]:
        if (row["method"], row["request_sha256"]) != (method, digest):
            raise _reused(request.request_id)
        return response_type.FromString(row["response"])
    response = await run()
    record = {"request_id": request.request_id, "response": response.SerializeToString()}
    await tx.execute(recording, record)
    return response


@functools.cache
def _statements(schema: str) -> tuple[bytes, bytes]:
    """The claim and the record of one schema, composed once."""
    table = sql.Identifier(schema, "request")
    claim, record = (sql.SQL(text).format(table=table).as_bytes(None) for text in (_CLAIM, _RECORD))
    return claim, record


def _reused(request_id: str) -> Error:
    return Error(
        errors_pb2.REASON_REQUEST_ID_REUSED,
        f"request_id: {request_id} was used for a request with other content",
        metadata={"request_id": request_id},
    )
