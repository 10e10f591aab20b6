"""Storing and changing passages: vectors are made before the transaction, the scope's lock is held only inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from mneme.archival import chunking, guards
from mneme.archival.embedder import Embedder
from mneme.archival.records import (
    Author,
    Change,
    Draft,
    Item,
    Owner,
    Passage,
    PassageVersion,
    Provenance,
    Settled,
    Stored,
)
from mneme.archival.store import duplicates, history, passages, scopes
from mneme.archival.store.duplicates import Batch
from mneme.archival.store.passages import Replacement
from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import Error, not_found

_RESTORED = (
    "text",
    "content_sha256",
    "kind",
    "importance",
    "tags",
    "metadata_",
    "valid_from",
    "valid_to",
    "reason",
    "source_message_ids",
    "trust_level",
    "from_recall",
    "step_id",
)

_NEW_TEXT = "the document has a new text"


class Writer:
    """Writes passages into agents and knowledge bases."""

    def __init__(self, database: Database, embedder: Embedder) -> None:
        self._database = database
        self._embedder = embedder

    async def embedded(self, owner: Owner, drafts: Sequence[Draft], *, bulk: bool = False) -> list[Draft]:
        """Returns the drafts with vectors where they lack one and it can be made now.

        Of several, those that the owner holds already get none: an ingest that is sent again costs no embedding.
        """
        missing = [index for index, draft in enumerate(drafts) if draft.embedded is None]
        if len(missing) > 1:
            tenant = call.tenant()
            async with self._database.tenant(tenant) as tx:
                known = await duplicates.stored(tx, tenant, owner, [drafts[index] for index in missing])
            missing = [index for position, index in enumerate(missing) if position not in known]
        made = await self._embedder.documents([drafts[index].text for index in missing], bulk=bulk)
        ready = list(drafts)
        for index, vector in zip(missing, made, strict=True):
            ready[index] = replace(drafts[index], embedded=vector)
        return ready

    async def items_embedded(self, owner: Owner, items: Sequence[Item | Error]) -> list[Item | Error]:
        """Returns the items with vectors, as `embedded` makes them."""
        drafts = [draft for item in items if isinstance(item, Item) for draft in item.drafts]
        ready = iter(await self.embedded(owner, drafts, bulk=len(drafts) > 1))
        return [
            replace(item, drafts=tuple(islice(ready, len(item.drafts)))) if isinstance(item, Item) else item
            for item in items
        ]

    async def settle(
        self, tx: Connection, author: Author, owner: Owner, items: Sequence[Item | Error]
    ) -> list[Settled | Error]:
        """Stores items in their order and returns what became of each; what is an error already stays it.

        Raises:
            Error: As `store`.
        """
        settled: list[Settled | Error] = []
        # A new text of a document meets what stands before it, so what comes later in the batch waits for it.
        for alone, group in groupby(enumerate(items), key=_group):
            part = [item for _, item in group]
            drafts = [draft for item in part if isinstance(item, Item) for draft in item.drafts]
            outcomes = iter(await self.store(tx, author, owner, drafts))
            for item in part:
                if isinstance(item, Error):
                    settled.append(item)
                    continue
                mine = list(islice(outcomes, len(item.drafts)))
                stored = tuple(one for one in mine if isinstance(one, Stored))
                refused = next((one for one in mine if isinstance(one, Error)), None)
                gone: tuple[str, ...] = ()
                if refused is None and alone >= 0:
                    gone = await _replace_document(tx, author, owner, item, stored)
                settled.append(refused or Settled(stored, item.cut, gone))
        return settled

    async def store(
        self, tx: Connection, author: Author, owner: Owner, drafts: Sequence[Draft]
    ) -> list[Stored | Error]:
        """Stores checked drafts and returns what became of each, in their order.

        Raises:
            Error: DELETED, when the owner or a user was deleted; NOT_FOUND for an unknown knowledge base.
        """
        if not drafts:
            return []
        documents = await self._documents(owner, drafts)
        users = {draft.user_id for draft in drafts}
        await scopes.lock(tx, author.tenant, owner.id, users)
        await scopes.refuse_deleted(tx, author.tenant, owners=[owner], users=users)
        batch, refused, replaced = await self._sorted_out(tx, author, owner, drafts)
        if batch.new:
            words = [documents[draft.passage_id] for draft in batch.new]
            await passages.insert(tx, author, owner, batch.new, words)
        await passages.supersede(tx, author, owner, replaced)
        stored = iter(batch.outcomes)
        return [refused.get(position) or next(stored) for position in range(len(drafts))]

    async def _sorted_out(
        self, tx: Connection, author: Author, owner: Owner, drafts: Sequence[Draft]
    ) -> tuple[Batch, dict[int, Error], list[Replacement]]:
        """Returns what becomes of the drafts, but of those that may not replace what they name: their errors."""
        refused: dict[int, Error] = {}
        while True:
            kept = [position for position in range(len(drafts)) if position not in refused]
            batch = await duplicates.sort_out(tx, author.tenant, owner, [drafts[position] for position in kept])
            replaced: dict[str, Replacement] = {}
            errors: dict[int, Error] = {}
            for position, outcome in zip(kept, batch.outcomes, strict=True):
                if not isinstance(outcome, Stored) or not drafts[position].supersedes:
                    continue
                try:
                    replaced |= await _replaced(tx, author, owner, drafts[position], outcome, replaced)
                except Error as error:
                    errors[position] = error
            if not errors:
                return batch, refused, list(replaced.values())
            # A draft that was a duplicate of a refused one is new now.
            refused |= errors

    async def new_text_embedded(self, change: Change) -> Change:
        """Returns a change with the vector of its new text, if it has one and it can be made now."""
        if change.text is None:
            return change
        return replace(change, embedded=(await self._embedder.documents([change.text]))[0])

    async def change(self, tx: Connection, author: Author, old: Passage, change: Change) -> Passage:
        """Changes a passage that `locked` returned, and returns it as stored.

        Raises:
            Error: ALREADY_EXISTS when the owner holds the new text already; what is wrong with the new values together
                with those that stay.
        """
        _check_change(old, change)
        values = dict(change.values)
        if change.text is not None and change.text != old.text:
            values |= _vector_values(change)
            values |= _provenance_values(change.provenance)
        new = await passages.change(tx, author, old, values, change.provenance)
        await _reindex(tx, old, new)
        return new

    async def restored_embedded(self, version: PassageVersion) -> Change:
        """Returns the change that goes back to a version, with the vector of its text if it can be made now."""
        then = version.passage
        values = {name: getattr(then, name) for name in _RESTORED}
        return await self.new_text_embedded(Change(values, version.provenance))

    async def restore(
        self, tx: Connection, author: Author, old: Passage, change: Change, provenance: Provenance
    ) -> Passage:
        """Makes text and fields of a version current again, but for quarantine and supersession.

        Args:
            tx: The tenant transaction.
            author: Who writes.
            old: The passage as it stands, as `locked` returned it.
            change: What `restored_embedded` returned.
            provenance: Why, for the audit.

        Raises:
            Error: ALREADY_EXISTS, when the owner holds the text already.
        """
        values = dict(change.values)
        if old.superseded_by:
            # When it was true is part of how it was superseded.
            values |= {"valid_from": old.valid_from, "valid_to": old.valid_to}
        if change.text != old.text:
            values |= _vector_values(change)
        kind = common_pb2.MEMORY_CHANGE_KIND_RESTORED
        new = await passages.change(tx, author, old, values, provenance, kind=kind)
        await _reindex(tx, old, new)
        return new

    async def reinstate(self, tx: Connection, author: Author, old: Passage, provenance: Provenance) -> Passage:
        """Undoes a supersession: the passage is true again for as long as it was before.

        Raises:
            Error: INVALID_STATE for a passage that has no successor; ALREADY_EXISTS when its text was stated again.
        """
        if not old.superseded_by:
            raise Error(
                errors_pb2.REASON_INVALID_STATE,
                f"{old.id} was not superseded",
                metadata={"resource": old.id, "state": "CURRENT"},
            )
        values = {
            "superseded_by": "",
            "superseded_reason": "",
            "superseded_at": None,
            "valid_to": await history.end_before_supersession(tx, author.tenant, old.id),
        }
        kind = common_pb2.MEMORY_CHANGE_KIND_RESTORED
        return await passages.change(tx, author, old, values, provenance, kind=kind)

    async def _documents(self, owner: Owner, drafts: Sequence[Draft]) -> dict[str, lexical.Document]:
        def make() -> dict[str, lexical.Document]:
            return {
                draft.passage_id: lexical.document(scope=owner.id, document_id=draft.passage_id, text=draft.text)
                for draft in drafts
            }

        if sum(len(draft.text) for draft in drafts) > lexical.THREAD_CHARS:
            return await asyncio.to_thread(make)
        return make()


async def _replaced(
    tx: Connection, author: Author, owner: Owner, draft: Draft, stored: Stored, others: Mapping[str, Replacement]
) -> dict[str, Replacement]:
    """Returns, by id, the passages that a draft ends; those that it ended already are left out.

    Raises:
        Error: NOT_FOUND; INVALID_STATE when another passage replaced one, also one of `others`, its batch, or when the
            draft says what was replaced itself; USER_NOT_ALLOWED.
    """
    found: dict[str, Replacement] = {}
    successor = stored.passage_id
    for passage_id in draft.supersedes:
        old = await passages.replaceable(tx, author, owner, passage_id=passage_id, successor=successor)
        if old is None:
            continue
        refuse_shared_write(old.user_id)
        if passage_id in others and others[passage_id].successor != successor:
            raise passages.replaced_already(passage_id, others[passage_id].successor)
        if successor in others:
            raise passages.replaced_already(successor, others[successor].successor)
        if stored.duplicate:
            await passages.refuse_replaced(tx, author.tenant, successor)
        found[passage_id] = Replacement(old, successor, draft.supersede_reason, draft.provenance)
    return found


async def _replace_document(
    tx: Connection, author: Author, owner: Owner, item: Item, stored: Sequence[Stored]
) -> tuple[str, ...]:
    """Ends the pieces that a document no longer has, notes where the others stand now; returns those that ended."""
    first = item.drafts[0]
    held = await passages.pieces(tx, author.tenant, owner, document_id=first.document_id, user=first.user_id)
    # A text that occurs twice in the document is one piece, at its first place.
    after = {
        one.passage_id: chunking.Span(draft.document_start, draft.document_end)
        for draft, one in reversed(list(zip(item.drafts, stored, strict=True)))
    }
    before = {one.id: chunking.Span(one.document_start, one.document_end) for one in held}
    changes = chunking.changes(before, after)
    by_id = {one.id: one for one in held}
    for one in held:
        refuse_shared_write(one.user_id)
    why = first.supersede_reason or _NEW_TEXT
    gone = [Replacement(by_id[old], new, why, first.provenance) for old, new in changes.gone.items()]
    await passages.supersede(tx, author, owner, gone)
    moved = [(by_id[id_], span.start, span.end) for id_, span in changes.moved.items()]
    await passages.move(tx, author, owner, moved, first.provenance)
    return tuple(changes.gone)


async def _reindex(tx: Connection, old: Passage, new: Passage) -> None:
    """Lets search by words find the new text, and searches of the past the old one."""
    if new.text == old.text:
        return
    await lexical.remove(tx, "archival", scope=old.owner.id, document_ids=[old.id])
    await lexical.index(tx, "archival", [lexical.document(scope=old.owner.id, document_id=old.id, text=new.text)])
    await history.keep_words(tx, old)


async def locked(tx: Connection, author: Author, passage_id: str, *, etag: str = "") -> Passage:
    """Returns a passage that the author may change, its scope and then its row held until the transaction ends.

    Raises:
        Error: NOT_FOUND; USER_NOT_ALLOWED, when a credential bound to one user would change what all users see;
            ETAG_MISMATCH, when an etag is given and the passage has another one.
    """
    seen = await passages.get(tx, author.tenant, passage_id, user=author.user_id)
    refuse_shared_write(seen.user_id)
    if await scopes.lock_known(tx, author.tenant, seen.owner.id) is None:
        raise not_found(passage_id)
    found = await passages.get(tx, author.tenant, passage_id, user=author.user_id, lock=True)
    if etag and etag != found.etag:
        raise Error(
            errors_pb2.REASON_ETAG_MISMATCH,
            f'{passage_id} changed since it was read (etag "{etag}", now "{found.etag}")',
            metadata={"resource": passage_id, "etag": etag, "current_etag": found.etag},
        )
    return found


def refuse_shared_write(user_id: str) -> None:
    """Refuses a user's own credential what changes the memory of all users; services act for agents and may.

    Raises:
        Error: USER_NOT_ALLOWED.
    """
    principal = call.current().principal
    if principal.user and not principal.service and user_id != principal.user:
        raise Error(
            errors_pb2.REASON_USER_NOT_ALLOWED,
            "the credential is bound to one user and may not change what all users share",
            metadata={"field": "user_id"},
        )


def _check_change(old: Passage, change: Change) -> None:
    values = change.values
    guards.check_span(
        "passage.valid_to", values.get("valid_from", old.valid_from), values.get("valid_to", old.valid_to)
    )
    rewritten = change.text is not None and change.text != old.text
    recalled = change.provenance.from_recall if rewritten else old.from_recall
    guards.check_recalled(from_recall=recalled, kind=values.get("kind", old.kind))


def _vector_values(change: Change) -> dict[str, Any]:
    made = change.embedded
    return {
        "embedding": made.values if made else None,
        "embedding_config": made.space_id if made else None,
        "next_embedding": made.beside.values if made and made.beside else None,
        "next_space": made.beside.space_id if made and made.beside else None,
        "index_state": passages.INDEXED if made else passages.PENDING,
        "index_error": "",
    }


def _provenance_values(provenance: Provenance) -> dict[str, Any]:
    return {
        "reason": provenance.reason,
        "source_message_ids": list(provenance.source_message_ids),
        "trust_level": provenance.trust_level,
        "from_recall": provenance.from_recall,
        "step_id": provenance.step_id,
    }


def _group(numbered: tuple[int, Item | Error]) -> int:
    """Puts items that can be stored together into one group, -1, and each new text of a document into its own."""
    number, item = numbered
    return number if isinstance(item, Item) and item.replaces_document else -1
