"""What people, judges and callers say of served answers: counted by stratum, which closes and opens by it."""

from __future__ import annotations

from dataclasses import replace

from mneme.runtime import ids
from mneme.runtime.db import Connection
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache import strata
from mneme.semantic_cache.addresses import Address
from mneme.semantic_cache.gate import Gate
from mneme.semantic_cache.neighbours import cosine
from mneme.semantic_cache.normalising import normalise
from mneme.semantic_cache.store import Counted, EntryStore, JudgedStore, Sample, Settled, Stored
from mneme.semantic_cache.vectors import Embedder

_JUDGE = "judge"
_GONE = "gone"


class Verdicts:
    """Records verdicts and removes wrong entries."""

    def __init__(
        self,
        judged: JudgedStore,
        entries: EntryStore,
        embedder: Embedder,
        gate: Gate,
        metrics: Metrics,
        *,
        wrong_limit: float,
        verified: bool,
    ) -> None:
        """Args:
        judged: Where verdicts are.
        entries: What is removed.
        embedder: Tells how far a question is from the one it was served for.
        gate: Learns what closed and opened.
        metrics: Counts verdicts on samples.
        wrong_limit: Share of wrong answers above which a stratum closes.
        verified: Whether a verifier lets pairs pass as well as the guards.
        """
        self._judged = judged
        self._entries = entries
        self._embedder = embedder
        self._gate = gate
        self._counted = metrics.cache_samples
        self._wrong_limit = wrong_limit
        self._verified = verified

    def is_closed(self, judged: int, wrong: int) -> bool:
        """Returns whether a stratum of the semantic tier is closed by its verdicts."""
        return strata.is_closed(judged, wrong, self._wrong_limit)

    async def record(self, tx: Connection, tenant: str, sample: Sample) -> Counted | None:
        """Keeps a verdict; None when it counts for no stratum."""
        return await self._judged.record(tx, tenant, sample, self._rule(sample.stratum))

    async def settle(self, tx: Connection, tenant: str, sample_id: str, *, wrong: bool, actor: str) -> Settled | None:
        """Turns a pair that waits into a verdict; None when it is gone."""
        settled = await self._judged.settle(tx, tenant, sample_id, wrong=wrong, actor=actor, is_closed=self.is_closed)
        if settled is not None:
            self._counted.labels("wrong" if wrong else "right").inc()
        return settled

    def learn(self, tenant: str, counted: Counted | None) -> None:
        """Acts on what a verdict came to; after its transaction."""
        if counted is not None:
            self._gate.learn(tenant, counted.stratum, closed=counted.closed, changed=counted.changed)

    async def judged(self, tenant: str, sample_id: str, wrong: bool) -> None:
        """Records the verdict of this process's judge."""
        async with self._judged.transaction(tenant) as tx:
            settled = await self.settle(tx, tenant, sample_id, wrong=wrong, actor=_JUDGE)
        if settled is not None:
            self.learn(tenant, settled.counted)
            if wrong:
                await self.remove_by_id(tenant, settled.entry_id)

    async def remove_by_id(self, tenant: str, entry_id: str) -> bool:
        """Removes an entry; False when it is gone or Redis does not answer."""
        try:
            address = await self._entries.find(tenant, entry_id)
            return address is not None and await self._entries.remove(address, entry_id)
        except CacheDown:
            return False

    async def sample(
        self, tenant: str, entry_id: str, address: Address | None, question: str, question_hmac: str
    ) -> Sample:
        """Returns the verdict to be filled in, with the stratum of the pair.

        Args:
            tenant: Whose entry it is.
            entry_id: The entry.
            address: Where it lives; None when it is gone: then nothing but the verdict is kept.
            question: Question it was served for; empty for the same.
            question_hmac: Keyed hash of that.
        """
        gone = Sample("", "", "", entry_id, "", _GONE, wrong=False, actor="")
        if address is None:
            return gone
        scope = address.scope
        stratum = await self._stratum(address, question)
        kept = replace(gone, agent_id=scope.agent_id, user_id=scope.user_id, stratum=stratum)
        return replace(kept, question_hmac=question_hmac if question else address.digest)

    def _rule(self, stratum: str) -> strata.Rule:
        return self.is_closed if strata.closes(stratum) else strata.never

    async def _stratum(self, address: Address, question: str) -> str:
        kind, stored = address.scope.kind, await self._stored(address)
        if not question or stored is None or normalise(question) == normalise(stored.entry.question):
            return strata.exact(kind)
        space = await self._embedder.space()
        vector = None if space is None else await self._embedder.embed(space, question)
        score = 0.0
        if vector is not None and stored.embedded is not None:
            score = cosine(vector, stored.embedded.values)
        # Without vectors it counts where least is known of a pair.
        return strata.semantic(kind, score, verified=self._verified)

    async def _stored(self, address: Address) -> Stored | None:
        try:
            return (await self._entries.read(address)).stored
        except CacheDown:
            return None


def sample_id(tenant: str, request_id: str) -> str:
    """Returns the id of a caller's verdict."""
    return ids.derived("sample", tenant, request_id)
