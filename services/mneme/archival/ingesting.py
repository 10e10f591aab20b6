"""Ingests: a stream of items, stored batch by batch together with how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from mneme.archival import convert
from mneme.archival.intake import Intake
from mneme.archival.records import Author, Ingest, Item, Settled
from mneme.archival.store import ingests
from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.writing import Writer
from mneme.runtime.db import Database
from mneme.runtime.errors import Error, invalid

_BATCH_ITEMS = 256
_BATCH_BYTES = 2 * 1024 * 1024


class Ingester:
    """Stores streams, batch after batch.

    While one is stored the next one is read and prepared, and no more of the stream, which holds the sender back.
    """

    def __init__(self, database: Database, intake: Intake, writer: Writer, stored: Callable[[], None]) -> None:
        """Args:
        database: Where passages and progress are kept.
        intake: Makes drafts of items.
        writer: Stores them.
        stored: Called after each batch.
        """
        self._database = database
        self._intake = intake
        self._writer = writer
        self._stored = stored

    async def ingest(self, author: Author, requests: AsyncIterator[pb.IngestPassagesRequest]) -> Ingest:
        """Stores a stream to its end and returns where its ingest stands.

        Raises:
            Error: INVALID_FIELD for a message out of order; what `store.ingests.begin` refuses.
            ExceptionGroup: With an Error as above, met behind the start, or INVALID_STATE when another stream took the
                ingest over.
        """
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "start":
            raise invalid("start", "must come first")
        start = first.start
        owner = convert.owner(start.owner, "start.owner")
        async with self._database.tenant(author.tenant) as tx:
            known = await ingests.begin(tx, author, owner, start.request_id, first_index=start.first_index)
        # What fails while a batch is stored ends the reading at once.
        async with asyncio.TaskGroup() as group, aclosing(_batches(requests, start.first_index, known)) as batches:
            storing: asyncio.Task[None] | None = None
            async for position, sent in batches:
                items = await self._writer.items_embedded(owner, await self._intake.items(owner, sent))
                if storing is not None:
                    await storing
                storing = group.create_task(self._settle(author, known, start.request_id, position, items))
        async with self._database.tenant(author.tenant) as tx:
            return await ingests.get(tx, author.tenant, start.request_id, user=author.user_id)

    async def _settle(
        self, author: Author, known: Ingest, request_id: str, position: int, items: Sequence[Item | Error]
    ) -> None:
        """Stores a batch and its progress in one transaction."""
        async with self._database.tenant(author.tenant) as tx:
            settled = await self._writer.settle(tx, author, known.owner, items)
            progress = _progress(settled, position)
            await ingests.settle(tx, author.tenant, request_id, stream=known.stream, progress=progress)
        self._stored()


async def _batches(
    requests: AsyncIterator[pb.IngestPassagesRequest], position: int, known: Ingest
) -> AsyncGenerator[tuple[int, list[pb.PassageItem]], None]:
    """Yields the items that are not settled yet, in batches, each with the position of its first one."""
    size, items = 0, list[pb.PassageItem]()
    async for request in requests:
        if request.WhichOneof("part") != "item":
            raise invalid("item", "must follow start in every message")
        if not items and position < known.next_index:
            position += 1
            continue
        items.append(request.item)
        size += request.item.ByteSize()
        if len(items) >= _BATCH_ITEMS or size >= _BATCH_BYTES:
            yield position, items
            position, size, items = position + len(items), 0, []
    if items:
        yield position, items


def _progress(settled: Sequence[Settled | Error], position: int) -> ingests.Progress:
    good = [one for one in settled if isinstance(one, Settled)]
    refused = {
        index: convert.failure_message(one).SerializeToString()
        for index, one in enumerate(settled, start=position)
        if isinstance(one, Error)
    }
    duplicates = sum(one.duplicate for one in good)
    passages = sum(not stored.duplicate for one in good for stored in one.stored)
    return ingests.Progress(position + len(settled), len(good) - duplicates, duplicates, passages, refused)
