"""The semantic tier: what other words are served, and everything that keeps them from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
import redis

from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key
from tests.contract.semantic_cache.peers import Peers, beside, direction, with_vector
from tests.support.hosting import Replica

ASKED, OTHER_WORDS = "How do I reset my password?", "How can I reset my password?"
Start = Callable[..., AbstractAsyncContextManager[Replica]]


def near(score: float = 0.95, **changes: object) -> pb.CacheKey:
    """Other words whose vector is so near."""
    return with_vector(key(OTHER_WORDS, **changes), beside("password", score))  # type: ignore[arg-type]


def first(**changes: object) -> pb.CacheKey:
    """The first question, with its vector."""
    return with_vector(key(ASKED, **changes), direction("password"))  # type: ignore[arg-type]


async def test_other_words_of_the_same_meaning_are_served(asking: Asker, peers: Peers) -> None:
    entry_id = await asking.store(first(), "By mail.")
    hit = (await asking.look_up(near())).hit
    assert (hit.tier, hit.entry.entry_id, hit.entry.answer) == (pb.TIER_SEMANTIC, entry_id, "By mail.")
    assert hit.score == pytest.approx(0.95, abs=0.002)
    assert not peers.embedded
    stats = await asking.stub.GetStats(pb.GetStatsRequest())
    assert (stats.semantic_hit_count, stats.exact_hit_count, stats.hit_rate) == (1, 0, 0.5)
    assert (stats.semantic_available, stats.index, stats.wrong_limit) == (True, "process", 0.01)


async def test_the_service_embeds_each_question_once(asking: Asker, peers: Peers) -> None:
    peers.vectors = {ASKED: direction("password"), OTHER_WORDS: beside("password", 0.9)}
    await asking.store(key(ASKED))
    assert await asking.answer(key(OTHER_WORDS)) == "9 to 18"
    assert await asking.answer(key(OTHER_WORDS)) == "9 to 18"
    assert peers.embedded == [ASKED, OTHER_WORDS]


async def test_a_vector_of_another_space_is_not_believed(asking: Asker, peers: Peers) -> None:
    await asking.store(first())
    foreign = with_vector(key(OTHER_WORDS), direction("password"), space="other@32")
    assert await asking.reason(foreign) == "BELOW_THRESHOLD"
    assert peers.embedded == [OTHER_WORDS]


async def test_below_the_threshold_nothing_is_served(asking: Asker) -> None:
    await asking.store(first())
    miss = (await asking.look_up(near(0.84))).miss
    assert miss.reason == pb.MISS_REASON_BELOW_THRESHOLD
    assert miss.best_score == pytest.approx(0.84, abs=0.002)


async def test_an_uncalibrated_space_finds_the_same_question_only(joined: Start, peers: Peers) -> None:
    peers.calibrated = False
    async with joined(threshold=0.5) as replica:
        cache = await asker(replica)
        await cache.store(first())
        assert await cache.reason(near(1.0)) == "NOT_FOUND"
        assert await cache.reason(first()) == "HIT"
        assert not (await cache.stub.GetStats(pb.GetStatsRequest())).semantic_available


async def test_while_embedding_is_down_the_same_question_is_found(asking: Asker, peers: Peers) -> None:
    await asking.store(first())
    peers.down = True
    assert await asking.reason(key(OTHER_WORDS)) == "NOT_FOUND"
    assert await asking.reason(key(ASKED)) == "HIT"


@pytest.mark.parametrize(
    ("stored", "asked", "guard"),
    [
        ("What is the fee for 2 cards?", "What is the fee for 3 cards?", "number"),
        ("Can I bring my dog into the hotel?", "Can I not bring my dog into the hotel?", "negation"),
        ("What is the weather like in Paris?", "What is the weather like in Berlin?", "place"),
    ],
)
async def test_a_guard_refuses_what_a_cosine_cannot_see(asking: Asker, stored: str, asked: str, guard: str) -> None:
    """Peers' complaint: opposite, other numbers and other names are served at a cosine of 0.9 and more
    (vllm-project/semantic-router #2691, #36; zilliztech/GPTCache #694).
    """
    await asking.store(with_vector(key(stored), direction("it")))
    miss = (await asking.look_up(with_vector(key(asked), beside("it", 0.99)))).miss
    assert (pb.MissReason.Name(miss.reason), miss.guard) == ("MISS_REASON_GUARD_REFUSED", guard)
    (count,) = [one.count for one in (await asking.stub.GetStats(pb.GetStatsRequest())).misses if one.guard == guard]
    assert count == 1


@pytest.mark.parametrize(
    "other",
    [
        near(agent="agent-2"),
        near(user="ann"),
        near(fingerprint="b" * 64),
    ],
)
async def test_other_scopes_and_fingerprints_are_not_neighbours(asking: Asker, other: pb.CacheKey) -> None:
    await asking.store(first())
    assert await asking.reason(other) == "NOT_FOUND"


async def test_tenants_are_not_neighbours(meaning: Replica, asking: Asker) -> None:
    """Peers' complaint: an answer crosses tenants (vllm-project/semantic-router #1448; BerriAI/litellm #19575)."""
    await asking.store(first(user="ann"))
    foreign = await asker(meaning, tenant="other")
    assert await foreign.reason(near(user="ann")) == "NOT_FOUND"
    assert not (await foreign.stub.Explain(pb.ExplainRequest(key=near(user="ann")))).candidates


async def test_a_row_of_another_place_is_not_believed_whatever_the_index_says(asking: Asker, redis_url: str) -> None:
    await asking.store(first())
    await asking.store(first(user="ann"), "of ann")
    with redis.Redis.from_url(redis_url) as client:
        rows = {
            name: client.get(name) for name in client.keys("mneme:query:{*}:*") if len(name.rpartition(b":")[2]) == 64
        }
        (shared,) = [name for name in rows if b"/" not in name]
        (private,) = [name for name in rows if b"/" in name]
        own, foreign = rows[shared], rows[private]
        assert isinstance(own, bytes)
        assert isinstance(foreign, bytes)
        client.set(shared, own[:16] + foreign[16:])
    assert await asking.reason(near()) == "NOT_FOUND"


async def test_any_change_of_memory_makes_other_words_unservable(asking: Asker) -> None:
    await asking.store(first())
    assert await asking.reason(near(revisions={"agent-1 blocks": 2})) == "BASIS_CHANGED"
    assert await asking.reason(near()) == "HIT"


async def test_emptied_and_removed_entries_are_no_neighbours(asking: Asker) -> None:
    entry_id = await asking.store(first())
    await asking.stub.Invalidate(pb.InvalidateRequest(scope=first().scope))
    assert await asking.reason(near()) == "NOT_FOUND"
    entry_id = await asking.store(first())
    assert await asking.reason(near()) == "HIT"
    await asking.stub.Invalidate(pb.InvalidateRequest(entry_id=entry_id))
    assert await asking.reason(near()) == "NOT_FOUND"


async def test_ended_neighbours_do_not_hide_living_ones(asking: Asker, redis_url: str) -> None:
    """Peers' complaint: expired rows eat the nearest k (RediSearch/RediSearch pull 10089)."""
    for number in range(20):
        asked = with_vector(key(f"How do I reset my password number {number}?"), beside("password", 0.999, f"{number}"))
        await asking.store(asked, "gone")
    with redis.Redis.from_url(redis_url) as client:
        client.delete(*[name for name in client.keys("mneme:query:{*}:*") if len(name.rpartition(b":")[2]) == 64])
    await asking.store(first(), "alive")
    assert await asking.answer(near(0.9)) == "alive"


async def test_explain_shows_candidates_with_scores_and_verdicts(asking: Asker) -> None:
    await asking.store(first())
    explained = await asking.stub.Explain(pb.ExplainRequest(key=near(revisions={"agent-1 blocks": 2})))
    (candidate,) = explained.candidates
    assert (candidate.tier, candidate.entry.question) == (pb.TIER_SEMANTIC, ASKED)
    assert candidate.score == pytest.approx(0.95, abs=0.002)
    assert candidate.guards
    assert all(verdict.passed for verdict in candidate.guards)
    assert list(candidate.changed_scopes) == ["agent-1 blocks"]
    assert (await asking.stub.GetStats(pb.GetStatsRequest())).lookup_count == 1


async def test_a_second_replica_and_one_that_starts_later_find_the_same(joined: Start) -> None:
    async with joined() as one, joined() as two:
        writer, reader = await asker(one), await asker(two)
        assert await reader.reason(near()) == "NOT_FOUND"
        await writer.store(first())
        assert await reader.reason(near()) == "HIT"
    async with joined() as later:
        assert await (await asker(later)).reason(near()) == "HIT"


async def test_a_wiped_redis_forgets_neighbours_and_finds_new_ones(asking: Asker, redis_url: str) -> None:
    await asking.store(first())
    assert await asking.reason(near()) == "HIT"
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    assert await asking.reason(near()) == "NOT_FOUND"
    await asking.store(first(), "again")
    assert await asking.answer(near()) == "again"
