"""Indexing by meaning: within a second, over outages and restarts, and never without a trace."""

from __future__ import annotations

from mneme.common.v1 import common_pb2
from mneme.recall.service import build
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.settings import PeersSettings, RecallSettings
from tests.contract.recall.conftest import Embedding, Writer, eventually, texts, user
from tests.support.hosting import Hosting

FOOD = pb.SemanticQuery(text="food", min_score=0.3)


async def test_a_message_is_found_by_words_at_once_and_by_meaning_within_a_second(
    hosting: Hosting, embedding: Embedding
) -> None:
    """With the settings that a deployment has unless it changes them."""
    async with hosting.replica("recall", build, peers=PeersSettings(embedding=embedding.address)) as running:
        writer = Writer(await running.stub(RecallServiceStub, service="orchestrator"))
        await writer.append(user("the engine is loud"))
        await writer.indexed()

        await writer.append(user("I love nuts"))
        assert texts(await writer.words("nuts")) == ["I love nuts"]

        async def found_by_meaning() -> bool:
            return texts(await writer.search(semantic=FOOD)) == ["I love nuts"]

        # It takes a linger of 0.1 s and one call; the limit is above the second promised, as the machine may be busy.
        await eventually(found_by_meaning, seconds=3.0)


async def test_what_waited_through_an_outage_is_indexed_after_a_restart(hosting: Hosting, embedding: Embedding) -> None:
    """Peers' complaint 18: the scheduler runs but processes nothing: MemTensor/MemOS/issues/1395.

    And 16 and 17: what is not indexed yet can be asked for, and nothing is deleted when indexing fails:
    getzep/graphiti/issues/1707, MemTensor/MemOS/issues/1417.
    """
    sections = {
        "recall": RecallSettings(index_linger=0.01, index_poll_interval=0.05, index_backoff_max=0.05),
        "peers": PeersSettings(embedding=embedding.address, max_attempts=1),
    }
    embedding.fake.down = True
    async with hosting.replica("recall", build, **sections) as running:
        before = Writer(await running.stub(RecallServiceStub, service="orchestrator"))
        for number in range(5):
            await before.append(user(f"nuts {number}"))
        messages = (await before.window()).messages
        assert [one.index_state for one in messages] == [common_pb2.INDEX_STATE_PENDING] * 5
        assert (await before.search(hybrid=pb.HybridQuery(text="nuts"))).degraded

    embedding.fake.down = False
    async with hosting.replica("recall", build, **sections) as running:
        stub = await running.stub(RecallServiceStub, service="orchestrator")
        after = Writer(stub, conversation_id=before.conversation_id)
        await after.indexed()
        messages = (await after.window()).messages
        assert [one.index_state for one in messages] == [common_pb2.INDEX_STATE_INDEXED] * 5
        assert len((await after.search(semantic=FOOD)).results) == 5


async def test_a_text_that_failed_is_tried_again_later(hosting: Hosting, embedding: Embedding) -> None:
    """Peers' complaint 20: new facts are randomly not kept: memodb-io/memobase/issues/109."""
    sections = {
        "recall": RecallSettings(index_linger=0.01, index_poll_interval=0.05, index_retry_failed=0.2),
        "peers": PeersSettings(embedding=embedding.address, max_attempts=1),
    }
    embedding.fake.refused = "poison"
    async with hosting.replica("recall", build, **sections) as running:
        writer = Writer(await running.stub(RecallServiceStub, service="orchestrator"))
        await writer.append(user("poison in the food"))

        async def in_state(state: common_pb2.IndexState.ValueType) -> bool:
            return (await writer.window()).messages[0].index_state == state

        await eventually(lambda: in_state(common_pb2.INDEX_STATE_FAILED))
        assert texts(await writer.words("poison")) == ["poison in the food"]
        embedding.fake.refused = ""
        await eventually(lambda: in_state(common_pb2.INDEX_STATE_INDEXED))


async def test_a_message_deleted_while_it_waits_stays_deleted(writer: Writer, embedding: Embedding) -> None:
    """Peers' complaint 27: background work resurrects what was deleted: redis/agent-memory-server/pull/184."""
    embedding.fake.down = True
    stored = await writer.append(user("I love nuts"), user("more nuts"))
    gone, kept = (one.message_id for one in stored.messages)
    await writer.stub.DeleteMessages(
        pb.DeleteMessagesRequest(
            request_id="11111111-1111-4111-8111-111111111111", agent_id=writer.agent_id, message_ids=[gone]
        )
    )
    embedding.fake.down = False
    await writer.indexed()

    assert [one.message_id for one in await writer.list()] == [kept]
    assert texts(await writer.search(semantic=FOOD)) == ["more nuts"]
