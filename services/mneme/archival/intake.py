"""Turns what callers send into drafts: checked, and cut into pieces where a text is long."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mneme.archival import chunking, convert, guards
from mneme.archival.chunking import Cut, Piece
from mneme.archival.embedder import Embedder
from mneme.archival.records import Draft, Embedded, Item, Owner
from mneme.archival.store import passages
from mneme.archival.v1 import archival_pb2 as pb
from mneme.runtime import call, validation
from mneme.runtime.db import Database
from mneme.runtime.errors import Error, invalid

_OVERLAP_PART = 10


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts may be, in characters."""

    over: int
    """A text longer than this is cut, unless its vector came with it."""
    piece: int
    """Most characters of a piece, where the caller names none."""


class Intake:
    """Makes drafts of what callers send."""

    def __init__(self, database: Database, embedder: Embedder, lengths: Lengths) -> None:
        self._database = database
        self._embedder = embedder
        self._lengths = lengths

    async def draft(self, holder: pb.InsertPassageRequest | pb.PassageItem) -> Draft:
        """Returns the passage that a request or an item holds. Raises what is wrong with it."""
        vector: Embedded | None = None
        if holder.HasField("vector"):
            vector = convert.embedded(holder.vector)
            await self._embedder.check("vector", vector, stored=True)
        draft = convert.draft(holder, vector)
        guards.check_draft(draft)
        return draft

    async def items(self, owner: Owner, items: Sequence[pb.PassageItem]) -> list[Item | Error]:
        """Returns what each item stores, or what is wrong with it, in their order."""
        made: list[Item | Error] = []
        for item in items:
            try:
                validation.check(item)
                made.append(await self._item(owner, item))
            except Error as error:
                made.append(error)
        return made

    async def _item(self, owner: Owner, item: pb.PassageItem) -> Item:
        whole = await self.draft(item)
        if item.replace_document:
            _check_replacement(whole)
        cut = self._cut(item)
        if cut is None:
            return Item((whole,), replaces_document=item.replace_document)
        if whole.supersedes:
            raise invalid("supersedes_passage_ids", "cannot go with a text that is cut: no single piece replaces them")
        # The splitter leaves the interpreter's lock, so a long text holds up nobody.
        before = await self._before(owner, whole) if item.replace_document else []
        parts = await asyncio.to_thread(chunking.pieces, whole.text, cut, before=before)
        drafts = tuple(_piece(whole, part, number) for number, part in enumerate(parts))
        return Item(drafts, cut=True, replaces_document=item.replace_document)

    async def _before(self, owner: Owner, whole: Draft) -> list[str]:
        """Returns the pieces that a document has now, in their order."""
        tenant = call.tenant()
        async with self._database.tenant(tenant) as tx:
            found = await passages.pieces(
                tx, tenant, owner, document_id=whole.document_id, user=whole.user_id, lock=False
            )
        return [one.text for one in found]

    def _cut(self, item: pb.PassageItem) -> Cut | None:
        """Returns how to cut an item's text; None to leave it whole."""
        if not item.HasField("chunking"):
            if len(item.passage.text) <= self._lengths.over or item.HasField("vector"):
                return None
            return Cut(self._lengths.piece, self._lengths.piece // _OVERLAP_PART)
        if item.HasField("vector"):
            raise invalid("vector", "cannot go with a text that is cut: each piece has a vector of its own")
        wanted = item.chunking
        most = wanted.max_chars or self._lengths.piece
        if most < chunking.MIN_CHARS:
            raise invalid("chunking.max_chars", f"{most} is less than {chunking.MIN_CHARS}", value=str(most))
        overlap = wanted.overlap_chars if wanted.HasField("overlap_chars") else most // _OVERLAP_PART
        if overlap * 2 > most:
            raise invalid("chunking.overlap_chars", f"{overlap} is more than half of {most}", value=str(overlap))
        return Cut(most, overlap)


def _check_replacement(draft: Draft) -> None:
    if not draft.document_id:
        raise invalid("passage.document.document_id", "is needed to replace a document")
    if draft.document_start:
        raise invalid("passage.document.start_char", "must be 0: the text is the whole document")


def _piece(whole: Draft, part: Piece, number: int) -> Draft:
    """Returns the draft of one piece; what repeats the write of a named passage repeats the ids of its pieces."""
    named = uuid.uuid5(uuid.NAMESPACE_OID, f"{whole.passage_id} {number}")
    passage_id = f"passage-{named.hex}" if number else whole.passage_id
    return replace(
        whole,
        passage_id=passage_id,
        text=part.text,
        sha256=convert.sha256(part.text),
        document_id=whole.document_id or f"document-{whole.sha256.hex()[:32]}",
        document_start=whole.document_start + part.start,
        document_end=whole.document_start + part.end,
    )
