"""Reads requests into what the cache works with, and checks what a caller's credential may touch."""

from __future__ import annotations

import hashlib
import hmac
import random
import time

import numpy as np
from google.protobuf.duration_pb2 import Duration

from mneme.runtime import call
from mneme.runtime.errors import invalid
from mneme.semantic_cache import basis as bases
from mneme.semantic_cache.addresses import Scope, address, place
from mneme.semantic_cache.basis import Basis
from mneme.semantic_cache.normalising import normalise
from mneme.semantic_cache.query import Query
from mneme.semantic_cache.questions import Kind, classify
from mneme.semantic_cache.store import Stored
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb


class Reader:
    """Turns messages into queries and entries, in the name of the running call's principal."""

    def __init__(self, secret: bytes, *, jitter: float, refresh_fraction: float) -> None:
        """Args:
        secret: Keeps questions from being guessed by their keys.
        jitter: Part of an entry's life by which it ends earlier, at random.
        refresh_fraction: Part of its life after which it is worth making anew.
        """
        self._secret = secret
        self._jitter = jitter
        self._refresh_fraction = refresh_fraction

    def query(self, key: pb.CacheKey, max_age: Duration | None = None) -> Query:
        """Returns what a request asks for.

        Raises:
            Error: The credential is bound to another user, or the basis contradicts itself.
        """
        scope = self.scope(key.scope)
        normalised, principal = normalise(key.question), call.current().principal
        return Query(
            address=address(self._secret, scope, fingerprint=key.fingerprint, question=normalised),
            kind=classify(key.question),
            normalised=normalised,
            question=key.question,
            fingerprint=key.fingerprint,
            place=place(scope, key.fingerprint),
            basis=self.basis(key.basis),
            asker=principal.user or principal.actor,
            vector=np.asarray(key.vector.values, dtype=np.float32) if key.HasField("vector") else None,
            space_id=key.vector.space_id,
            max_age=None if max_age is None else seconds(max_age, "max_age"),
            users_needed=key.shared_after_users,
        )

    def scope(self, scope: pb.CacheScope) -> Scope:
        """Returns a scope of the credential's tenant; empty for the user is the scope that all users share."""
        if scope.user_id:
            call.acting_user(scope.user_id)
        return Scope(call.tenant(), scope.agent_id, scope.user_id)

    def basis(self, basis: pb.Basis) -> Basis:
        """Returns the revisions in canonical form."""
        return bases.of((revision.scope, revision.revision) for revision in basis.revisions)

    def stored(self, query: Query, key: pb.CacheKey, sent: pb.CacheEntry, entry_id: str, life: float) -> Stored:
        """Returns the entry to store: what the caller sent, with what only the server knows.

        Args:
            query: Read from the key.
            key: The question.
            sent: The answer.
            entry_id: Its id.
            life: Longest life, in seconds.
        """
        principal = call.current().principal
        now = time.time()
        entry = pb.CacheEntry(
            entry_id=entry_id,
            question=key.question,
            answer=sent.answer,
            basis=key.basis,
            run_id=sent.run_id,
            model=sent.model,
            author=principal.user or principal.actor,
            passage_ids=sent.passage_ids,
            token_count=sent.token_count,
            model_seconds=sent.model_seconds,
            knowledge=sent.knowledge,
        )
        entry.create_time.FromNanoseconds(int(now * 1e9))
        ends = now + life * (1 - self._jitter * random.random())  # noqa: S311 - spreads load, keeps no secret
        entry.expire_time.FromNanoseconds(int(ends * 1e9))
        entry.refresh_time.FromNanoseconds(int((now + (ends - now) * self._refresh_fraction) * 1e9))
        return Stored(entry, query.basis.digest, acquired_digest=query.basis.digest, place=query.place)

    def question_hmac(self, question: str) -> str:
        """Returns a keyed hash of a question, normalised: for counting, never for reading."""
        return hmac.new(self._secret, normalise(question).encode(), hashlib.sha256).hexdigest()

    def check_self_contained(self, query: Query) -> None:
        """Returns when the question would ever be looked up; refuses it otherwise."""
        if query.kind is not Kind.QUESTION:
            raise invalid("key.question", f"is not looked up: {query.kind} instead of a self-contained question")

    def hide_origin(self, scope: Scope, entry: pb.CacheEntry) -> None:
        """Empties what tells of the user who asked first, in an entry that users share, for who may not know it."""
        principal = call.current().principal
        if scope.user_id or principal.service or "admin" in principal.scopes:
            return
        for name in ("question", "run_id", "author"):
            entry.ClearField(name)

    def may_touch(self, scope: Scope) -> bool:
        """Whether an entry of the scope may have been served to the caller, who then may judge or remove it."""
        return call.current().principal.user in ("", scope.user_id) or not scope.user_id


def seconds(duration: Duration, field: str) -> float:
    """Returns a duration in seconds.

    Raises:
        Error: REASON_INVALID_FIELD, when it is negative.
    """
    value = duration.ToTimedelta().total_seconds()
    if value < 0:
        raise invalid(field, f"{value:g} s is negative", value=f"{value:g}")
    return value
