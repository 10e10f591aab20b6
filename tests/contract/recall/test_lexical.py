"""BM25 over the tables: the same scores as the formula by hand, and counters that stay exact."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mneme.runtime import call, lexical
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Database

SCHEMA = "recall"
_scopes = itertools.count(1)
_words = st.lists(st.sampled_from(["tea", "cake", "nut", "坚果", "SKU-4711", "of", "zebra"]), max_size=8).map(" ".join)


@pytest.fixture
def tenant() -> Iterator[str]:
    """The running tenant."""
    with call.enter(Call(Principal("acme", "tester", service="orchestrator"))):
        yield "acme"


async def _search(database: Database, scopes: list[str], text: str) -> dict[str, float]:
    statement = f"WITH {lexical.bm25_cte(SCHEMA)} SELECT document_id, bm25 FROM lexical_match"
    parameters = {"tenant": "acme", **lexical.bm25_parameters(scopes=scopes, text=text)}
    async with database.tenant("acme") as tx:
        return {row["document_id"]: row["bm25"] for row in await (await tx.execute(statement, parameters)).fetchall()}


def _by_hand(texts: dict[str, str], query: str) -> dict[str, float]:
    documents = {key: Counter(lexical.terms(text)) for key, text in texts.items() if lexical.terms(text)}
    mean = sum(frequencies.total() for frequencies in documents.values()) / max(1, len(documents))
    scores: dict[str, float] = {}
    for term in lexical.query_terms(query):
        found = {key: frequencies for key, frequencies in documents.items() if frequencies[term]}
        idf = math.log(1 + (len(documents) - len(found) + 0.5) / (len(found) + 0.5))
        for key, frequencies in found.items():
            length = 1 - lexical.B + lexical.B * frequencies.total() / mean
            part = frequencies[term] * (lexical.K1 + 1) / (frequencies[term] + lexical.K1 * length)
            scores[key] = scores.get(key, 0.0) + idf * part
    return scores


async def _index(database: Database, scope: str, texts: dict[str, str]) -> None:
    documents = [lexical.document(scope=scope, document_id=key, text=text) for key, text in texts.items()]
    async with database.tenant("acme") as tx:
        await lexical.index(tx, SCHEMA, documents)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(_words, max_size=8), gone=st.sets(st.integers(0, 7)), query=_words)
async def test_scores_are_those_of_the_formula(
    tenant: str, database: Database, texts: list[str], gone: set[int], query: str
) -> None:
    scope = f"agent-{next(_scopes)}"
    named = {f"message-{number}": text for number, text in enumerate(texts)}
    await _index(database, scope, named)
    await _index(database, f"{scope}-other", {"message-other": "tea cake nut"})
    removed = [key for number, key in enumerate(named) if number in gone]
    async with database.tenant("acme") as tx:
        await lexical.remove(tx, SCHEMA, scope=scope, document_ids=removed)
    for key in removed:
        del named[key]
    assert await _search(database, [scope], query) == pytest.approx(_by_hand(named, query))


async def test_several_scopes_are_searched_each_by_its_own_frequencies(tenant: str, database: Database) -> None:
    first, second = {"message-1": "tea", "message-2": "cake"}, {"message-3": "tea", "message-4": "tea cake"}
    await _index(database, "agent-1", first)
    await _index(database, "agent-2", second)
    found = await _search(database, ["agent-1", "agent-2", "agent-none"], "tea")
    assert found == pytest.approx(_by_hand(first, "tea") | _by_hand(second, "tea"))


async def test_writers_of_one_scope_never_deadlock_and_count_exactly(tenant: str, database: Database) -> None:
    shuffled = random.Random(4711)
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]

    async def write(writer: int) -> None:
        for number in range(8):
            text = " ".join(shuffled.sample(words, len(words)))
            documents = [
                lexical.document(scope=scope, document_id=f"message-{writer}-{number}", text=text)
                for scope in ("agent-1", "agent-2")
            ]
            shuffled.shuffle(documents)
            async with database.tenant("acme") as tx:
                await lexical.index(tx, SCHEMA, documents)
            if number % 2:
                async with database.tenant("acme") as tx:
                    for scope in ("agent-1", "agent-2"):
                        ids = [f"message-{writer}-{number}", f"message-{writer}-{number - 1}"]
                        assert await lexical.remove(tx, SCHEMA, scope=scope, document_ids=ids[:1]) == 1

    await asyncio.gather(*(write(writer) for writer in range(4)))
    async with database.tenant("acme") as tx:
        terms = await (await tx.execute("SELECT DISTINCT document_count FROM recall.lexical_term")).fetchall()
        scopes = await (await tx.execute("SELECT document_count, total_length FROM recall.lexical_scope")).fetchall()
    assert [row["document_count"] for row in terms] == [16]
    assert scopes == [{"document_count": 16, "total_length": 16 * len(words)}] * 2


async def test_a_removed_scope_leaves_no_term(tenant: str, database: Database) -> None:
    await _index(database, "agent-1", {"message-1": "tea", "message-2": ""})
    await _index(database, "agent-2", {"message-1": "tea"})
    async with database.tenant("acme") as tx:
        await lexical.remove_scope(tx, SCHEMA, scope="agent-1")
        assert await lexical.remove(tx, SCHEMA, scope="agent-2", document_ids=["message-unknown"]) == 0
        for table in ("lexical_scope", "lexical_term", "lexical_document", "lexical_posting"):
            rows = await (await tx.execute(f"SELECT DISTINCT scope FROM recall.{table}")).fetchall()
            assert [row["scope"] for row in rows] == ["agent-2"]
    async with database.tenant("globex") as tx:
        assert not await (await tx.execute("SELECT 1 FROM recall.lexical_term")).fetchall()


async def test_common_terms_beyond_the_budget_are_left_out(
    tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _index(database, "agent-1", {f"message-{n}": "tea" if n else "tea zebra" for n in range(30)})
    assert len(await _search(database, ["agent-1"], "zebra tea")) == 30
    monkeypatch.setattr(lexical, "_POSTINGS_BUDGET", 1)
    assert set(await _search(database, ["agent-1"], "zebra tea")) == {"message-0"}
    assert set(await _search(database, ["agent-1"], "tea")) == {"message-9"}
