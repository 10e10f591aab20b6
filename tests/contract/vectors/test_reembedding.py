"""A deployment changes its vector space while it serves: nothing is lost, whatever is written, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mneme import reembedding
from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.cli import reembed as command
from mneme.cli.app import app
from mneme.embedding.v1 import embedding_pb2
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.reembedding import NothingToDoError, Reembedding
from mneme.runtime.dev_credentials import ensure_dev_credentials
from mneme.runtime.vectors import SERVING
from mneme.settings import EmbeddingSettings, MaintenanceSettings, ModelsSettings, Settings
from tests.contract.vectors.conftest import Owner, agent
from tests.contract.vectors.test_messages import Talk
from tests.support.bedrock_server import BedrockServer
from tests.support.suite import Serve, Suite

OLD, NEW = "wordllama@256", "amazon.titan-embed-text-v2:0@512"
PROMOTED = MaintenanceSettings(exact_rows=256, fold_rows=40, build_memory_mb=64, reembed_concurrency=2)


@dataclass
class World:
    """A suite with two spaces, the passages that were written to it, and their vectors in both."""

    suite: Suite
    settings: Settings
    owner: Owner
    texts: dict[str, str] = field(default_factory=dict)
    """By passage id, those of agent-1."""
    vectors: dict[tuple[str, str], np.ndarray[Any, Any]] = field(default_factory=dict)
    """By space and text."""

    @property
    def archival(self) -> Any:
        return self.suite.stub(ArchivalServiceStub)

    async def space(self) -> str:
        embedding: Any = self.suite.stub(EmbeddingServiceStub)
        return str((await embedding.GetSpace(embedding_pb2.GetSpaceRequest())).space.space_id)

    async def insert(self, count: int, owner: str = "agent-1") -> list[str]:
        texts = [f"{uuid.uuid4()} is passage {number} of {owner}" for number in range(count)]
        ids: list[str] = []
        for start in range(0, count, 200):
            items = [pb.PassageItem(passage=pb.Passage(text=text)) for text in texts[start : start + 200]]
            request = pb.InsertPassagesRequest(request_id=str(uuid.uuid4()), owner=agent(owner), items=items)
            ids += [one.passage_id for one in (await self.archival.InsertPassages(request)).results]
        if owner == "agent-1":
            self.texts.update(zip(ids, texts, strict=True))
        return ids

    async def rewrite(self, passage_id: str) -> str:
        """Gives a passage another text; returns the earlier one."""
        before, self.texts[passage_id] = self.texts[passage_id], f"{uuid.uuid4()} is another text"
        request = pb.UpdatePassageRequest(request_id=str(uuid.uuid4()), passage_id=passage_id)
        request.passage.text = self.texts[passage_id]
        await self.archival.UpdatePassage(request)
        return before

    async def delete(self, passage_id: str) -> None:
        await self.archival.DeletePassage(pb.DeletePassageRequest(request_id=str(uuid.uuid4()), passage_id=passage_id))
        del self.texts[passage_id]

    async def agrees(self, *, queries: int = 4, least: float = 1.0) -> str:
        """Fails unless searches find what brute force finds in the space that they name; returns the last one's."""
        hits, space = 0.0, ""
        for number in range(queries):
            query = f"which text is number {number}?"
            response = await self.archival.SearchPassages(
                pb.SearchPassagesRequest(
                    mode=pb.SEARCH_MODE_SEMANTIC, query=query, limit=10, scope=pb.SearchScope(agent_id="agent-1")
                )
            )
            scores = {one.passage.passage_id: one.score for one in response.results}
            spaces = [OLD, NEW] if (space := await self.space()) == NEW else [OLD]
            hits += max([await self._share(one, query, scores) for one in spaces])
        assert hits >= least * queries
        return space

    async def _share(self, space: str, query: str, found: dict[str, float]) -> float:
        """How many of the best ten by brute force were found, each with the cosine that it has in this space."""
        await self._embed(space, [query, *self.texts.values()])
        asked = self.vectors[space, query]
        cosines = {id_: float(self.vectors[space, text] @ asked) for id_, text in self.texts.items()}
        wanted = sorted(cosines.values())[-10:]
        assert len(found) == len(wanted)
        # Vectors are stored in half precision: which of two nearly equal ones comes tenth is open.
        right = [
            id_
            for id_, score in found.items()
            if score == pytest.approx(max(0, cosines[id_]), abs=2e-3) and cosines[id_] >= wanted[0] - 2e-3
        ]
        return len(right) / len(wanted)

    async def _embed(self, space: str, texts: list[str]) -> None:
        missing = [text for text in texts if (space, text) not in self.vectors]
        embedding: Any = self.suite.stub(EmbeddingServiceStub)
        for start in range(0, len(missing), 200):
            part = missing[start : start + 200]
            made = await embedding.Embed(embedding_pb2.EmbedRequest(texts=part, space_id=space))
            for text, one in zip(part, made.embeddings, strict=True):
                self.vectors[space, text] = np.array(one.values, dtype=np.float32)

    @contextlib.asynccontextmanager
    async def work(self) -> AsyncIterator[Reembedding]:
        async with reembedding.opened(self.settings, self.suite.address) as work:
            yield work

    def rows(self, what: str, schema: str = "archival") -> Any:
        table = {"archival": "archival.agent_passages", "recall": "recall.messages"}[schema]
        return self.owner.as_tenant("acme", f"SELECT {what} AS value FROM {table}")[0]["value"]


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[BedrockServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with BedrockServer() as server:
        assert isinstance(server, BedrockServer)
        yield server


@pytest.fixture
def models(bedrock: BedrockServer) -> ModelsSettings:
    """The local space, and Titan's beside it."""
    return ModelsSettings(
        next_embedding_provider="bedrock",
        next_embedding_model="amazon.titan-embed-text-v2:0",
        next_embedding_dimensions=512,
        bedrock_region="us-east-1",
        bedrock_endpoint_url=bedrock.url,
    )


@pytest.fixture
async def world(serve: Serve, models: ModelsSettings, owner: Owner) -> World:
    sections = {"models": models, "embedding": EmbeddingSettings(space_poll=0.05), "maintenance": PROMOTED}
    suite = await serve("archival", "recall", "embedding", **sections)
    return World(suite, suite.settings, owner)


async def forget_beside(world: World) -> None:
    """Takes the second vectors away, as rows are that were written before there was a next space."""
    for table in ("archival.agent_passages", "recall.messages"):
        world.owner.as_tenant("acme", f"UPDATE {table} SET next_space = NULL, next_embedding = NULL RETURNING 1")


async def test_a_large_and_a_small_scope_change_their_space_while_they_are_searched_and_written_to(
    world: World, bedrock: BedrockServer
) -> None:
    ids = await world.insert(300)
    await world.insert(5, "agent-2")
    await forget_beside(world)
    assert (await world.owner.maintain(PROMOTED)).promoted == 1
    assert await world.agrees(least=0.95) == OLD
    bedrock.embed_seconds = 0.02
    async with world.work() as work:
        changing = asyncio.create_task(command.change(work, NEW))
        for round_ in range(3):
            ids += await world.insert(4)
            await world.rewrite(ids[round_])
            await world.delete(ids[-1])
            await world.agrees(queries=2, least=0.95)
            assert round_ or not changing.done()
        async with asyncio.timeout(60):
            await changing
        assert work.progress.done >= 300
    assert await world.agrees(least=0.95) == NEW
    tables = {(one["owner_id"], one["space"]): one["state"] for one in world.owner.tables()}
    assert tables == {("agent-1", OLD): SERVING, ("agent-1", NEW): SERVING}
    lacking = f"count(*) FILTER (WHERE embedding_config <> '{NEW}' AND next_space IS DISTINCT FROM '{NEW}')"
    assert world.rows(lacking) == 0
    async with world.work() as work:
        assert await work.finish(NEW) >= 300
        assert await work.finish(NEW) == 0
    assert world.rows("array_agg(DISTINCT embedding_config)") == [NEW]
    assert world.rows("count(next_space)") == 0
    assert [(one["space"], one["state"]) for one in world.owner.tables()] == [(NEW, SERVING)]
    await world.agrees(least=0.95)


async def test_writes_have_both_vectors_also_after_a_change_of_text(world: World) -> None:
    ids = await world.insert(3)
    await world.rewrite(ids[0])
    assert world.rows("array_agg(DISTINCT embedding_config || ' ' || next_space)") == [f"{OLD} {NEW}"]
    await world._embed(NEW, list(world.texts.values()))
    found = world.owner.as_tenant("acme", "SELECT id, next_embedding::text AS vector FROM archival.agent_passages")
    for one in found:
        stored = np.array(json.loads(one["vector"]), dtype=np.float32)
        assert float(stored @ world.vectors[NEW, world.texts[one["id"]]]) > 0.99


async def test_a_killed_job_is_taken_up_where_it_was(world: World, bedrock: BedrockServer) -> None:
    await world.insert(40)
    await world.insert(300, "agent-2")
    await forget_beside(world)
    bedrock.embed_seconds = 0.02
    async with world.work() as work:
        killed = asyncio.create_task(work.fill(NEW))
        async with asyncio.timeout(30):
            while not work.progress.done:  # noqa: ASYNC110 - the database says so
                await asyncio.sleep(0.005)
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        first = work.progress.done
    assert 0 < first < 340
    bedrock.embed_seconds = 0.0
    async with world.work() as work:
        assert (await work.count(NEW)).lacking == 340 - first
        assert await world.agrees(least=1.0) == OLD
        assert await work.fill(NEW) == 340 - first
        assert await work.fill(NEW) == 0
        await work.switch(NEW)
        # Once more after the switch, as by someone who does not know that it was made.
        await command.change(work, NEW)
    assert await world.agrees() == NEW


async def test_until_the_clean_up_there_is_a_way_back(world: World) -> None:
    ids = await world.insert(20)
    async with world.work() as work:
        await command.change(work, NEW)
        await world.insert(5)
        await world.rewrite(ids[0])
        await command.change(work, OLD)
        assert await world.agrees() == OLD
        assert world.rows(f"count(*) FILTER (WHERE '{OLD}' NOT IN (embedding_config, next_space))") == 0
        await work.finish(OLD)
    assert world.rows("array_agg(DISTINCT embedding_config)") == [OLD]
    assert await world.agrees() == OLD


async def test_replaced_texts_are_found_by_their_words_after_a_switch(world: World) -> None:
    [passage_id] = await world.insert(1)
    moment = (await world.archival.GetPassage(pb.GetPassageRequest(passage_id=passage_id))).passage.update_time
    before = await world.rewrite(passage_id)
    async with world.work() as work:
        await command.change(work, NEW)
        await work.finish(NEW)
    request = pb.SearchPassagesRequest(query=before, limit=5, scope=pb.SearchScope(agent_id="agent-1"))
    request.filter.recorded_as_of.CopyFrom(moment)
    [found] = (await world.archival.SearchPassages(request)).results
    assert found.passage.text == before


async def test_messages_change_their_space_too(world: World) -> None:
    talk = Talk(world.suite)
    texts = [f"{word} was mentioned on day {number}" for number, word in enumerate(("rivers", "trains", "bread"))]
    await talk.say(*texts)
    async with asyncio.timeout(10):
        while world.rows("count(next_embedding)", "recall") < 3:  # noqa: ASYNC110 - indexing lies behind an RPC
            await asyncio.sleep(0.02)
    await forget_beside(world)
    async with world.work() as work:
        await command.change(work, NEW)
        await talk.say("a lighthouse keeper plays chess")
        assert sorted(await talk.found("chess")) == sorted([*texts, "a lighthouse keeper plays chess"])
        await work.finish(NEW)
    assert world.rows("array_agg(DISTINCT space)", "recall") == [NEW]
    assert len(await talk.found("bread")) == 4


async def test_an_unembeddable_text_does_not_hold_the_change_up(world: World, bedrock: BedrockServer) -> None:
    ids = await world.insert(3)
    await forget_beside(world)
    world.owner.as_tenant("acme", f"UPDATE archival.agent_passages SET text = '' WHERE id = '{ids[0]}' RETURNING 1")
    async with world.work() as work:
        await command.change(work, NEW)
        assert work.progress.unembeddable == 1
        await work.finish(NEW)
    assert world.rows("count(*) FILTER (WHERE embedding IS NULL AND index_state = 3)") == 1
    assert world.rows(f"count(*) FILTER (WHERE embedding_config = '{NEW}')") == 2


async def test_a_space_that_nobody_serves_is_refused(world: World) -> None:
    async with world.work() as work:
        with pytest.raises(NothingToDoError, match=r"settings here name 'other@9'.*next_embedding"):
            await command.change(work, "other@9")
        assert await world.space() == OLD


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {"MNEME_ADDRESS": "localhost:1"}, "no next space: set models.next_embedding_provider"),
        ([], {}, "no suite: name one with --address"),
        ([], {"MNEME_DATABASE__OWNER_URL": ""}, "no owner: set MNEME_DATABASE__OWNER_URL"),
        (["--back", "--finish"], {}, "exclude each other"),
    ],
)
def test_the_command_says_what_it_lacks(
    arguments: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    owner = {"MNEME_DATABASE__OWNER_URL": "postgresql://nobody@localhost:1/none"}
    keys = {"MNEME_AUTH__SUITE_KEYS_FILE": str(ensure_dev_credentials(tmp_path).suite_keys_path)}
    result = CliRunner().invoke(app, ["reembed", "--data", str(tmp_path), *arguments], env=owner | keys | environment)
    assert message in str(result.exception)


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    progress = reembedding.Progress(rows=2000, done=500)
    assert command.progress_line(progress, 250, 10) == "500 of 2,000 rows, 25 a second, 0:01:00 left"
    progress.waiting = "throttled"
    assert command.progress_line(progress, 250, 10) == "500 of 2,000 rows; waiting: throttled"
    done = reembedding.Progress(rows=2, done=2)
    assert command.progress_line(done, 0, 1) == "2 of 2 rows; building indexes"
