"""Strata: what is said of served answers is counted, closes them, and opens them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import psycopg
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.semantic_cache import strata
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key, request_id
from tests.contract.semantic_cache.test_semantic import ASKED, OTHER_WORDS, first, near
from tests.support.hosting import Replica, failure

Start = Callable[..., AbstractAsyncContextManager[Replica]]
STRATUM = "shared/semantic/0.95/guards"


async def waiting(cache: Asker, count: int) -> list[pb.HitSample]:
    """The pairs that wait, once they are so many."""
    found: list[pb.HitSample] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += (await cache.stub.TakeSamples(pb.TakeSamplesRequest())).samples
            await asyncio.sleep(0.01)
    return found


async def say(cache: Asker, sample_id: str, verdict: pb.Verdict.ValueType) -> pb.JudgeSampleResponse:
    request = pb.JudgeSampleRequest(request_id=request_id(), sample_id=sample_id, verdict=verdict)
    return await cache.stub.JudgeSample(request)


async def stratum(cache: Asker, name: str = STRATUM) -> pb.StratumStats:
    stats = await cache.stub.GetStats(pb.GetStatsRequest())
    return next(one for one in stats.strata if one.stratum == name)


async def test_served_pairs_wait_to_be_judged_and_a_verdict_counts(joined: Start) -> None:
    async with joined(sample_rate=1.0) as replica:
        cache = await asker(replica, user="ann")
        entry_id = await cache.store(first(), "By mail.")
        assert await cache.reason(first()) == "HIT"
        assert await cache.reason(near(0.96)) == "HIT"
        (sample,) = await waiting(cache, 1)
        assert (sample.asked_question, sample.stored_question) == (OTHER_WORDS, ASKED)
        assert (sample.answer, sample.entry_id, sample.served) == ("By mail.", entry_id, True)
        assert sample.stratum == STRATUM
        assert not (await cache.stub.TakeSamples(pb.TakeSamplesRequest())).samples
        said = await say(cache, sample.sample_id, pb.VERDICT_RIGHT)
        assert (said.counted, said.closed) == (True, False)
        assert not (await say(cache, sample.sample_id, pb.VERDICT_RIGHT)).counted
        found = await stratum(cache)
        assert (found.judged_count, found.wrong_count, found.closed) == (1, 0, False)
        stats = await cache.stub.GetStats(pb.GetStatsRequest())
        assert stats.precision == 1.0
        assert stats.precision_lower_bound == pytest.approx(0.05, abs=1e-6)


async def test_a_second_wrong_answer_closes_the_stratum_for_all_replicas_and_others_stay(joined: Start) -> None:
    async with joined(strata_seconds=0.05) as replica, joined() as second:
        cache, other = await asker(replica), await asker(second)
        assert await other.reason(near(0.96)) == "NOT_FOUND"
        for closed in (False, True):
            entry_id = await cache.store(first())
            assert await cache.reason(near(0.96)) == "HIT"
            await cache.stub.Feedback(
                pb.FeedbackRequest(
                    request_id=request_id(), entry_id=entry_id, verdict=pb.VERDICT_WRONG, question=OTHER_WORDS
                )
            )
            # Without a vector of its own, Feedback embeds the question, which the peers put elsewhere.
            name = next(one.stratum for one in (await cache.stub.GetStats(pb.GetStatsRequest())).strata)
            assert (await stratum(cache, name)).closed == closed
        entry_id = await cache.store(first())
        assert await cache.reason(near(0.96)) == "HIT"
        assert name == "shared/semantic/0.00/guards"


async def closed_by_verdicts(cache: Asker) -> str:
    """Two wrong verdicts in a stratum; an entry that stands in it."""
    for _ in range(2):
        await cache.store(first())
        assert await cache.reason(near(0.96)) == "HIT"
        (sample,) = await waiting(cache, 1)
        said = await say(cache, sample.sample_id, pb.VERDICT_WRONG)
        assert await cache.reason(near(0.96)) == "NOT_FOUND"
    assert said.closed
    return await cache.store(first())


async def test_a_closed_stratum_serves_nothing_is_watched_and_opens_by_right_verdicts(joined: Start) -> None:
    async with joined(sample_rate=1.0, wrong_limit=0.2) as replica:
        cache = await asker(replica)
        await closed_by_verdicts(cache)
        assert await cache.reason(near(0.96)) == "STRATUM_CLOSED"
        assert await cache.reason(first()) == "HIT"
        assert await cache.reason(near(0.93)) == "HIT"
        needed = next(n for n in range(2, 1000) if not strata.is_closed(n, 2, 0.2)) - 2
        for number in range(needed):
            assert (await stratum(cache)).closed
            asked = near(0.96)
            asked.question = f"{OTHER_WORDS}{'?' * number}"
            assert await cache.reason(asked) in ("STRATUM_CLOSED", "HIT")
            samples = [one for one in await waiting(cache, 1) if one.stratum == STRATUM]
            await say(cache, samples[0].sample_id, pb.VERDICT_RIGHT)
        assert not (await stratum(cache)).closed
        assert await cache.reason(near(0.96)) == "HIT"


async def test_an_administrator_opens_a_stratum_and_nobody_else(joined: Start) -> None:
    async with joined(sample_rate=1.0) as replica:
        cache = await asker(replica)
        await closed_by_verdicts(cache)
        assert await cache.reason(near(0.96)) == "STRATUM_CLOSED"
        request = pb.OpenStratumRequest(request_id=request_id(), stratum=STRATUM)
        user = await asker(replica, service="", scopes=())
        assert (await failure(user.stub.OpenStratum(request))).reason == errors_pb2.REASON_CALLER_NOT_ALLOWED
        administrator = await asker(replica, service="")
        assert (await administrator.stub.OpenStratum(request)).opened
        assert await cache.reason(near(0.96)) == "HIT"


async def test_a_state_that_cannot_be_read_closes_all(joined: Start, owner_url: str) -> None:
    async with joined(strata_seconds=0.01) as replica:
        cache = await asker(replica)
        await cache.store(first())
        assert await cache.reason(near()) == "HIT"
        async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as connection:
            await connection.execute("ALTER TABLE semantic_cache.stratum RENAME TO away")
            async with asyncio.timeout(10):
                while await cache.reason(near()) != "STRATUM_CLOSED":
                    pass
            assert await cache.reason(first()) == "HIT"
            await connection.execute("ALTER TABLE semantic_cache.away RENAME TO stratum")
        async with asyncio.timeout(10):
            while await cache.reason(near()) != "HIT":
                pass


async def test_pairs_are_bounded_and_go_with_their_user(joined: Start) -> None:
    async with joined(sample_rate=1.0, samples_max=2) as replica:
        cache = await asker(replica, user="ann")
        await cache.store(first())
        for number in range(5):
            asked = near(0.96)
            asked.question = f"{OTHER_WORDS}{'?' * number} "
            assert await cache.reason(asked) == "HIT"
        asked = near(0.96)
        async with asyncio.timeout(10):
            while (await cache.purge(user_id="bob"))["semantic_cache.hit_sample"] != (0, 0):
                pass
            counted = 0
            while counted < 1:
                counted = len((await cache.stub.TakeSamples(pb.TakeSamplesRequest())).samples)
        assert counted <= 2
        assert (await cache.purge(user_id="ann"))["semantic_cache.hit_sample"][0] in (1, 2)
        assert not (await cache.stub.TakeSamples(pb.TakeSamplesRequest())).samples
        assert key(ASKED)
