"""How many answers the semantic cache reuses, and how often it is wrong: on edited pairs, and on a store's questions.

The stream goes through Lookup and Put of a running suite. The pairs, and the naive rule (an equal text, else the best
cosine of at least 0.85), are decided in this process, with the suite's own vectors.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import store_stream
from benchmarks.processes import ONE_PROCESS, deployed, fresh_stores
from benchmarks.report import Bar, Row
from benchmarks.store_stream import Asked, Tally
from mneme.cli.cache_pairs import Comparer
from mneme.client import Client
from mneme.semantic_cache.bounds import wrong_upper_bound
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

PREFIXES = ("quality_",)

DATA = "MNEME_EVALUATION_DATA"
"""Environment variable that names the folder with `semcache/*.jsonl.gz`, which are not part of this repository."""

_HALF, _SEED = "report", 20_261
_NAIVE = 0.85
_PUBLISHED_HITS = 85.7
_VALUES = ("number", "person", "negation", "location")
_FINGERPRINT = "0" * 64
_SETS = ("checklist_pairs", "paws_qqp_pairs", "qqp_pairs")


async def measure() -> list[Row]:
    """The rows of this part."""
    async with fresh_stores() as stores, deployed(stores, ONE_PROCESS) as suite, suite.client() as client:
        comparer = await Comparer.open(client)
        return [*await _pairs(comparer), *await _stream(client, comparer)]


async def _stream(client: Client, comparer: Comparer) -> list[Row]:
    file = store_stream.FOLDER / f"store_questions_{_HALF}.jsonl"
    _say(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    asked = store_stream.stream(store_stream.intents(_HALF), _SEED)
    await comparer.prepare([one.text for one in asked])
    ours, theirs = await _through_the_suite(client, asked), _naively(comparer, asked)
    _say(
        f"wrong hits: {ours.wrong} of {ours.hits}, of them between two near-misses of one intent: {ours.wrong_within}; "
        f"naive: {theirs.wrong} of {theirs.hits}, {theirs.wrong_within}. Published hit rate: {_PUBLISHED_HITS} %"
    )
    return [
        Row("quality_stream_precision", _precision(ours), "%", _precision(theirs)),
        Row("quality_stream_precision_at_least", _at_least(ours), "%", _at_least(theirs), Bar(99, at_least=True)),
        Row("quality_stream_reused", *_shares("reused", "answerable", ours, theirs), Bar(80, at_least=True)),
        Row("quality_stream_reused_of_questions", *_shares("reused", "in_question", ours, theirs)),
        Row("quality_stream_looked_up", *_shares("in_question", "answerable", ours, theirs)),
        Row("quality_stream_calls_saved", *_shares("hits", "asked", ours, theirs)),
        Row("quality_stream_wrong", float(ours.wrong), "hits", float(theirs.wrong)),
    ]


async def _through_the_suite(client: Client, asked: Sequence[Asked]) -> Tally:
    """Asks one question after the other, and stores the answer of each that is not served."""
    tally = Tally()
    scope = pb.CacheScope(agent_id="agent-store", user_id="one")
    for one in asked:
        key = pb.CacheKey(scope=scope, question=one.text, fingerprint=_FINGERPRINT)
        found = await client.semantic_cache.Lookup(pb.LookupRequest(key=key))
        served = found.hit.entry.answer if found.HasField("hit") else None
        looked_up = found.miss.reason not in (pb.MISS_REASON_STATEMENT, pb.MISS_REASON_ELLIPTICAL)
        tally.count(one, served, looked_up=looked_up)
        if served is None and looked_up:
            entry = pb.CacheEntry(answer=one.answer)
            await client.semantic_cache.Put(pb.PutRequest(request_id=str(uuid.uuid4()), key=key, entry=entry))
    return tally


def _naively(comparer: Comparer, asked: Sequence[Asked]) -> Tally:
    tally, exact = Tally(), dict[str, str]()
    rows = np.zeros((len(asked), comparer.space.dimensions), dtype=np.float32)
    answers: list[str] = []
    for one in asked:
        served, vector = exact.get(one.text), comparer.vector(one.text)
        if served is None and answers:
            scores = rows[: len(answers)] @ vector
            best = int(np.argmax(scores))
            served = answers[best] if scores[best] >= _NAIVE else None
        tally.count(one, served, looked_up=True)
        if served is None:
            rows[len(answers)] = vector
            answers.append(one.answer)
            exact[one.text] = one.answer
    return tally


async def _pairs(comparer: Comparer) -> list[Row]:
    folder = os.environ.get(DATA)
    if folder is None:
        _say(f"the pairs are left out: {DATA} names no folder with semcache/*.jsonl.gz")
        return []
    rows = _read(Path(folder, "semcache"))
    await comparer.prepare([row[name] for row in rows for name in ("q1", "q2")])
    # (kind, same): pairs, ours served, naively served.
    counts: dict[tuple[str, bool], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        compared = await comparer.compare(row["q1"], row["q2"])
        ours = (compared.exact and compared.passed) or (compared.passed and compared.score >= comparer.threshold)
        count = counts[row.get("kind", row["set"]), bool(row["same"])]
        naively = compared.exact or compared.score >= _NAIVE
        count[:] = count[0] + 1, count[1] + ours, count[2] + naively
    for (kind, same), count in sorted(counts.items()):
        answer = "same" if same else "other"
        _say(f"{kind}, {answer} answer: {count[0]} pairs, served {count[1]}, naively {count[2]}")
    edits = {kind for kind, same in counts if not same} - {"qqp_pairs", "paws_qqp_pairs"}
    return [
        _share("quality_pairs_wrong_values", counts, _VALUES, same=False, bar=Bar(0.5)),
        _share("quality_pairs_wrong_edits", counts, sorted(edits), same=False, bar=Bar(2)),
        _share("quality_pairs_wrong_reordered", counts, ["paws_qqp_pairs"], same=False),
        _share("quality_pairs_paraphrases", counts, sorted({kind for kind, _ in counts}), same=True),
    ]


def _share(
    name: str, counts: dict[tuple[str, bool], list[int]], kinds: Sequence[str], *, same: bool, bar: Bar | None = None
) -> Row:
    pairs, ours, naive = (
        sum(counts[kind, same][place] for kind in kinds if (kind, same) in counts) for place in range(3)
    )
    return Row(name, 100 * ours / pairs, "%", 100 * naive / pairs, bar)


def _shares(part: str, whole: str, ours: Tally, theirs: Tally) -> tuple[float, str, float]:
    mine, other = (100 * getattr(tally, part) / max(1, getattr(tally, whole)) for tally in (ours, theirs))
    return mine, "%", other


def _precision(tally: Tally) -> float:
    return 100 * (1 - tally.wrong / max(1, tally.hits))


def _at_least(tally: Tally) -> float:
    return 100 * (1 - wrong_upper_bound(tally.hits, tally.wrong))


def _read(folder: Path) -> list[dict[str, str]]:
    rows = []
    for name in _SETS:
        content = (folder / f"{name}.jsonl.gz").read_bytes()
        _say(f"{name} {hashlib.sha256(content).hexdigest()}")
        lines = gzip.decompress(content).decode().splitlines()
        rows += [json.loads(line) | {"set": name} for line in lines]
    return [row for row in rows if row["q1"].strip() and row["q2"].strip()]


def _say(text: str) -> None:
    Console(highlight=False).print(text, soft_wrap=True)
