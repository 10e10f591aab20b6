"""How long messages are kept: rules of the deployment, the tenant, an agent and a user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.recall.service import build
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.settings import PeersSettings, RecallSettings
from tests.contract.recall.conftest import Embedding, Writer, asks, eventually, request_id, result, texts, user
from tests.support.hosting import Hosting, Replica, failure


def ago(days: float) -> Timestamp:
    """That many days before now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) - timedelta(days=days))
    return stamp


def aged(message: pb.Message, days: float) -> pb.Message:
    """The message, said that many days ago."""
    message.create_time.CopyFrom(ago(days))
    return message


async def keep(writer: Writer, days: int, *, dry_run: bool = False, **subject: str) -> int:
    """Sets a rule; returns how many messages are older."""
    request = pb.SetRetentionRequest(
        request_id=request_id(), subject=pb.RetentionSubject(**subject), max_age_days=days, dry_run=dry_run
    )
    return (await writer.stub.SetRetention(request)).expired_count


async def until_left(writer: Writer, *left: str) -> None:
    """Returns when just these messages are left."""

    async def reached() -> bool:
        return {one.text for one in await writer.list()} == set(left)

    await eventually(reached)


async def test_an_agents_old_messages_go_and_the_new_stay(writer: Writer) -> None:
    other = Writer(writer.stub, agent_id="agent-2")
    for one in (writer, other):
        await one.append(user("old tea", create_time=ago(31)), user("new tea", create_time=ago(29)))

    assert await keep(writer, 30, agent_id=writer.agent_id) == 1
    await until_left(writer, "new tea")

    assert texts(await writer.words("tea")) == ["new tea"]
    assert (await writer.window()).next_sequence == 3
    assert {one.text for one in await other.list()} == {"old tea", "new tea"}
    subject = pb.RetentionSubject(agent_id=writer.agent_id)
    assert (await writer.stub.GetRetention(pb.GetRetentionRequest(subject=subject))).max_age_days == 30


async def test_a_dry_run_counts_and_deletes_nothing(writer: Writer) -> None:
    await writer.append(*(user(f"{n}", create_time=ago(10 * n)) for n in range(5)))

    assert await keep(writer, 15, dry_run=True) == 3
    assert await keep(writer, 15, dry_run=True, user_id="nobody") == 0

    assert (await writer.stub.GetRetention(pb.GetRetentionRequest())).max_age_days == 0
    assert len(await writer.list()) == 5


async def test_the_shortest_rule_counts(writer: Writer) -> None:
    ann = Writer(writer.stub, user_id="ann")
    await ann.append(user("ann 5", create_time=ago(5)), user("ann 1", create_time=ago(1)))
    await writer.append(user("nobody 20", create_time=ago(20)), user("nobody 5", create_time=ago(5)))

    await keep(writer, 10)
    await keep(writer, 3, user_id="ann")
    await keep(writer, 1000, agent_id=writer.agent_id)

    await until_left(writer, "ann 1", "nobody 5")


async def test_a_call_goes_with_its_results_once_all_are_old_enough(writer: Writer) -> None:
    await writer.append(
        aged(asks("call-old"), 9),
        aged(result("call-old", "old result"), 8),
        aged(asks("call-across"), 8),
        aged(result("call-across", "young result"), 1),
        aged(user("old"), 8),
    )

    await keep(writer, 5)

    await until_left(writer, "", "young result")
    assert [one.tool_call_id or one.tool_calls[0].id for one in await writer.list()] == ["call-across"] * 2


async def test_many_go_in_batches_that_never_part_a_pair(
    hosting: Hosting, embedding: Embedding, owner_url: str
) -> None:
    recall = RecallSettings(max_age_days=5, retention_batch=3, retention_interval=0.1)
    peers = PeersSettings(embedding=embedding.address)
    async with hosting.replica("recall", build, recall=recall, peers=peers) as running:
        writer = Writer(await running.stub(RecallServiceStub, service="orchestrator"))
        for number in range(10):
            call = f"call-{number}"
            await writer.append(aged(asks(call), 9), aged(result(call), 9), aged(user("words"), 9))
        await writer.append(user("today"))

        await until_left(writer, "today")
        metric = running.runtime.metrics.memory_writes.labels("recall", "expire")
        assert metric._value.get() == 30
    with psycopg.connect(owner_url) as connection:
        connection.execute("SET app.tenant = 'acme'")
        for table in ("lexical_document", "tool_call"):
            row = connection.execute(f"SELECT count(*) FROM recall.{table}".encode()).fetchone()
            assert row == (1 if table == "lexical_document" else 0,)


async def test_summaries_go_by_their_own_time(writer: Writer, owner_url: str) -> None:
    await writer.append(user("old", create_time=ago(9)), user("new"))
    await writer.evict(2, "of the old")
    await writer.evict(2, "of the old, again", version=1)
    with psycopg.connect(owner_url) as connection:
        connection.execute("SET app.tenant = 'acme'")
        connection.execute("UPDATE recall.summary SET create_time = create_time - interval '9 days' WHERE version = 1")

    await keep(writer, 5)
    await until_left(writer, "new")

    async def first_is_gone() -> bool:
        with psycopg.connect(owner_url) as connection:
            connection.execute("SET app.tenant = 'acme'")
            return connection.execute("SELECT version FROM recall.summary").fetchall() == [(2,)]

    await eventually(first_is_gone)
    window = await writer.window()
    assert (window.summary, window.summary_version, window.evicted_count) == ("of the old, again", 2, 0)


async def test_rules_are_the_operators_and_go_with_their_subject(replica: Replica, writer: Writer) -> None:
    bound = await replica.stub(RecallServiceStub, user="ann")
    error = await failure(bound.SetRetention(pb.SetRetentionRequest(request_id=request_id(), max_age_days=1)))
    assert error.reason_name == "CALLER_NOT_ALLOWED"

    await keep(writer, 7, user_id="ann")
    purge = pb.PurgeDataRequest(request_id=request_id())
    purge.subject.user_id = "ann"
    await writer.stub.PurgeData(purge)
    subject = pb.RetentionSubject(user_id="ann")
    assert (await writer.stub.GetRetention(pb.GetRetentionRequest(subject=subject))).max_age_days == 0


@pytest.mark.parametrize("days", [-1, 36501])
async def test_a_rule_that_makes_no_sense_is_refused(writer: Writer, days: int) -> None:
    assert (await failure(keep(writer, days))).violations[0].field == "max_age_days"
