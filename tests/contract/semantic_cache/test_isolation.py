"""Nobody is served, told of, or able to remove what is not theirs."""

from __future__ import annotations

import psycopg
import pytest

from mneme.errors.v1 import errors_pb2
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from tests.contract.semantic_cache.conftest import Asker, asker, key, request_id
from tests.support.hosting import Replica, failure


async def test_two_tenants_with_the_same_everything_never_meet(replica: Replica) -> None:
    acme, other = await asker(replica, tenant="acme"), await asker(replica, tenant="other")
    entry_id = await acme.store(key(user="ann"), "of acme")
    assert await other.reason(key(user="ann")) == "NOT_FOUND"
    explained = await other.stub.Explain(pb.ExplainRequest(key=key(user="ann")))
    assert not explained.candidates
    lease = (await other.acquire(key(user="ann"))).lease
    assert not (await acme.commit(key(user="ann"), lease.lease_token, "stolen")).stored
    assert (await other.commit(key(user="ann"), lease.lease_token, "of other")).stored
    assert not (await other.feedback(entry_id, pb.VERDICT_WRONG)).removed
    for target in (
        pb.InvalidateRequest(entry_id=entry_id),
        pb.InvalidateRequest(author="tester"),
        pb.InvalidateRequest(scope=key(user="ann").scope),
    ):
        await other.stub.Invalidate(target)
    assert await acme.answer(key(user="ann")) == "of acme"


async def test_tenants_and_agents_whose_names_join_alike_do_not_meet(replica: Replica) -> None:
    one, two = await asker(replica, tenant="acme-agent-x"), await asker(replica, tenant="acme")
    await one.store(key(agent="agent-1"))
    await one.store(key(agent="agent-x-agent-1"))
    assert await two.reason(key(agent="agent-x-agent-1")) == "NOT_FOUND"
    assert await two.reason(key(agent="agent-1")) == "NOT_FOUND"


@pytest.mark.parametrize("user", ["}", "{x}", "a:b", "../ann", "租户", "ann/0", "名" * 255])
async def test_users_of_any_name_have_their_own_entries(cache_: Asker, user: str) -> None:
    await cache_.store(key(user=user), "private")
    assert await cache_.answer(key(user=user)) == "private"
    assert await cache_.reason(key()) == "NOT_FOUND"
    assert await cache_.reason(key(user=user + "x")) == "NOT_FOUND"


async def test_a_run_of_one_user_sees_its_own_and_the_shared_entries(replica: Replica, cache_: Asker) -> None:
    await cache_.store(key(user="ann"), "of ann")
    await cache_.store(key(), "of all")
    bob = await asker(replica, user="bob")
    assert (await failure(bob.look_up(key(user="ann")))).reason == errors_pb2.REASON_USER_NOT_ALLOWED
    assert await bob.answer(key()) == "of all"
    ann = await asker(replica, user="ann")
    assert await ann.answer(key(user="ann")) == "of ann"


async def test_a_run_of_one_user_removes_nothing_of_another(replica: Replica, cache_: Asker) -> None:
    of_ann = await cache_.store(key(user="ann"))
    bob = await asker(replica, user="bob")
    assert (await bob.stub.Invalidate(pb.InvalidateRequest(entry_id=of_ann))).removed_count == 0
    for target in (pb.InvalidateRequest(scope=key(user="ann").scope), pb.InvalidateRequest(author="tester")):
        assert (await failure(bob.stub.Invalidate(target))).reason == errors_pb2.REASON_USER_NOT_ALLOWED
    assert await cache_.reason(key(user="ann")) == "HIT"
    ann = await asker(replica, user="ann")
    assert (await ann.stub.Invalidate(pb.InvalidateRequest(entry_id=of_ann))).removed_count == 1


async def test_a_credential_of_one_user_may_only_judge_what_it_was_served(replica: Replica, cache_: Asker) -> None:
    of_ann = await cache_.store(key(user="ann"))
    bob = await asker(replica, user="bob", service="")
    put = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="poison"))
    for refused in (
        bob.look_up(key(user="bob")),
        bob.stub.Put(put),
        bob.stub.Invalidate(pb.InvalidateRequest(entry_id=of_ann)),
        bob.stub.Explain(pb.ExplainRequest(key=key(user="bob"))),
        bob.stub.GetStats(pb.GetStatsRequest()),
    ):
        assert (await failure(refused)).reason == errors_pb2.REASON_CALLER_NOT_ALLOWED
    assert not (await bob.feedback(of_ann, pb.VERDICT_WRONG)).removed
    assert await cache_.reason(key(user="ann")) == "HIT"
    ann = await asker(replica, user="ann", service="")
    assert (await ann.feedback(of_ann, pb.VERDICT_WRONG)).removed


async def test_a_shared_entry_does_not_tell_who_asked_first(replica: Replica, cache_: Asker) -> None:
    await cache_.store(key())
    await cache_.store(key(user="ann"))
    operator = await asker(replica, service="", scopes=())
    administrator = await asker(replica, service="")
    for caller, asked, told in (
        (operator, key(), False),
        (operator, key(user="ann"), True),
        (administrator, key(), True),
        (cache_, key(), True),
    ):
        explained = await caller.stub.Explain(pb.ExplainRequest(key=asked))
        looked = (await caller.look_up(asked)).hit.entry
        for entry in (looked, explained.hit.entry, explained.candidates[0].entry):
            assert [bool(entry.question), bool(entry.run_id), bool(entry.author)] == [told] * 3
        assert looked.answer == "9 to 18"


async def test_rows_of_another_tenant_are_hidden_by_the_database_itself(cache_: Asker, database_url: str) -> None:
    entry_id = await cache_.store(key())
    await cache_.feedback(entry_id, pb.VERDICT_RIGHT)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for tenant, expected in (("acme", 1), ("other", 0), ("", 0)):
            await connection.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
            found = await connection.execute("SELECT count(*) FROM semantic_cache.judged_sample")
            assert await found.fetchone() == (expected,)
