"""Storing and changing passages: vectors are made before the transaction, the scope's lock is held only inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mneme.archival import guards
from mneme.archival.embedder import Embedder
from mneme.archival.records import Author, Change, Draft, Owner, Passage, Provenance, Stored
from mneme.archival.store import duplicates, passages, scopes
from mneme.archival.store.duplicates import Batch
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import Error, not_found

Replaced = tuple[Passage, Draft, str]
"""A passage that a draft ends, the draft, and the id under which its text is stored."""


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
        for old, draft, successor in replaced:
            why, provenance = draft.supersede_reason, draft.provenance
            await passages.supersede(tx, author, old, successor=successor, why=why, provenance=provenance)
        stored = iter(batch.outcomes)
        return [refused.get(position) or next(stored) for position in range(len(drafts))]

    async def _sorted_out(
        self, tx: Connection, author: Author, owner: Owner, drafts: Sequence[Draft]
    ) -> tuple[Batch, dict[int, Error], list[Replaced]]:
        """Returns what becomes of the drafts, but of those that may not replace what they name: their errors."""
        refused: dict[int, Error] = {}
        while True:
            kept = [position for position in range(len(drafts)) if position not in refused]
            batch = await duplicates.sort_out(tx, author.tenant, owner, [drafts[position] for position in kept])
            replaced: dict[str, Replaced] = {}
            errors: dict[int, Error] = {}
            for position, outcome in zip(kept, batch.outcomes, strict=True):
                if not isinstance(outcome, Stored) or not drafts[position].supersedes:
                    continue
                try:
                    replaced |= await _replaced(tx, author, owner, drafts[position], outcome.passage_id, replaced)
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

    async def change(self, tx: Connection, author: Author, passage_id: str, change: Change) -> Passage:
        """Changes a passage and returns it as stored.

        Raises:
            Error: NOT_FOUND; DELETED; ALREADY_EXISTS when the owner holds the new text already; what is wrong with
                the new values together with those that stay.
        """
        old = await locked(tx, author, passage_id)
        _check_change(old, change)
        values = dict(change.values)
        if change.text is not None and change.text != old.text:
            values |= _vector_values(change)
            values |= _provenance_values(change.provenance)
        new = await passages.change(tx, author, old, values, change.provenance)
        if new.text != old.text:
            await lexical.remove(tx, "archival", scope=old.owner.id, document_ids=[old.id])
            document = lexical.document(scope=old.owner.id, document_id=old.id, text=new.text)
            await lexical.index(tx, "archival", [document])
        return new

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
    tx: Connection, author: Author, owner: Owner, draft: Draft, successor: str, others: Mapping[str, Replaced]
) -> dict[str, Replaced]:
    """Returns, by id, the passages that a draft ends; those that it ended already are left out.

    Raises:
        Error: NOT_FOUND; INVALID_STATE when another passage replaced one, also one of `others`, its batch;
            USER_NOT_ALLOWED.
    """
    found: dict[str, Replaced] = {}
    for passage_id in draft.supersedes:
        old = await passages.replaceable(tx, author, owner, passage_id=passage_id, successor=successor)
        if old is None:
            continue
        refuse_shared_write(old.user_id)
        if passage_id in others and others[passage_id][2] != successor:
            raise passages.replaced_already(passage_id, others[passage_id][2])
        found[passage_id] = (old, draft, successor)
    return found


async def locked(tx: Connection, author: Author, passage_id: str) -> Passage:
    """Returns a passage that the author may change, its scope and then its row held until the transaction ends.

    Raises:
        Error: NOT_FOUND; USER_NOT_ALLOWED, when a credential bound to one user would change what all users see.
    """
    seen = await passages.get(tx, author.tenant, passage_id, user=author.user_id)
    refuse_shared_write(seen.user_id)
    if await scopes.lock_known(tx, author.tenant, seen.owner.id) is None:
        raise not_found(passage_id)
    return await passages.get(tx, author.tenant, passage_id, user=author.user_id, lock=True)


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
