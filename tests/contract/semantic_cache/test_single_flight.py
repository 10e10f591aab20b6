"""One of many equal askers answers; the others wait for that answer, over replicas and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from mneme.semantic_cache.service import SemanticCacheComponent, build
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key
from tests.support.hosting import Hosting, Replica


@pytest.fixture
async def second_replica(hosting: Hosting, replica: Replica) -> AsyncIterator[Replica]:
    """Another replica on the same stores."""
    async with hosting.replica("semantic_cache", build) as running:
        yield running


@pytest.fixture
async def second(second_replica: Replica) -> Asker:
    """The same caller at the second replica."""
    return await asker(second_replica)


def waiting_at(replica: Replica) -> int:
    """Askers of a replica that wait for another's answer."""
    component = cast("SemanticCacheComponent", replica.component)
    return sum(watch.waiting for watch in component._answering._watchers._watches.values())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - the condition lies behind an RPC
            await asyncio.sleep(0.01)


async def test_of_a_hundred_askers_at_two_replicas_one_answers(
    cache_: Asker, second: Asker, replica: Replica, second_replica: Replica
) -> None:
    leases: list[pb.Lease] = []

    async def ask(caller: Asker) -> str:
        outcome = await caller.acquire(key(), wait=20)
        if outcome.HasField("lease"):
            leases.append(outcome.lease)
            await until(lambda: waiting_at(replica) + waiting_at(second_replica) == 99)
            assert (await caller.commit(key(), outcome.lease.lease_token, "the one answer")).stored
            return "the one answer"
        assert outcome.HasField("hit"), outcome
        return outcome.hit.entry.answer

    answers = await asyncio.gather(*(ask(caller) for caller in (cache_, second) for _ in range(50)))
    assert len(leases) == 1
    assert set(answers) == {"the one answer"}


async def test_without_a_wait_the_second_asker_gets_a_miss(cache_: Asker, second: Asker) -> None:
    assert (await cache_.acquire(key())).HasField("lease")
    assert (await second.acquire(key())).miss.reason == pb.MISS_REASON_NOT_FOUND
    assert (await second.acquire(key(), wait=0.1)).miss.reason == pb.MISS_REASON_NOT_FOUND


async def test_after_an_abort_one_of_those_who_wait_answers(cache_: Asker, second: Asker) -> None:
    lease = (await cache_.acquire(key())).lease
    waiting = [asyncio.create_task(caller.acquire(key(), wait=20)) for caller in (cache_, second, second)]
    await cache_.stub.Abort(pb.AbortRequest(lease_token=lease.lease_token, key=key()))
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (first,) = done
    assert first.result().HasField("lease")
    await cache_.commit(key(), first.result().lease.lease_token)
    for other in others:
        assert (await other).hit.entry.answer == "9 to 18"
    assert not (await cache_.commit(key(), lease.lease_token)).stored


async def test_a_dead_answerer_is_followed_by_one_who_waits(cache_: Asker, second: Asker) -> None:
    dead = (await cache_.acquire(key(), lease=0.2)).lease
    outcome = await second.acquire(key(), wait=20)
    assert outcome.HasField("lease")
    assert not (await cache_.commit(key(), dead.lease_token, "too late")).stored
    assert (await second.commit(key(), outcome.lease.lease_token, "in time")).stored
    assert await cache_.answer(key()) == "in time"


async def test_a_repeated_commit_says_the_same(cache_: Asker) -> None:
    lease = (await cache_.acquire(key())).lease
    first = await cache_.commit(key(), lease.lease_token)
    assert first.stored
    assert await cache_.commit(key(), lease.lease_token) == first


async def test_a_foreign_token_stores_nothing_and_ends_nothing(cache_: Asker) -> None:
    lease = (await cache_.acquire(key())).lease
    forged = f"{'0' * 32}.{lease.lease_token.partition('.')[2]}"
    assert not (await cache_.commit(key(), forged)).stored
    await cache_.stub.Abort(pb.AbortRequest(lease_token=forged, key=key()))
    assert (await cache_.acquire(key())).HasField("miss")
    assert (await cache_.commit(key(), lease.lease_token)).stored


async def test_askers_with_newer_memory_do_not_wait_for_an_old_answer(cache_: Asker) -> None:
    old = (await cache_.acquire(key(revisions={"a": 1}))).lease
    new = (await cache_.acquire(key(revisions={"a": 2}))).lease
    assert (await cache_.commit(key(revisions={"a": 1}), old.lease_token, "old")).stored
    assert await cache_.reason(key(revisions={"a": 2})) == "BASIS_CHANGED"
    assert (await cache_.commit(key(revisions={"a": 2}), new.lease_token, "new")).stored
    assert await cache_.answer(key(revisions={"a": 2})) == "new"


async def test_an_answer_made_on_a_newer_basis_than_asked_for_is_kept_for_that_basis(cache_: Asker) -> None:
    lease = (await cache_.acquire(key(revisions={"a": 1}))).lease
    assert (await cache_.commit(key(revisions={"a": 2}), lease.lease_token)).stored
    assert await cache_.reason(key(revisions={"a": 1})) == "BASIS_CHANGED"
    assert await cache_.reason(key(revisions={"a": 2})) == "HIT"


async def test_those_who_waited_get_an_answer_that_counts_its_own_run(
    cache_: Asker, second: Asker, replica: Replica, second_replica: Replica
) -> None:
    before, after = key(revisions={"runs": 1}), key(revisions={"runs": 2})
    lease = (await cache_.acquire(before)).lease
    waiting = [asyncio.create_task(caller.acquire(before, wait=20)) for caller in (cache_, second) for _ in range(10)]
    await until(lambda: waiting_at(replica) + waiting_at(second_replica) == len(waiting))
    assert (await cache_.commit(after, lease.lease_token)).stored
    for task in waiting:
        assert (await task).hit.entry.answer == "9 to 18"
    assert await cache_.reason(before) == "BASIS_CHANGED"
    assert await cache_.reason(after) == "HIT"


async def test_an_answer_too_large_to_store_lets_the_next_one_answer(cache_: Asker) -> None:
    lease = (await cache_.acquire(key())).lease
    assert not (await cache_.commit(key(), lease.lease_token, "x" * 70_000)).stored
    assert (await cache_.acquire(key())).HasField("lease")


async def test_draining_lets_those_who_wait_go_on(cache_: Asker, replica: Replica) -> None:
    await cache_.acquire(key())
    waiting = asyncio.create_task(cache_.acquire(key(), wait=20))
    await until(lambda: waiting_at(replica) == 1)
    await replica.component.drain()
    assert (await waiting).HasField("miss")
