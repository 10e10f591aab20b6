"""All that the suite keeps of a user, as one stream of checksummed pieces."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from types import MappingProxyType
from typing import Any

from google.protobuf.message import Message

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator import convert
from mneme.orchestrator.store import agents as agent_store
from mneme.orchestrator.store import timers as timer_store
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.runtime import exports
from mneme.runtime.db import Connection, Database
from mneme.runtime.peers import Peers

Page = Callable[[Connection, Any], Awaitable[list[Message]]]

_REQUESTS: Mapping[str, Any] = MappingProxyType(
    {
        "core_memory": core_memory_pb2.ExportDataRequest,
        "recall": recall_pb2.ExportDataRequest,
        "archival": archival_pb2.ExportDataRequest,
    }
)
"""Services that keep data of users, in the order of the export."""
_STREAM_SECONDS = 3600.0


class Chain:
    """Numbers the pieces of an export, and makes each vouch for all before it."""

    def __init__(self) -> None:
        self._number = 0
        self._digest = ""
        self._counts: Counter[str] = Counter()

    def piece(self, record: common_pb2.ExportRecord) -> pb.ExportPiece:
        """The next piece."""
        self._number += 1
        self._counts[record.kind] += 1
        content = b"\n".join((self._digest.encode() + record.kind.encode(), record.record_json))
        self._digest = hashlib.sha256(content).hexdigest()
        return pb.ExportPiece(
            number=self._number, kind=record.kind, record_json=record.record_json, chain_sha256=self._digest
        )

    def end(self) -> pb.ExportPiece:
        """The last piece: how many records of each kind came before it."""
        counts = json.dumps({"counts": dict(sorted(self._counts.items()))})
        return self.piece(common_pb2.ExportRecord(kind="end", record_json=counts.encode()))


async def user_records(
    database: Database, peers: Peers, tenant: str, user_id: str
) -> AsyncIterator[common_pb2.ExportRecord]:
    """Yields everything kept of a user: here agents, conversations, events and timers, then what the services keep."""
    for kind, page in _own_pages(tenant, user_id):
        async for message in _all(database, tenant, page):
            yield exports.record(kind, message)
    subject = common_pb2.PurgeSubject(user_id=user_id)
    for service, request in _REQUESTS.items():
        stream = getattr(peers, service).ExportData(request(subject=subject), timeout=_STREAM_SECONDS)
        async for response in stream:
            for record in response.records:
                yield record


def _own_pages(tenant: str, user_id: str) -> Sequence[tuple[str, Page]]:
    """How the pages of each kind are read that the orchestrator itself keeps."""
    limit = exports.PAGE_ROWS

    async def agents(tx: Connection, last: Any) -> list[Message]:
        after = last.agent_id if last else ""
        found = await agent_store.list_agents(tx, tenant, bound_user="", user_id=user_id, after=after, limit=limit)
        return [convert.wire_agent(one) for one in found]

    async def conversations(tx: Connection, last: Any) -> list[Message]:
        after = last.conversation_id if last else ""
        found = await agent_store.list_conversations(
            tx, tenant, bound_user="", agent_id="", user_id=user_id, after=after, limit=limit
        )
        return [convert.wire_conversation(one) for one in found]

    async def events(tx: Connection, last: Any) -> list[Message]:
        after = last.event_id if last else ""
        found = await agent_store.list_events(tx, tenant, user_id=user_id, after=after, limit=limit)
        return [convert.wire_event(one) for one in found]

    async def timers(tx: Connection, last: Any) -> list[Message]:
        after = (last.next_time.ToDatetime(UTC), last.timer_id) if last else None
        found = await timer_store.list_timers(
            tx, tenant, bound_user=user_id, conversation_id="", after=after, limit=limit
        )
        return [convert.wire_timer(one) for one in found]

    return (("agent", agents), ("conversation", conversations), ("event", events), ("timer", timers))


async def _all(database: Database, tenant: str, page: Page) -> AsyncIterator[Message]:
    """Yields the items of all pages; each page begins after the last item of the one before."""
    last: Message | None = None
    while True:
        async with database.tenant(tenant) as tx:
            found = await page(tx, last)
        for item in found:
            yield item
        if len(found) < exports.PAGE_ROWS:
            return
        last = found[-1]
