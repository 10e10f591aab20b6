"""Invalidation, feedback and purges: what is removed stays removed."""

from __future__ import annotations

import psycopg
import pytest
import redis

from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key, request_id
from tests.support.hosting import Replica, failure

PARIS = "What are the opening hours of the Paris store?"


async def test_a_scope_is_emptied_at_once_and_others_stay(cache_: Asker) -> None:
    for asked in (key(), key(PARIS), key(user="ann"), key(agent="agent-2")):
        await cache_.store(asked)
    await cache_.stub.Invalidate(pb.InvalidateRequest(scope=key().scope))
    assert await cache_.reason(key()) == "NOT_FOUND"
    assert await cache_.reason(key(PARIS)) == "NOT_FOUND"
    assert await cache_.reason(key(user="ann")) == "HIT"
    assert await cache_.reason(key(agent="agent-2")) == "HIT"
    await cache_.store(key())
    assert await cache_.reason(key()) == "HIT"


async def test_an_answer_that_was_being_made_when_its_scope_was_emptied_is_not_stored(cache_: Asker) -> None:
    lease = (await cache_.acquire(key())).lease
    await cache_.stub.Invalidate(pb.InvalidateRequest(scope=key().scope))
    assert not (await cache_.commit(key(), lease.lease_token)).stored
    assert await cache_.reason(key()) == "NOT_FOUND"


async def test_a_lost_epoch_hides_entries_and_never_brings_them_back(cache_: Asker, redis_url: str) -> None:
    await cache_.store(key())
    await cache_.stub.Invalidate(pb.InvalidateRequest(scope=key().scope))
    with redis.Redis.from_url(redis_url) as client:
        client.delete("mneme:query:{acme:agent-1}:epoch")
    assert await cache_.reason(key()) == "NOT_FOUND"
    await cache_.store(key(PARIS))
    assert await cache_.reason(key()) == "NOT_FOUND"


async def test_one_entry_is_removed_by_its_id(cache_: Asker) -> None:
    entry_id = await cache_.store(key())
    await cache_.store(key(PARIS))
    assert (await cache_.stub.Invalidate(pb.InvalidateRequest(entry_id=entry_id))).removed_count == 1
    assert (await cache_.stub.Invalidate(pb.InvalidateRequest(entry_id=entry_id))).removed_count == 0
    assert await cache_.reason(key()) == "NOT_FOUND"
    assert await cache_.reason(key(PARIS)) == "HIT"


async def test_an_old_id_does_not_remove_the_entry_that_took_its_place(cache_: Asker) -> None:
    old = await cache_.store(key(revisions={"a": 1}))
    await cache_.store(key(revisions={"a": 2}))
    assert (await cache_.stub.Invalidate(pb.InvalidateRequest(entry_id=old))).removed_count == 0
    assert await cache_.reason(key(revisions={"a": 2})) == "HIT"


async def test_all_of_an_author_are_removed(cache_: Asker, replica: Replica) -> None:
    mallory = await asker(replica, user="mallory")
    await mallory.store(key(), "poison")
    await mallory.store(key(PARIS, agent="agent-2"), "poison")
    await cache_.store(key(agent="agent-3"))
    assert (await cache_.stub.Invalidate(pb.InvalidateRequest(author="mallory"))).removed_count == 2
    assert await cache_.reason(key()) == "NOT_FOUND"
    assert await cache_.reason(key(PARIS, agent="agent-2")) == "NOT_FOUND"
    assert await cache_.reason(key(agent="agent-3")) == "HIT"


async def test_a_wrong_answer_is_removed_and_counts(cache_: Asker) -> None:
    entry_id = await cache_.store(key(user="ann"))
    assert not (await cache_.feedback(entry_id, pb.VERDICT_RIGHT, "Asked so?")).removed
    assert await cache_.reason(key(user="ann")) == "HIT"
    assert (await cache_.feedback(entry_id, pb.VERDICT_WRONG)).removed
    assert await cache_.reason(key(user="ann")) == "NOT_FOUND"
    assert not (await cache_.feedback(entry_id, pb.VERDICT_WRONG)).removed
    exact, other_words = (await cache_.stub.GetStats(pb.GetStatsRequest(agent_id="agent-1"))).strata
    assert (exact.stratum, exact.judged_count, exact.wrong_count) == ("per_user/exact", 2, 2)
    assert exact.wrong_upper_bound == 1.0
    # Without a vector nobody knows how near the question was.
    assert (other_words.stratum, other_words.judged_count) == ("per_user/semantic/0.00/guards", 1)
    assert other_words.wrong_upper_bound == pytest.approx(0.95)


async def test_repeated_feedback_counts_once(cache_: Asker) -> None:
    entry_id = await cache_.store(key())
    request = pb.FeedbackRequest(request_id=request_id(), entry_id=entry_id, verdict=pb.VERDICT_WRONG)
    first = await cache_.stub.Feedback(request)
    assert first.removed
    assert await cache_.stub.Feedback(request) == first
    (stratum,) = (await cache_.stub.GetStats(pb.GetStatsRequest())).strata
    assert stratum.judged_count == 1


async def test_feedback_keeps_no_text(cache_: Asker, owner_url: str) -> None:
    entry_id = await cache_.store(key(user="ann"))
    await cache_.feedback(entry_id, pb.VERDICT_WRONG, "Where is the hidden treasure?")
    with psycopg.connect(owner_url) as connection:
        connection.execute("SET row_security = off")
        rows = connection.execute("SELECT s::text FROM semantic_cache.judged_sample s").fetchall()
        requests = connection.execute("SELECT r::text FROM semantic_cache.request r").fetchall()
    assert len(rows) == 1
    assert "treasure" not in str(rows) + str(requests)


async def test_a_purged_agent_has_nothing_left_and_takes_nothing_new(cache_: Asker, redis_url: str) -> None:
    entry_id = await cache_.store(key())
    await cache_.store(key(user="ann"))
    await cache_.store(key(agent="agent-2"))
    await cache_.feedback(entry_id, pb.VERDICT_RIGHT)
    late = (await cache_.acquire(key(PARIS))).lease
    counts = await cache_.purge(agent_id="agent-1")
    assert counts == {
        "mneme:query": (2, 0),
        "semantic_cache.judged_sample": (1, 0),
        "semantic_cache.hit_sample": (0, 0),
    }
    assert not (await cache_.commit(key(PARIS), late.lease_token)).stored
    put = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="late"))
    assert not (await cache_.stub.Put(put)).stored
    await cache_.feedback(entry_id, pb.VERDICT_RIGHT)
    for asked in (key(), key(user="ann"), key(PARIS)):
        assert await cache_.reason(asked) == "NOT_FOUND"
    assert await cache_.reason(key(agent="agent-2")) == "HIT"
    assert set((await cache_.purge(agent_id="agent-1")).values()) == {(0, 0)}
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    lease = (await cache_.acquire(key())).lease
    assert not (await cache_.commit(key(), lease.lease_token)).stored


async def test_a_forgotten_user_leaves_no_entry_also_not_among_the_shared_ones(cache_: Asker, replica: Replica) -> None:
    ann = await asker(replica, user="ann")
    entry_id = await ann.store(key(user="ann"))
    await ann.store(key(PARIS), "asked by ann")
    await cache_.store(key())
    await ann.feedback(entry_id, pb.VERDICT_RIGHT)
    counts = await cache_.purge(user_id="ann")
    assert counts == {
        "mneme:query": (2, 0),
        "semantic_cache.judged_sample": (1, 0),
        "semantic_cache.hit_sample": (0, 0),
    }
    assert await cache_.reason(key(user="ann")) == "NOT_FOUND"
    assert await cache_.reason(key(PARIS)) == "NOT_FOUND"
    assert await cache_.reason(key()) == "HIT"
    lease = (await ann.acquire(key(PARIS))).lease
    assert not (await ann.commit(key(PARIS), lease.lease_token)).stored


async def test_a_purge_by_conversation_is_refused_as_entries_are_not_kept_by_it(cache_: Asker) -> None:
    error = await failure(cache_.purge(conversation_id="conversation-1"))
    assert (error.reason, error.metadata["field"]) == (errors_pb2.REASON_INVALID_FIELD, "subject")


async def test_a_repeated_purge_gives_the_first_counts(cache_: Asker) -> None:
    await cache_.store(key())
    request = pb.PurgeDataRequest(request_id=request_id(), subject=common_pb2.PurgeSubject(agent_id="agent-1"))
    first = await cache_.stub.PurgeData(request)
    assert await cache_.stub.PurgeData(request) == first
