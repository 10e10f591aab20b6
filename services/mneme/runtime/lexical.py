"""Search by words: terms of any script, and BM25 over tables that a store keeps beside its own.

A store describes the tables with `lexical_tables`, its migration calls `create_lexical_tables`. A document
belongs to a scope (an agent, a knowledge base). Each scope has its own document frequencies, so one scope's
words say nothing about another's. The transaction that writes a document indexes it:

    await lexical.index(tx, "archival", [lexical.document(scope=agent_id, document_id=passage_id, text=text)])
    await lexical.remove(tx, "archival", scope=agent_id, document_ids=[passage_id])
    await lexical.remove_scope(tx, "archival", scope=agent_id)

An update removes and indexes again. A store that writes in one statement adds `index_cte` to it instead.

A search puts the fragment in front of its own statement and joins `lexical_match(scope, document_id, bm25)`:

    f"WITH {lexical.bm25_cte('archival')} SELECT … FROM lexical_match m JOIN … ORDER BY m.bm25 DESC LIMIT …"
    {"tenant": tenant, **lexical.bm25_parameters(scopes=[agent_id], text=question), …}

Any term may match. `terms` takes CPU time in proportion to the text (about 1 ms for 1,000 words): give texts
over `THREAD_CHARS` characters to a thread.

Writers of one scope take its row in `lexical_scope` first and hold it until they commit: they never deadlock,
and its counters are exact. A transaction that writes several scopes in several calls takes them in one fixed
order.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from types import ModuleType
from typing import Any

import snowballstemmer
from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mneme.runtime import call
from mneme.runtime.db import Connection
from mneme.runtime.migrations import enable_row_level_security

K1 = 1.5
"""How much a repeated term adds."""
B = 0.75
"""How much a long document is marked down."""
THREAD_CHARS = 4_000
"""Texts longer than this are worth a thread."""

_MAX_TERMS = 20_000
_MAX_TERM_CHARS = 64
_MAX_QUERY_TERMS = 256
_POSTINGS_BUDGET = 20_000
_POSTINGS_BUDGET_BESIDE = 4_000

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Scripts without spaces: kana, Hangul (whose particles stick to the word), Thai, Lao, Burmese, Khmer.
_OTHERS = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uac00-\ud7af\u0e01-\u0edf\u1000-\u109f\u1780-\u17d3"
_SPACELESS = _HAN + _OTHERS
# Vowel signs and accents, which Python's \w leaves out: without them a Hindi word falls apart.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u0900-\u0963\u0971-\u0dff"
)
_CHAR = rf"(?:[^\W_{_SPACELESS}]|[{_MARKS}])"
_JOINED = r"{0}+(?:(?:[-._/@:&+]|(?<=\d),(?=\d{{3}}(?!\d))){0}+)*(?:\+\+|\#)?"
_RUN = re.compile(f"(?P<spaceless>[{_SPACELESS}]+)|" + _JOINED.format(_CHAR))
_ASCII_RUN = re.compile(_JOINED.format("[a-z0-9]"), re.ASCII)
_PART = re.compile(rf"\d+|(?:[^\W\d_{_SPACELESS}]|[{_MARKS}])+")
_HAN_RUN = re.compile(f"[{_HAN}]+")
_PAIR = re.compile(f"[{_SPACELESS}]{{2}}")
_LATIN = re.compile("[a-z\u00c0-\u024f\u1e00-\u1eff]+")
_POSSESSIVE = re.compile(r"(?<=\w)'s\b")
_SAME = str.maketrans({"\u2019": "'", "\u2010": "-", "\u2011": "-", "\u2013": "-"})

# Stems that a query leaves out while anything else remains in it. Documents keep them: "The Who" can be
# found.
_COMMON_ENGLISH = """
    a about am an and ani are as at be been but by can could did do doe for from had has have he her him his
    how i if in into is it me my of on or our she should so than that the their them then there these they
    this those to us was we were what when where which who whom whose whi will with would you your"""
_COMMON_CHINESE = """
    的 了 吗 呢 吧 啊 是 我 你 他 她 它 们 在 有 和 与 就 都 也 很 不 什 么 哪 谁 怎 这 那 个
    什么 怎么 我们 你们 他们"""
_COMMON = frozenset((_COMMON_ENGLISH + _COMMON_CHINESE).split())

_stemming = threading.Lock()


def terms(text: str) -> list[str]:
    """Returns the terms of a text in their order, repeated as they occur; at most 20,000.

    Case, width and Latin accents are folded. Latin words become English stems. A code or number of several
    parts gives itself and its parts (`SKU-4711`: `sku-4711`, `sku`, `4711`; `1,200` gives `1200` too).
    Chinese characters give themselves and each pair of neighbours, other scripts without spaces give pairs,
    the rest words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_SAME)
    return list(islice(_terms(_POSSESSIVE.sub("", folded)), _MAX_TERMS))


def query_terms(text: str) -> list[str]:
    """Returns the distinct terms to look for, without the commonest words if others remain; at most 256."""
    distinct = list(dict.fromkeys(terms(text)))
    telling = [term for term in distinct if term not in _COMMON]
    return (telling or distinct)[:_MAX_QUERY_TERMS]


def is_pair(term: str) -> bool:
    """Returns whether a term is two neighbours of a script without spaces: often no word, but the border of two."""
    return bool(_PAIR.fullmatch(term))


@dataclass(frozen=True, slots=True)
class Document:
    """What is indexed of one document."""

    scope: str
    """Whose document frequencies it counts in."""
    document_id: str
    """Id, unique in the scope."""
    length: int
    """Number of terms, repeated ones included."""
    frequencies: Mapping[str, int]
    """How often each term occurs."""


def document(*, scope: str, document_id: str, text: str) -> Document:
    """Returns what `index` needs to know of a text; a text without terms is never found and costs nothing."""
    found = terms(text)
    return Document(scope, document_id, len(found), Counter(found))


async def index(tx: Connection, schema: str, documents: Sequence[Document]) -> None:
    """Makes documents findable at the commit, in one statement. They must not be in the index yet."""
    documents = [doc for doc in documents if doc.length]
    if documents:
        statement = f"WITH {index_cte(schema)} SELECT 1"
        await tx.execute(statement, {"tenant": call.tenant(), **index_parameters(documents)})


def index_cte(schema: str) -> str:
    """Returns the common table expressions of `index`, for a store's own statement.

    They lock the row of the scope: what else the statement locks must come before them.
    """
    return _of(_INDEX, schema)


async def remove(tx: Connection, schema: str, *, scope: str, document_ids: Sequence[str]) -> int:
    """Takes documents and what the counters knew of them out of the index; returns how many were in it."""
    key: dict[str, object] = {"tenant": call.tenant(), "scope": scope, "ids": list(document_ids)}
    await tx.execute(_of(_LOCK, schema), key)
    row = await (await tx.execute(_of(_REMOVE, schema), key)).fetchone()
    if not row or not row["removed"]:
        return 0
    await tx.execute(_of(_PRUNE, schema), {**key, "terms": row["terms"]})
    return int(row["removed"])


async def remove_scope(tx: Connection, schema: str, *, scope: str) -> None:
    """Takes everything of a scope out of the index."""
    key = {"tenant": call.tenant(), "scope": scope}
    await tx.execute(_of(_LOCK, schema), key)
    for statement in _REMOVE_SCOPE:
        await tx.execute(_of(statement, schema), key)


def bm25_parameters(*, scopes: Sequence[str], text: str, beside: bool = False) -> dict[str, object]:
    """Returns the parameters of `bm25_cte` and `rest_cte`; beside them the statement needs `tenant`.

    Args:
        scopes: Scopes to look in.
        text: The question.
        beside: Whether something else finds documents too: then 4,000 postings are read in place of 20,000.
    """
    return {
        "lexical_scopes": list(scopes),
        "lexical_terms": query_terms(text),
        "lexical_budget": _POSTINGS_BUDGET_BESIDE if beside else _POSTINGS_BUDGET,
    }


def bm25_cte(schema: str) -> str:
    """Returns the common table expressions that end in `lexical_match(scope, document_id, bm25)`.

    `lexical_hit(scope, document_id, number, frequency, length, weight)` holds each term of each document, `number`
    counting the terms of the query from 1.

    Rare terms come first. Where all have more than 20,000 postings together, commoner terms are left out: they
    could only reorder documents that match little else (the non-essential terms of MaxScore, Turtle and Flood
    1995). Of a term that has too many alone, the newest documents count, where ids are in the order of time.
    """
    return _of(_BM25, schema)


def rest_cte(schema: str, chosen: str) -> str:
    """Returns a common table expression `lexical_rest`, like `lexical_hit`: the terms left out, in some documents only.

    Args:
        schema: Where the tables are.
        chosen: Name of a relation with the column `id`: the documents.
    """
    return _of(_REST, schema).replace("lexical_chosen", chosen)


def statistics_column() -> str:
    """Returns an expression over `bm25_cte` whose value `Statistics.read` understands."""
    return _STATISTICS


def index_parameters(documents: Sequence[Document]) -> dict[str, object]:
    """Returns the parameters of `index_cte`; beside them the statement needs `tenant`. Each document has terms."""
    # Terms hold no spaces. A text a document travels and is taken apart much faster than an array of its terms.
    return {
        "lexical_scopes": [doc.scope for doc in documents],
        "lexical_ids": [doc.document_id for doc in documents],
        "lexical_lengths": [doc.length for doc in documents],
        "lexical_words": [" ".join(doc.frequencies) for doc in documents],
        "lexical_frequencies": [" ".join(map(str, doc.frequencies.values())) for doc in documents],
    }


def lexical_tables(metadata: MetaData) -> tuple[Table, ...]:
    """Adds the four tables to a store's metadata: scope and term counters, documents, postings."""
    return (
        Table(
            "lexical_scope",
            metadata,
            *_keys("scope"),
            Column("document_count", BigInteger, nullable=False),
            Column("total_length", BigInteger, nullable=False),
        ),
        Table(
            "lexical_term",
            metadata,
            *_keys("scope", "term"),
            Column("document_count", BigInteger, nullable=False),
        ),
        Table(
            "lexical_document",
            metadata,
            *_keys("scope", "document_id"),
            Column("length", Integer, nullable=False),
            Column("terms", ARRAY(Text), nullable=False),
        ),
        Table(
            "lexical_posting",
            metadata,
            *_keys("scope", "term", "document_id"),
            Column("frequency", Integer, nullable=False),
            Column("length", Integer, nullable=False),
        ),
    )


def create_lexical_tables(op: Operations | ModuleType, schema: str) -> None:
    """Creates the tables of `lexical_tables` with row-level security; for a store's migration."""
    for name, statement in _CREATE.items():
        op.execute(_of(statement, schema))
        enable_row_level_security(op, f"{schema}.{name}")


def _terms(folded: str) -> Iterator[str]:
    # Most texts in English need no other script looked for, which takes three times as long.
    if folded.isascii():
        for run in _ASCII_RUN.findall(folded):
            yield from _joined(run)
        return
    for match in _RUN.finditer(folded):
        yield from _pairs(match.group()) if match.lastgroup == "spaceless" else _joined(match.group())


def _joined(run: str) -> tuple[str, ...]:
    # What is kept has a bounded size: a run may be as long as its text.
    return _parts(run) if len(run) <= _MAX_TERM_CHARS else _parts.__wrapped__(run)


@functools.lru_cache(maxsize=50_000)
def _parts(run: str) -> tuple[str, ...]:
    """Returns the terms of a run of letters, digits and signs: the whole if it has several parts, and its parts."""
    parts = _PART.findall(run)
    whole = [run.replace(",", "")] if parts != [run] else []
    stems = [_stem(part[:_MAX_TERM_CHARS]) for part in parts]
    return (*(term for term in whole if len(term) <= _MAX_TERM_CHARS), *stems)


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
        return
    for han in _HAN_RUN.findall(run):
        # A question and its answer often share one character only (喝什么茶, 绿茶).
        yield from han
    for first, second in pairwise(run):
        yield first + second


@functools.lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    if not _LATIN.fullmatch(word):
        return word
    plain = "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))
    with _stemming:
        return str(_stemmer().stemWord(plain))


@functools.cache
def _stemmer() -> Any:
    # It keeps the word in itself while it works, hence the lock around its use.
    return snowballstemmer.stemmer("english")


@functools.cache
def _of(statement: str, schema: str) -> str:
    # Without the indentation more statements stay below the length up to which psycopg caches what it parsed.
    bare = "\n".join(line.strip() for line in statement.splitlines() if not line.lstrip().startswith("--"))
    return bare.format(schema=schema, weight=_WEIGHT)


def _keys(*names: str) -> list[Column[str]]:
    # Terms compare by bytes: no locale knows an order for them, and bytes are compared faster.
    types = {name: Text(collation="C") if name == "term" else Text() for name in ("tenant_id", *names)}
    return [Column(name, kind, primary_key=True, nullable=False) for name, kind in types.items()]


_INDEX = """
    lexical_new AS MATERIALIZED (
        SELECT d.scope, d.id, d.length, string_to_array(d.words, ' ') AS terms, d.frequencies
        FROM unnest(%(lexical_scopes)s::text[], %(lexical_ids)s::text[], %(lexical_lengths)s::int[],
            %(lexical_words)s::text[], %(lexical_frequencies)s::text[]) AS d(scope, id, length, words, frequencies)
    ), lexical_word AS MATERIALIZED (
        SELECT d.scope, d.id, d.length, w.term, w.frequency
        FROM lexical_new d
        CROSS JOIN LATERAL unnest(d.terms, string_to_array(d.frequencies, ' ')::int[]) AS w(term, frequency)
    ), lexical_scoped AS (
        INSERT INTO {schema}.lexical_scope AS s (tenant_id, scope, document_count, total_length)
        SELECT %(tenant)s, scope, count(*), sum(length) FROM lexical_new GROUP BY scope ORDER BY scope
        ON CONFLICT (tenant_id, scope) DO UPDATE SET
            document_count = s.document_count + EXCLUDED.document_count,
            total_length = s.total_length + EXCLUDED.total_length
        RETURNING scope
    ), lexical_counted AS (
        -- Joined with `lexical_scoped`, so that the scope's row is locked before any of its terms.
        INSERT INTO {schema}.lexical_term AS t (tenant_id, scope, term, document_count)
        SELECT %(tenant)s, scope, term, count(*) FROM lexical_word JOIN lexical_scoped USING (scope)
        GROUP BY scope, term ORDER BY scope, term
        ON CONFLICT (tenant_id, scope, term) DO UPDATE SET
            document_count = t.document_count + EXCLUDED.document_count
    ), lexical_added AS (
        INSERT INTO {schema}.lexical_document (tenant_id, scope, document_id, length, terms)
        SELECT %(tenant)s, scope, id, length, terms FROM lexical_new
    ), lexical_posted AS (
        INSERT INTO {schema}.lexical_posting (tenant_id, scope, term, document_id, frequency, length)
        SELECT %(tenant)s, scope, term, id, frequency, length FROM lexical_word
    )"""

# Fences: each term is looked up by its key, whatever the planner guesses of tables that were never analysed.
_BM25 = """
    lexical_asked AS MATERIALIZED (
        SELECT t.scope, t.term, a.number, s.document_count,
            ln(1 + (s.document_count - t.document_count + 0.5) / (t.document_count + 0.5)) AS idf,
            s.total_length::double precision / s.document_count AS mean_length,
            t.document_count < sum(t.document_count) OVER rarest AND sum(t.document_count) OVER rarest
                > %(lexical_budget)s AS left_out
        FROM unnest(%(lexical_terms)s::text[]) WITH ORDINALITY AS a (term, number)
        CROSS JOIN LATERAL (
            SELECT * FROM {schema}.lexical_term t
            WHERE t.tenant_id = %(tenant)s AND t.scope = ANY(%(lexical_scopes)s) AND t.term = a.term OFFSET 0
        ) t
        JOIN {schema}.lexical_scope s ON s.tenant_id = %(tenant)s AND s.scope = t.scope
        WHERE t.document_count > 0 AND s.document_count > 0
        WINDOW rarest AS (ORDER BY t.document_count, t.scope, t.term)
    ), lexical_hit AS MATERIALIZED (
        SELECT p.scope, p.document_id, a.number::int, p.frequency, p.length, {weight} AS weight
        FROM lexical_asked a
        CROSS JOIN LATERAL (
            SELECT * FROM {schema}.lexical_posting p
            WHERE p.tenant_id = %(tenant)s AND p.scope = a.scope AND p.term = a.term
            ORDER BY p.document_id DESC LIMIT %(lexical_budget)s
        ) p
        WHERE NOT a.left_out
    ), lexical_match AS (
        SELECT scope, document_id, sum(weight) AS bm25 FROM lexical_hit GROUP BY scope, document_id
    )"""

_REST = """
    lexical_rest AS MATERIALIZED (
        SELECT p.scope, p.document_id, a.number::int, p.frequency, p.length, {weight} AS weight
        FROM lexical_asked a CROSS JOIN lexical_chosen c
        CROSS JOIN LATERAL (
            SELECT * FROM {schema}.lexical_posting p
            WHERE p.tenant_id = %(tenant)s AND p.scope = a.scope AND p.term = a.term AND p.document_id = c.id OFFSET 0
        ) p
        WHERE a.left_out
    )"""

_WEIGHT = f"a.idf * p.frequency * ({K1} + 1) / (p.frequency + {K1} * (1 - {B} + {B} * p.length / a.mean_length))"

_STATISTICS = """(
    SELECT json_agg(json_build_array(scope, number, idf, mean_length, document_count)) FROM lexical_asked)"""

_LOCK = """
    SELECT 1 FROM {schema}.lexical_scope WHERE tenant_id = %(tenant)s AND scope = %(scope)s FOR UPDATE"""

_REMOVE = """
    WITH gone AS (
        DELETE FROM {schema}.lexical_document
        WHERE tenant_id = %(tenant)s AND scope = %(scope)s AND document_id = ANY(%(ids)s)
        RETURNING document_id, length, terms
    ), word AS (
        SELECT document_id, unnest(terms) AS term FROM gone
    ), postings AS (
        DELETE FROM {schema}.lexical_posting p USING word
        WHERE p.tenant_id = %(tenant)s AND p.scope = %(scope)s
            AND p.term = word.term AND p.document_id = word.document_id
    ), counters AS (
        UPDATE {schema}.lexical_term t SET document_count = t.document_count - w.documents
        FROM (SELECT term, count(*) AS documents FROM word GROUP BY term) w
        WHERE t.tenant_id = %(tenant)s AND t.scope = %(scope)s AND t.term = w.term
    ), total AS (
        UPDATE {schema}.lexical_scope s
        SET document_count = s.document_count - g.documents, total_length = s.total_length - g.length
        FROM (SELECT count(*) AS documents, coalesce(sum(length), 0) AS length FROM gone) g
        WHERE s.tenant_id = %(tenant)s AND s.scope = %(scope)s
    )
    SELECT (SELECT count(*) FROM gone) AS removed, (SELECT array_agg(DISTINCT term) FROM word) AS terms"""

_PRUNE = """
    DELETE FROM {schema}.lexical_term
    WHERE tenant_id = %(tenant)s AND scope = %(scope)s AND term = ANY(%(terms)s) AND document_count <= 0"""

_REMOVE_SCOPE = (
    "DELETE FROM {schema}.lexical_posting WHERE tenant_id = %(tenant)s AND scope = %(scope)s",
    "DELETE FROM {schema}.lexical_document WHERE tenant_id = %(tenant)s AND scope = %(scope)s",
    "DELETE FROM {schema}.lexical_term WHERE tenant_id = %(tenant)s AND scope = %(scope)s",
    "DELETE FROM {schema}.lexical_scope WHERE tenant_id = %(tenant)s AND scope = %(scope)s",
)

# The counters are updated in place by every write, which is cheap while their pages have room for a second
# version.
_CREATE = {
    "lexical_scope": """
    CREATE TABLE {schema}.lexical_scope (
        tenant_id text NOT NULL,
        scope text NOT NULL,
        document_count bigint NOT NULL,
        total_length bigint NOT NULL,
        CONSTRAINT lexical_scope_pkey PRIMARY KEY (tenant_id, scope)
    ) WITH (fillfactor = 70)""",
    "lexical_term": """
    CREATE TABLE {schema}.lexical_term (
        tenant_id text NOT NULL,
        scope text NOT NULL,
        term text COLLATE "C" NOT NULL,
        document_count bigint NOT NULL,
        CONSTRAINT lexical_term_pkey PRIMARY KEY (tenant_id, scope, term)
    ) WITH (fillfactor = 70)""",
    "lexical_document": """
    CREATE TABLE {schema}.lexical_document (
        tenant_id text NOT NULL,
        scope text NOT NULL,
        document_id text NOT NULL,
        length integer NOT NULL,
        terms text[] NOT NULL,
        CONSTRAINT lexical_document_pkey PRIMARY KEY (tenant_id, scope, document_id)
    )""",
    "lexical_posting": """
    CREATE TABLE {schema}.lexical_posting (
        tenant_id text NOT NULL,
        scope text NOT NULL,
        term text COLLATE "C" NOT NULL,
        document_id text NOT NULL,
        frequency integer NOT NULL,
        length integer NOT NULL,
        CONSTRAINT lexical_posting_pkey PRIMARY KEY (tenant_id, scope, term, document_id)
    )""",
}
