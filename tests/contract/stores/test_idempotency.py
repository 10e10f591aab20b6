"""A request_id: its first response again, its twin waited for, other content refused, failures forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine

from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from mneme.runtime import migrations
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.idempotency import once

ID = "6b1d3c9e-0d6f-4a51-8f5c-2f1f6a4f9c11"


@pytest.fixture
def table(owner_url: str) -> Iterator[None]:
    """A request table in a schema of its own."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA replay")
        connection.exec_driver_sql("CREATE ROLE mneme_replay; GRANT mneme_replay TO mneme_app")
        op = Operations(MigrationContext.configure(connection))
        migrations.grant_to_app(op, "replay")
        migrations.create_request_table(op, "replay")
    yield
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY mneme_replay; DROP ROLE mneme_replay")


class Work:
    """Counts how often it really runs."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = 0
        self.may_finish = asyncio.Event()
        self.started = asyncio.Event()
        self.may_finish.set()

    async def run(self) -> pb.CreateBlockResponse:
        self.runs += 1
        self.started.set()
        await self.may_finish.wait()
        return pb.CreateBlockResponse(block=pb.Block(block_id=f"block-{self.runs}"))

    async def call(self, request: pb.CreateBlockRequest, tenant: str = "acme") -> str:
        async with self.database.tenant(tenant) as tx:
            return (await once(tx, "replay", request, pb.CreateBlockResponse, self.run)).block.block_id


@pytest.fixture
def work(database: Database, table: None) -> Work:
    return Work(database)


def request(label: str = "persona", request_id: str = ID) -> pb.CreateBlockRequest:
    return pb.CreateBlockRequest(request_id=request_id, block=pb.Block(label=label))


async def test_the_first_response_is_given_again(work: Work) -> None:
    assert [await work.call(request()) for _ in range(3)] == ["block-1"] * 3


async def test_ids_belong_to_their_tenant(work: Work) -> None:
    assert [await work.call(request(), tenant) for tenant in ("acme", "other")] == ["block-1", "block-2"]


async def test_other_content_is_refused(work: Work) -> None:
    await work.call(request())
    with pytest.raises(Error, match=ID) as caught:
        await work.call(request("human"))
    assert caught.value.reason == errors_pb2.REASON_REQUEST_ID_REUSED
    assert work.runs == 1


async def test_a_twin_waits_for_the_first(work: Work) -> None:
    work.may_finish.clear()
    first = asyncio.create_task(work.call(request()))
    await work.started.wait()
    twins = [asyncio.create_task(work.call(request())) for _ in range(2)]
    done, _ = await asyncio.wait([first, *twins], timeout=0.1)
    assert not done
    work.may_finish.set()
    assert await asyncio.gather(first, *twins) == ["block-1"] * 3


async def test_a_twin_takes_over_when_the_first_fails(work: Work) -> None:
    work.may_finish.clear()
    first = asyncio.create_task(work.call(request()))
    await work.started.wait()
    twin = asyncio.create_task(work.call(request()))
    first.cancel()
    work.may_finish.set()
    assert await twin == "block-2"


async def test_a_failure_is_not_kept(work: Work, database: Database) -> None:
    async def fail() -> pb.CreateBlockResponse:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        async with database.tenant("acme") as tx:
            await once(tx, "replay", request(), pb.CreateBlockResponse, fail)
    assert await work.call(request()) == "block-1"


async def test_expired_responses_disappear(work: Work, database: Database, owner_url: str) -> None:
    await work.call(request())
    async with database.tenant("acme") as tx:
        await tx.execute("UPDATE replay.request SET create_time = now() - interval '8 days'")
    await work.call(request(request_id="another"))
    async with database.tenant("acme") as tx:
        kept = await (await tx.execute("SELECT request_id FROM replay.request")).fetchall()
    assert [row["request_id"] for row in kept] == ["another"]
