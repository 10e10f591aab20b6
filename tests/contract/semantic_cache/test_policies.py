"""Rules of sharing, keeping and leaving: enough users, fit answers, refresh, quota, near questions in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, duration, key, request_id
from tests.contract.semantic_cache.peers import beside, direction, with_vector
from tests.contract.semantic_cache.test_semantic import ASKED, first, near
from tests.support.hosting import Replica

Start = Callable[..., AbstractAsyncContextManager[Replica]]


def after(asked: pb.CacheKey, users: int) -> pb.CacheKey:
    """A question whose answer is served after so many users asked."""
    asked.shared_after_users = users
    return asked


async def test_a_shared_answer_waits_for_enough_different_users(meaning: Replica) -> None:
    ann, bob, eve = [await asker(meaning, user=user) for user in ("ann", "bob", "eve")]
    await ann.store(after(first(), 3))
    for _ in range(3):
        assert await ann.reason(after(first(), 3)) == "NOT_ADMITTED"
    assert await bob.reason(after(near(), 3)) == "NOT_ADMITTED"
    explained = await eve.stub.Explain(pb.ExplainRequest(key=after(first(), 3)))
    assert explained.HasField("hit")
    assert await bob.reason(after(first(), 3)) == "NOT_ADMITTED"
    assert await eve.reason(after(near(), 3)) == "HIT"
    assert await ann.reason(after(first(), 3)) == "HIT"


async def test_users_own_answers_wait_for_nobody(meaning: Replica) -> None:
    ann = await asker(meaning, user="ann")
    await ann.store(after(first(user="ann"), 5))
    assert await ann.reason(after(first(user="ann"), 5)) == "HIT"


@pytest.mark.parametrize("unfit", [value for value in pb.Unfit.values() if value])
async def test_an_unfit_answer_is_not_kept_and_ends_the_lease(asking: Asker, unfit: pb.Unfit.ValueType) -> None:
    lease = (await asking.acquire(key())).lease
    entry = pb.CacheEntry(answer="half of")
    request = pb.CommitRequest(lease_token=lease.lease_token, key=key(), entry=entry, unfit=[unfit])
    assert not (await asking.stub.Commit(request)).stored
    put = pb.PutRequest(request_id=request_id(), key=key(), entry=entry, unfit=[unfit])
    assert not (await asking.stub.Put(put)).stored
    assert (await asking.acquire(key())).HasField("lease")


async def test_one_caller_makes_an_old_answer_anew_while_all_are_served(joined: Start) -> None:
    """Peers' complaint 603 of redis-vl-python: a popular stale entry never dies."""
    async with joined(refresh_fraction=1e-9) as one, joined(refresh_fraction=1e-9) as two:
        cache, second = await asker(one), await asker(two)
        await cache.store(key(), "old")
        outcomes = await asyncio.gather(*(caller.acquire(key()) for caller in (cache, second) * 10))
        assert {outcome.hit.entry.answer for outcome in outcomes} == {"old"}
        (lease,) = [outcome.hit.refresh for outcome in outcomes if outcome.hit.HasField("refresh")]
        assert not (await cache.look_up(key())).hit.HasField("refresh")
        assert (await cache.commit(key(), lease.lease_token, "new")).stored
        assert await second.answer(key()) == "new"


async def test_a_fresh_answer_is_not_made_anew(asking: Asker) -> None:
    await asking.store(key())
    assert not (await asking.acquire(key())).hit.HasField("refresh")


async def test_above_the_quota_the_least_worthy_go(joined: Start) -> None:
    async with joined(tenant_bytes=10_000) as replica:
        cache, other = await asker(replica), await asker(replica, tenant="other")
        await other.store(key("Where is the hall?"), "x" * 3000)
        for place, tokens in (("office", 5000), ("garage", 10), ("kitchen", 5000)):
            asked = key(f"Where is the {place}?")
            lease = (await cache.acquire(asked)).lease
            entry = pb.CacheEntry(answer="x" * 3000, token_count=tokens)
            await cache.stub.Commit(pb.CommitRequest(lease_token=lease.lease_token, key=asked, entry=entry))
        found = [await cache.answer(key(f"Where is the {place}?")) for place in ("office", "garage", "kitchen")]
        assert [answer is not None for answer in found] == [True, False, True]
        assert await other.reason(key("Where is the hall?")) == "HIT"


async def test_near_questions_wait_for_one_answer(joined: Start) -> None:
    async with joined() as one, joined() as two:
        cache, second = await asker(one), await asker(two)
        lease = (await cache.acquire(first(), wait=20)).lease
        waiting = [asyncio.create_task(caller.acquire(near(), wait=20)) for caller in (cache, second) * 5]
        unlike = await second.acquire(with_vector(key("Who resets my password?"), beside("password", 0.97)), wait=0.1)
        assert unlike.HasField("lease")
        done, _ = await asyncio.wait(waiting, timeout=0.2)
        assert not done
        assert (await cache.commit(first(), lease.lease_token, "By mail.")).stored
        for task in waiting:
            outcome = await task
            assert (outcome.hit.tier, outcome.hit.entry.answer) == (pb.TIER_SEMANTIC, "By mail.")


async def test_of_near_questions_at_once_one_is_answered(joined: Start) -> None:
    async with joined() as one, joined() as two:
        callers, leases = [await asker(one), await asker(two)], []

        async def ask(number: int) -> str:
            asked = near(0.9 + number / 1000)
            asked.question = ASKED if number % 2 else near().question
            outcome = await callers[number % 2].acquire(asked, wait=20)
            if outcome.HasField("lease"):
                leases.append(number)
                await asyncio.sleep(0.3)
                await callers[number % 2].commit(asked, outcome.lease.lease_token, "By mail.")
                return "By mail."
            return outcome.hit.entry.answer

        assert set(await asyncio.gather(*map(ask, range(40)))) == {"By mail."}
        assert len(leases) == 1


async def test_those_who_wait_for_a_near_question_that_is_given_up_answer_it(asking: Asker) -> None:
    lease = (await asking.acquire(first(), wait=20)).lease
    waiting = asyncio.create_task(asking.acquire(near(), wait=20))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    await asking.stub.Abort(pb.AbortRequest(lease_token=lease.lease_token, key=first()))
    assert (await waiting).HasField("lease")


async def test_a_dead_answerer_of_a_near_question_is_followed(asking: Asker) -> None:
    request = pb.AcquireRequest(key=first(), max_wait=duration(20), lease_time=duration(0.2))
    assert (await asking.stub.Acquire(request)).HasField("lease")
    assert (await asking.acquire(near(), wait=20)).HasField("lease")
    assert direction("password").size
