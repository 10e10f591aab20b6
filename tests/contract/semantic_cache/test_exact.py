"""The exact tier: what is served, and everything that keeps an entry from being served."""

from __future__ import annotations

import pytest
import redis

from mneme.errors.v1 import errors_pb2
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import QUESTION, Asker, asker, duration, key, request_id
from tests.support.hosting import Replica, failure


async def test_a_committed_answer_is_served_to_the_same_question(cache_: Asker) -> None:
    assert await cache_.reason(key()) == "NOT_FOUND"
    entry_id = await cache_.store(key())
    hit = (await cache_.look_up(key())).hit
    assert hit.tier == pb.TIER_EXACT
    assert hit.score == 1.0
    entry = hit.entry
    assert (entry.entry_id, entry.answer, entry.question) == (entry_id, "9 to 18", QUESTION)
    assert (entry.run_id, entry.model, entry.author) == ("run-1", "offline", "tester")
    assert entry.basis == key().basis


@pytest.mark.parametrize(
    "spelling",
    [
        "what are the opening hours of the berlin store",
        "  What  are the opening hours\tof the Berlin store ?? ",
        "Ｗｈａｔ are the opening hours of the Berlin store？",
    ],
)
async def test_spelling_does_not_matter(cache_: Asker, spelling: str) -> None:
    await cache_.store(key())
    assert await cache_.answer(key(spelling)) == "9 to 18"


@pytest.mark.parametrize(
    "other",
    [
        key("What are the opening hours of the Paris store?"),
        key(agent="agent-2"),
        key(user="ann"),
        key(fingerprint="b" * 64),
    ],
)
async def test_another_question_agent_user_or_fingerprint_is_not_found(cache_: Asker, other: pb.CacheKey) -> None:
    await cache_.store(key())
    assert await cache_.reason(other) == "NOT_FOUND"


@pytest.mark.parametrize(
    "revisions",
    [
        {"agent-1 blocks": 2},
        {"agent-1 blocks": 0},
        {"agent-1 blocks": 1, "agent-1 passages": 1},
        {"agent-2 blocks": 1},
        {},
    ],
)
async def test_any_change_of_memory_makes_an_answer_unservable(cache_: Asker, revisions: dict[str, int]) -> None:
    await cache_.store(key())
    assert await cache_.reason(key(revisions=revisions)) == "BASIS_CHANGED"
    assert await cache_.reason(key()) == "HIT"


async def test_the_order_of_revisions_does_not_matter(cache_: Asker) -> None:
    await cache_.store(key(revisions={"a": 1, "b": 2}))
    assert await cache_.reason(key(revisions={"b": 2, "a": 1})) == "HIT"


async def test_a_contradicting_basis_is_refused(cache_: Asker) -> None:
    asked = key(revisions={"a": 1})
    asked.basis.revisions.add(scope="a", revision=2)
    error = await failure(cache_.look_up(asked))
    assert (error.reason, error.metadata["field"]) == (errors_pb2.REASON_INVALID_FIELD, "key.basis.revisions")


async def test_statements_and_elliptical_questions_are_never_looked_up(cache_: Asker) -> None:
    for text, reason in (
        ("My name is Ann.", "STATEMENT"),
        ("And the other one?", "ELLIPTICAL"),
        ("那上海呢？", "ELLIPTICAL"),
    ):
        assert await cache_.reason(key(text)) == reason
        acquired = await cache_.acquire(key(text))
        assert pb.MissReason.Name(acquired.miss.reason) == f"MISS_REASON_{reason}"


async def test_entries_end_for_good_and_serving_does_not_prolong_them(cache_: Asker, redis_url: str) -> None:
    await cache_.store(key())
    entry = (await cache_.look_up(key())).hit.entry
    life = entry.expire_time.ToMilliseconds() - entry.create_time.ToMilliseconds()
    assert 0.9 * 1_800_000 - 1 <= life <= 1_800_000
    with redis.Redis.from_url(redis_url) as client:
        (name,) = [name for name in client.keys("mneme:query:{*}:*") if len(name.rpartition(b":")[2]) == 64]
        client.pexpire(name, 5000)
        assert await cache_.reason(key()) == "HIT"
        assert client.pttl(name) <= 5000


async def test_a_short_life_is_kept_and_a_long_one_is_cut(cache_: Asker) -> None:
    await cache_.store(key(), life=60)
    entry = (await cache_.look_up(key())).hit.entry
    assert entry.expire_time.ToMilliseconds() - entry.create_time.ToMilliseconds() <= 60_000
    other = key("What are the opening hours of the Paris store?")
    await cache_.store(other, life=999_999)
    entry = (await cache_.look_up(other)).hit.entry
    assert entry.expire_time.ToMilliseconds() - entry.create_time.ToMilliseconds() <= 1_800_000


async def test_a_caller_can_refuse_old_answers_and_then_answers_itself(cache_: Asker) -> None:
    await cache_.store(key())
    response = await cache_.look_up(key(), max_age=0)
    assert response.miss.reason == pb.MISS_REASON_NOT_ADMITTED
    assert (await cache_.look_up(key(), max_age=3600)).HasField("hit")
    acquired = await cache_.stub.Acquire(pb.AcquireRequest(key=key(), max_age=duration(0)))
    assert acquired.lease.miss.reason == pb.MISS_REASON_NOT_ADMITTED


async def test_no_key_or_value_shows_a_question_or_an_answer(cache_: Asker, redis_url: str) -> None:
    await cache_.store(key(user="ann@example.com"), "the secret answer " * 50)
    with redis.Redis.from_url(redis_url) as client:
        names = client.keys()
        assert any(name.startswith(b"mneme:query:{acme:agent-1/") for name in names)
        for name in names:
            assert b"ann" not in name
            assert b"erlin" not in name
            dumped = client.dump(name) or b""
            assert b"secret answer" not in dumped
            assert client.pttl(name) > 0


async def test_put_stores_without_a_lease_and_a_retry_changes_nothing(cache_: Asker) -> None:
    request = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="curated"))
    first = await cache_.stub.Put(request)
    assert first.stored
    assert await cache_.stub.Put(request) == first
    assert await cache_.answer(key()) == "curated"
    request.entry.answer = "other"
    assert (await failure(cache_.stub.Put(request))).reason == errors_pb2.REASON_REQUEST_ID_REUSED


async def test_what_would_never_be_looked_up_is_not_put(cache_: Asker) -> None:
    request = pb.PutRequest(request_id=request_id(), key=key("And that one?"), entry=pb.CacheEntry(answer="curated"))
    error = await failure(cache_.stub.Put(request))
    assert (error.reason, error.metadata["field"]) == (errors_pb2.REASON_INVALID_FIELD, "key.question")


async def test_explain_shows_the_candidate_and_what_changed_and_counts_nothing(cache_: Asker) -> None:
    entry_id = await cache_.store(key())
    asked = key(revisions={"agent-1 blocks": 2, "kb-1": 5})
    explained = await cache_.stub.Explain(pb.ExplainRequest(key=asked))
    assert explained.miss.reason == pb.MISS_REASON_BASIS_CHANGED
    assert explained.normalised_question == "what are the opening hours of the berlin store"
    (candidate,) = explained.candidates
    assert candidate.entry.entry_id == entry_id
    assert not candidate.entry.answer
    assert list(candidate.changed_scopes) == ["agent-1 blocks", "kb-1"]
    stats = await cache_.stub.GetStats(pb.GetStatsRequest())
    assert stats.lookup_count == 1
    hit = await cache_.stub.Explain(pb.ExplainRequest(key=key()))
    assert hit.hit.entry.answer == "9 to 18"


async def test_stats_count_hits_misses_and_savings_by_tenant_and_agent(cache_: Asker, replica: Replica) -> None:
    await cache_.store(key())
    await cache_.answer(key())
    await cache_.answer(key(agent="agent-2"))
    await cache_.answer(key("My name is Ann."))
    stats = await cache_.stub.GetStats(pb.GetStatsRequest())
    assert (stats.lookup_count, stats.exact_hit_count, stats.semantic_hit_count) == (4, 1, 0)
    assert (stats.stored_count, stats.saved_token_count, stats.saved_seconds) == (1, 7, 1.5)
    misses = {miss.reason: miss.count for miss in stats.misses}
    assert misses == {pb.MISS_REASON_NOT_FOUND: 2, pb.MISS_REASON_STATEMENT: 1}
    assert stats.available
    one = await cache_.stub.GetStats(pb.GetStatsRequest(agent_id="agent-2"))
    assert (one.lookup_count, one.exact_hit_count) == (1, 0)
    foreign = await asker(replica, tenant="other")
    assert (await foreign.stub.GetStats(pb.GetStatsRequest())).lookup_count == 0


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"question": ""}, errors_pb2.REASON_INVALID_FIELD, "key.question"),
        ({"question": "a\0?"}, errors_pb2.REASON_INVALID_TEXT, "key.question"),
        ({"question": "a" * 4001}, errors_pb2.REASON_TEXT_TOO_LONG, "key.question"),
        ({"agent": "block-1"}, errors_pb2.REASON_INVALID_FIELD, "key.scope.agent_id"),
        ({"fingerprint": "xyz"}, errors_pb2.REASON_INVALID_FIELD, "key.fingerprint"),
        ({"fingerprint": ""}, errors_pb2.REASON_INVALID_FIELD, "key.fingerprint"),
        ({"revisions": {f"kb-{n}": 1 for n in range(257)}}, errors_pb2.REASON_INVALID_FIELD, "key.basis.revisions"),
    ],
)
async def test_bad_keys_are_named(cache_: Asker, changes: dict[str, object], reason: int, field: str) -> None:
    error = await failure(cache_.look_up(key(**changes)))  # type: ignore[arg-type]
    assert (error.reason, error.metadata["field"]) == (reason, field)


async def test_other_bad_input_is_named(cache_: Asker) -> None:
    stub = cache_.stub
    negative = await failure(stub.Acquire(pb.AcquireRequest(key=key(), max_wait=duration(-1))))
    assert negative.metadata["field"] == "max_wait"
    token = await failure(cache_.commit(key(), "nonsense"))
    assert token.metadata["field"] == "lease_token"
    empty = await failure(cache_.commit(key(), f"{'0' * 32}.{'0' * 32}", answer=""))
    assert empty.metadata["field"] == "entry.answer"
    nothing = await failure(stub.Invalidate(pb.InvalidateRequest()))
    assert nothing.metadata["field"] == "target"
    verdict = await failure(stub.Feedback(pb.FeedbackRequest(request_id=request_id(), entry_id="entry-1")))
    assert verdict.metadata["field"] == "verdict"
    huge = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="x" * 70_000))
    assert (await failure(stub.Put(huge))).reason == errors_pb2.REASON_TEXT_TOO_LONG


async def test_a_user_may_look_up_and_not_acquire(replica: Replica) -> None:
    user = await asker(replica, service="")
    assert await user.reason(key()) == "NOT_FOUND"
    assert (await failure(user.acquire(key()))).reason == errors_pb2.REASON_CALLER_NOT_ALLOWED
