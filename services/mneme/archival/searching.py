"""One search: embed the question, collect candidates, rank them, fetch what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mneme.archival import ranking
from mneme.archival.embedder import Embedder
from mneme.archival.ranking import Ranked, Weights
from mneme.archival.records import Candidate, Embedded, Filter, Passage, WordStatistics
from mneme.archival.store import knowledge_bases, passages, past, scopes, search
from mneme.archival.store.search import Query
from mneme.runtime import call, reranking
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import invalid
from mneme.runtime.ranking import query as asked_of
from mneme.runtime.reranking import Reranker

HYBRID, SEMANTIC, LEXICAL = 1, 2, 3

_CONSIDERED = 100


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for."""

    agent_id: str
    knowledge_base_ids: Sequence[str]
    knowledge_bases_only: bool
    text: str
    embedded: Embedded | None
    mode: int
    wanted: Filter
    limit: int
    min_score: float
    strict: bool
    diversity: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    results: list[tuple[Passage, Ranked]]
    """Best first."""
    total: int
    """Passages that match the words; where meaning is compared, those that were considered, at most 100."""
    degraded: bool
    """True when meaning was asked for and could not be compared."""


class Searcher:
    """Searches the archives of agents and knowledge bases."""

    def __init__(
        self, database: Database, embedder: Embedder, *, weights: Weights, depth: int, reranker: Reranker | None = None
    ) -> None:
        """Args:
        database: Where the passages are.
        embedder: Makes the question's vector when the caller did not.
        weights: How much each part of a score counts.
        depth: Candidates that are ranked, by meaning and again by words; at least the limit of any search.
        reranker: Looks again at the best of a hybrid search that does not ask for diversity; None for none.
        """
        self._reranker = reranker
        self._database = database
        self._embedder = embedder
        self._weights = weights
        self._depth = depth

    async def search(self, asked: Search) -> Found:
        """Returns the best passages for a question.

        Raises:
            Error: INVALID_FIELD without a scope or a query; NOT_FOUND for an unknown knowledge base; what is wrong
                with a vector that was handed in.
        """
        _check(asked)
        if self._reranker is None or asked.mode != HYBRID or asked.diversity:
            return await self._search(asked)
        found = await self._search(replace(asked, limit=max(asked.limit, self._reranker.depth)))
        # No transaction is open here: a model is waited for.
        ordered = await reranking.order(self._reranker, asked.text, [passage.text for passage, _ in found.results])
        results = [
            (passage, ranked if score is None else replace(ranked, score=score, rerank=score))
            for (passage, ranked), score in ((found.results[position], score) for position, score in ordered)
        ]
        return replace(found, results=_successors_first(results)[: asked.limit])

    async def _search(self, asked: Search) -> Found:
        strict = asked.strict and asked.min_score > 0
        embedded = await self._vector(asked) if asked.mode != LEXICAL or strict else None
        by_meaning = asked.mode != LEXICAL and embedded is not None
        tenant = call.tenant()
        async with self._database.tenant(tenant, plan_once=True) as tx:
            query = Query(
                owners=await _owners(tx, tenant, asked),
                embedded=embedded,
                text="" if asked.mode == SEMANTIC and by_meaning else asked.text,
                wanted=asked.wanted,
                depth=max(asked.limit, self._depth),
                with_vectors=asked.diversity > 0,
                counted=not by_meaning,
            )
            if by_meaning and asked.mode == SEMANTIC and not asked.diversity and not asked.wanted.recorded_as_of:
                found = await self._nearest(tx, tenant, asked, query)
                if found is not None:
                    return found
            return await self._mixed(tx, tenant, asked, query)

    async def _nearest(self, tx: Connection, tenant: str, asked: Search, query: Query) -> Found | None:
        """Returns what is found by meaning alone; None where more than the results must be known for their order."""
        # Without words to weigh against it, the order by meaning needs no more than what is counted.
        query = replace(query, depth=max(asked.limit, _CONSIDERED))
        found, considered = await search.nearest(tx, tenant, query, asked.limit)
        if any(candidate.superseded_by for candidate, _ in found):
            return None
        ranked = self._ranked(asked, [candidate for candidate, _ in found], WordStatistics(), by_meaning=True)
        known = {passage.id: passage for _, passage in found}
        return Found([(known[r.id], r) for r in ranked], min(considered, _CONSIDERED), degraded=False)

    async def _mixed(self, tx: Connection, tenant: str, asked: Search, query: Query) -> Found:
        by_meaning = asked.mode != LEXICAL and query.embedded is not None
        moment = asked.wanted.recorded_as_of
        found, statistics = await (past if moment else search).candidates(tx, tenant, query)
        ranked = self._ranked(asked, found, statistics, by_meaning=by_meaning)
        known = await passages.get_many(tx, tenant, [r.id for r in ranked], recorded_as_of=moment)
        total = min(len(found), _CONSIDERED) if by_meaning else statistics.total
        degraded = query.embedded is None and (asked.mode != LEXICAL or (asked.strict and asked.min_score > 0))
        return Found([(known[r.id], r) for r in ranked], total, degraded)

    async def _vector(self, asked: Search) -> Embedded | None:
        if asked.embedded is not None:
            await self._embedder.check("vector", asked.embedded)
            return asked.embedded
        return await self._embedder.query(asked.text)

    def _ranked(
        self, asked: Search, found: list[Candidate], statistics: WordStatistics, *, by_meaning: bool
    ) -> list[Ranked]:
        if not by_meaning:
            ranked = ranking.by_words(found)
        elif asked.mode == SEMANTIC:
            ranked = ranking.by_meaning(found)
        else:
            question = asked_of(asked.text)
            now, weights = datetime.now(UTC), self._weights
            # What comes behind the last result cannot move up, unless something above it may drop out or fall.
            settled = not asked.min_score and not asked.diversity and not any(one.superseded_by for one in found)
            limit = asked.limit if settled else None
            ranked = ranking.mixed(found, statistics, question, now=now, weights=weights, limit=limit)
        words_pass = asked.mode != SEMANTIC and not asked.strict
        ranked = ranking.at_least(ranked, asked.min_score, words_pass=words_pass)
        if asked.wanted.as_of is None and asked.wanted.recorded_as_of is None:
            ranked = ranking.successors_first(ranked, found, self._weights)
        if asked.diversity > 0:
            return ranking.pushed_apart(ranked, found, diversity=asked.diversity, limit=asked.limit)
        return ranked[: asked.limit]


def _successors_first(results: list[tuple[Passage, Ranked]]) -> list[tuple[Passage, Ranked]]:
    """Returns results with what was replaced behind everything that replaced it."""
    places = {passage.id: place for place, (passage, _) in enumerate(results)}

    def place(passage: Passage) -> tuple[int, int]:
        last, depth, successor = places[passage.id], 0, passage.superseded_by
        while successor in places and depth < len(results):
            last, depth = max(last, places[successor]), depth + 1
            successor = results[places[successor]][0].superseded_by
        return last, depth

    return sorted(results, key=lambda one: place(one[0]))


def _check(asked: Search) -> None:
    if not asked.agent_id and not asked.knowledge_base_ids:
        raise invalid("scope", "needs agent_id or at least one of knowledge_base_ids")
    if not asked.text.strip() and not (asked.mode == SEMANTIC and asked.embedded is not None):
        raise invalid("query", "must not be empty, unless the mode is SEMANTIC and vector is given")


async def _owners(tx: Connection, tenant: str, asked: Search) -> list[str]:
    owners = [asked.agent_id] if asked.agent_id and not asked.knowledge_bases_only else []
    if asked.knowledge_base_ids:
        named = list(dict.fromkeys(asked.knowledge_base_ids))
        for knowledge_base_id in named:
            await scopes.require_knowledge_base(tx, tenant, knowledge_base_id)
        return owners + named
    return owners + await knowledge_bases.attached(tx, tenant, asked.agent_id)
