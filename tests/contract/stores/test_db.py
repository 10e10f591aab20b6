"""The pool: tenant transactions, typed failures, cancellation, and lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import psycopg
import pytest
from pydantic import SecretStr

from mneme.errors.v1 import errors_pb2
from mneme.runtime import call
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.settings import DatabaseSettings

APP_TENANT = "SELECT current_setting('app.tenant', true) AS tenant"


async def tenant_seen(database: Database, tenant: str) -> str:
    async with database.tenant(tenant) as tx:
        row = await (await tx.execute(APP_TENANT)).fetchone()
        assert row is not None
        return str(row["tenant"])


@pytest.mark.parametrize("tenant", ["acme", "o'hara \\ %s", "租户", '"; ROLLBACK; --'])
async def test_a_transaction_carries_its_tenant(database: Database, tenant: str) -> None:
    assert await tenant_seen(database, tenant) == tenant


async def test_the_tenant_ends_with_its_transaction(database: Database) -> None:
    await tenant_seen(database, "acme")
    async with database.work() as tx:
        row = await (await tx.execute(APP_TENANT)).fetchone()
    assert row is not None
    assert not row["tenant"]


def test_a_tenant_is_needed(database: Database) -> None:
    with pytest.raises(ValueError, match="needs a tenant"):
        database.tenant("")


async def test_an_exception_rolls_back(database: Database, owner_url: str) -> None:
    make_table(owner_url)
    with pytest.raises(RuntimeError):
        async with database.work() as tx:
            await tx.execute("INSERT INTO work VALUES (1)")
            raise RuntimeError
    assert await count(database) == 0


async def test_a_swallowed_failure_is_not_taken_for_a_commit(database: Database, owner_url: str) -> None:
    make_table(owner_url)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        async with database.work() as tx:
            await tx.execute("INSERT INTO work VALUES (1)")
            with contextlib.suppress(psycopg.errors.DivisionByZero):
                await tx.execute("SELECT 1 / 0")
    assert await count(database) == 0


async def test_violated_constraints_pass_through(database: Database, owner_url: str) -> None:
    make_table(owner_url)
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        async with database.work() as tx:
            await tx.execute("INSERT INTO work VALUES (1), (1)")
    assert caught.value.diag.constraint_name == "work_pkey"


async def test_a_nested_transaction_is_a_savepoint(database: Database, owner_url: str) -> None:
    make_table(owner_url)
    async with database.work() as tx:
        await tx.execute("INSERT INTO work VALUES (1)")
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            async with tx.transaction():
                await tx.execute("INSERT INTO work VALUES (1)")
        await tx.execute("INSERT INTO work VALUES (2)")
    assert await count(database) == 2


async def test_a_slow_statement_is_cut(database_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(database_url), pool_min=0, statement_timeout=0.05)
    async with opened(settings) as database:
        with pytest.raises(Error) as caught:
            async with database.work() as tx:
                await tx.execute("SELECT pg_sleep(30)")
    assert caught.value.reason == errors_pb2.REASON_DEADLINE_EXCEEDED


async def test_a_statement_never_outlives_the_calls_deadline(database: Database) -> None:
    deadline = asyncio.get_running_loop().time() + 0.05
    with call.enter(call.Call(call.Principal("acme", "test"), deadline)), pytest.raises(Error) as caught:
        async with database.tenant("acme") as tx:
            await tx.execute("SELECT pg_sleep(30)")
    assert caught.value.reason == errors_pb2.REASON_DEADLINE_EXCEEDED


async def test_a_full_disk_is_named(database: Database) -> None:
    with pytest.raises(Error, match="out of disk space") as caught:
        async with database.work() as tx:
            await tx.execute("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$")
    assert caught.value.reason == errors_pb2.REASON_STORE_FULL


async def test_a_busy_pool_answers_in_time(database_url: str) -> None:
    settings = DatabaseSettings(url=SecretStr(database_url), pool_min=0, pool_max=1, pool_timeout=0.1)
    async with opened(settings) as database, database.work():
        with pytest.raises(Error, match=r"all 1 database connections of test stayed busy for 0.1 s") as caught:
            await database.ping()
    assert caught.value.reason == errors_pb2.REASON_STORE_UNAVAILABLE


async def test_an_unreachable_database_is_named() -> None:
    nowhere = SecretStr("postgresql://mneme_app@/mneme?host=/nonexistent")
    async with opened(DatabaseSettings(url=nowhere, pool_timeout=0.1)) as database:
        with pytest.raises(Error, match="accepted no connection within") as caught:
            await database.ping()
    assert caught.value.reason == errors_pb2.REASON_STORE_UNAVAILABLE


async def test_killed_connections_go_unnoticed(database: Database, owner_url: str) -> None:
    await asyncio.gather(*(tenant_seen(database, "acme") for _ in range(4)))
    cut_all(owner_url)
    assert await asyncio.gather(*(tenant_seen(database, "acme") for _ in range(8))) == ["acme"] * 8


async def test_a_connection_lost_inside_a_transaction_is_unavailable(database: Database, owner_url: str) -> None:
    with pytest.raises(Error) as caught:
        async with database.work() as tx:
            cut_all(owner_url)
            await tx.execute("SELECT 1")
    assert caught.value.reason == errors_pb2.REASON_STORE_UNAVAILABLE
    await database.ping()


async def test_a_demoted_server_empties_the_pool(database: Database, owner_url: str) -> None:
    make_table(owner_url)
    async with database.work() as tx:
        before = tx.info.backend_pid
    with pytest.raises(Error) as caught:
        async with database.work() as tx:
            await tx.execute("SET TRANSACTION READ ONLY")
            await tx.execute("INSERT INTO work VALUES (1)")
    assert caught.value.reason == errors_pb2.REASON_STORE_UNAVAILABLE
    async with database.work() as tx:
        assert tx.info.backend_pid != before


async def test_cancelled_transactions_give_their_connections_back(database: Database) -> None:
    chance = random.Random(7)

    async def cancelled_somewhere() -> None:
        task = asyncio.create_task(slow_transaction(database))
        await asyncio.sleep(chance.random() * 0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    await asyncio.gather(*(cancelled_somewhere() for _ in range(60)))
    async with asyncio.timeout(5), contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(database.tenant("acme"))


async def test_notifications_arrive_and_survive_a_cut(database: Database, owner_url: str) -> None:
    async with asyncio.timeout(10), contextlib.aclosing(database.listen("work")) as payloads:
        assert await anext(payloads) == ""
        notify(owner_url, "one")
        assert await anext(payloads) == "one"
        cut_all(owner_url)
        assert await anext(payloads) == ""
        notify(owner_url, "two")
        assert await anext(payloads) == "two"


async def test_vectors_travel_as_themselves(database: Database) -> None:
    async with database.work() as tx:
        row = await (await tx.execute("SELECT '[1,2]'::halfvec AS half, '[1,2]'::vector AS whole")).fetchone()
    assert row is not None
    assert [row["half"].to_list(), row["whole"].to_list()] == [[1.0, 2.0], [1.0, 2.0]]


async def test_metrics_show_how_the_pool_is_used(database_url: str) -> None:
    metrics = Metrics()
    sample, pool = metrics.registry.get_sample_value, {"pool": "test"}
    async with opened(DatabaseSettings(url=SecretStr(database_url), pool_min=0), metrics) as database:
        async with database.work():
            assert sample("mneme_database_pool_in_use", pool) == 1
        with pytest.raises(RuntimeError):
            async with database.tenant("acme"):
                raise RuntimeError
    assert sample("mneme_database_pool_in_use", pool) == 0
    assert sample("mneme_database_pool_waiting", pool) == 0
    assert sample("mneme_database_transaction_duration_seconds_count", pool) == 2


async def slow_transaction(database: Database) -> None:
    async with database.tenant("acme") as tx:
        await tx.execute("SELECT pg_sleep(0.005)")
        await tx.execute("SELECT 1")


@contextlib.asynccontextmanager
async def opened(settings: DatabaseSettings, metrics: Metrics | None = None) -> AsyncIterator[Database]:
    database = await Database.open(settings, name="test", metrics=metrics)
    yield database
    await database.close()


async def count(database: Database) -> int:
    async with database.work() as tx:
        row = await (await tx.execute("SELECT count(*) AS n FROM work")).fetchone()
    assert row is not None
    return int(row["n"])


def make_table(owner_url: str) -> None:
    with psycopg.connect(owner_url) as owner:
        owner.execute("CREATE TABLE work (id integer CONSTRAINT work_pkey PRIMARY KEY)")
        owner.execute("GRANT ALL ON work TO mneme_app")


def notify(owner_url: str, payload: str) -> None:
    with psycopg.connect(owner_url) as owner:
        owner.execute("SELECT pg_notify('work', %s)", [payload])


def cut_all(owner_url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE usename = 'mneme_app' AND datname = current_database()"
        )
