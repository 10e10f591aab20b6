"""The state at any past moment: what was seen then, and what an independent replay of versions and audit gives."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id
from tests.support.hosting import failure

KIND = common_pb2.MemoryChangeKind
_examples = itertools.count(1)


async def now(memory: Memory) -> Timestamp:
    """Returns the time of the newest write, by the database's clock."""
    request = pb.ListMemoryChangesRequest(page_size=1000)
    newest = Timestamp()
    while True:
        page = await memory.stub.ListMemoryChanges(request)
        newest = page.changes[-1].create_time if page.changes else newest
        if not page.next_page_token:
            return newest
        request.page_token = page.next_page_token


async def rendered(memory: Memory, agent: str, as_of: Timestamp | None, user: str = "") -> pb.RenderMemoryResponse:
    """Returns an agent's working context, now or then."""
    return await memory.stub.RenderMemory(pb.RenderMemoryRequest(agent_id=agent, user_id=user, as_of=as_of))


async def got(memory: Memory, ref: pb.BlockRef, as_of: Timestamp) -> pb.GetBlockResponse:
    """Returns a block as it was."""
    return await memory.stub.GetBlock(pb.GetBlockRequest(ref=ref, as_of=as_of))


async def test_each_field_is_what_it_was(memory: Memory) -> None:
    block = await memory.create("human", "Name: Ann", agents=(AGENT,), description="old", metadata={"rank": 1})
    before = await now(memory)
    await memory.append(by_label("human"), "likes tea")
    await memory.update(
        by_id(block.block_id),
        label="person",
        description="new",
        limit_chars=77,
        visibility=common_pb2.BLOCK_VISIBILITY_SHARED,
        read_only=True,
        metadata={"rank": 2},
    )
    await memory.attach(block.block_id, "agent-2")

    then = await got(memory, by_id(block.block_id), before)

    assert then.block == block
    assert [one.agent_id for one in then.attachments] == [AGENT]
    assert (await got(memory, by_label("human"), before)).block == block
    listed = await memory.stub.ListBlocks(pb.ListBlocksRequest(agent_id=AGENT, label="human", as_of=before))
    assert list(listed.blocks) == [block]
    assert not (await rendered(memory, "agent-2", before)).blocks
    assert (await got(memory, by_label("person"), await now(memory))).block == (await memory.get(block.block_id)).block


async def test_the_past_shows_attachments_that_ended_and_copies_of_users(memory: Memory, agent: Memory) -> None:
    default = await memory.create("human", "unknown")
    await memory.attach(default.block_id, AGENT, copy_per_user=True)
    attached = await now(memory)
    await agent.append(by_label("human", user="ann"), "Ann")
    copied = await now(memory)
    await memory.stub.DetachBlock(pb.DetachBlockRequest(request_id=new_id(), block_id=default.block_id, agent_id=AGENT))

    assert [one.value for one in (await rendered(memory, AGENT, attached, "ann")).blocks] == ["unknown"]
    assert [one.value for one in (await rendered(memory, AGENT, copied, "ann")).blocks] == ["unknown\nAnn"]
    assert [one.value for one in (await rendered(memory, AGENT, copied, "bob")).blocks] == ["unknown"]
    assert not (await rendered(memory, AGENT, await now(memory), "bob")).blocks
    assert not (await rendered(memory, AGENT, copied, "ann")).HasField("revision")


async def test_a_moment_ahead_is_refused_and_one_before_all_is_empty(memory: Memory) -> None:
    block = await memory.create("human", "text", agents=(AGENT,))
    ahead, early = Timestamp(), Timestamp()
    ahead.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    early.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))

    for running in (rendered(memory, AGENT, ahead), got(memory, by_id(block.block_id), ahead)):
        error = await failure(running)
        assert (error.reason, error.violations[0].field) == (errors_pb2.REASON_INVALID_FIELD, "as_of")
    assert not (await rendered(memory, AGENT, early)).blocks
    assert (await failure(got(memory, by_id(block.block_id), early))).reason == errors_pb2.REASON_NOT_FOUND


async def test_a_user_reads_the_past_of_own_blocks_only(memory: Memory, ann: Memory) -> None:
    shared = await memory.create("policy", "P", agents=(AGENT,), visibility=common_pb2.BLOCK_VISIBILITY_SHARED)
    own = await ann.create("notes", "N")
    then = await now(memory)

    assert (await got(ann, by_id(own.block_id), then)).block.value == "N"
    assert (await failure(got(ann, by_id(shared.block_id), then))).reason == errors_pb2.REASON_USER_NOT_ALLOWED
    assert (await failure(rendered(ann, AGENT, then))).reason == errors_pb2.REASON_USER_NOT_ALLOWED
    listed = await ann.stub.ListBlocks(pb.ListBlocksRequest(as_of=then))
    assert [one.block_id for one in listed.blocks] == [own.block_id]


async def test_the_past_forgets_what_is_forgotten(memory: Memory, agent: Memory) -> None:
    shared = await memory.create("notes", "by the operator", agents=(AGENT,))
    await agent.append(by_label("notes", user="ann"), "by ann")
    then = await now(memory)
    subject = common_pb2.PurgeSubject(user_id="ann")
    await agent.stub.PurgeData(pb.PurgeDataRequest(request_id=new_id(), subject=subject))

    assert (await got(memory, by_id(shared.block_id), then)).block.value == "by the operator"


@dataclass
class Life:
    """A random series of writes to one agent's memory, with what was seen after each."""

    memory: Memory
    agent: str
    blocks: list[str] = field(default_factory=list)
    seen: list[tuple[Timestamp, dict[str, pb.Block]]] = field(default_factory=list)

    async def step(self, kind: str, number: int) -> None:
        """Makes one write; one that is refused leaves all as it was."""
        block = self.blocks[number % len(self.blocks)] if self.blocks else ""
        text = f"text {number}"
        match kind:
            case _ if kind == "create" or not block:
                block = (await self.memory.create(f"label-{len(self.seen)}", text, agents=(self.agent,))).block_id
                self.blocks.append(block)
            case "append":
                await self.memory.append(by_id(block), text)
            case "update":
                await self.memory.update(by_id(block), value=text, description=text, limit_chars=1000 + number)
            case "restore":
                request = pb.RestoreVersionRequest(request_id=new_id(), block_id=block, version=1)
                await self.memory.stub.RestoreVersion(request)
            case "delete":
                await self.memory.stub.DeleteBlock(pb.DeleteBlockRequest(request_id=new_id(), block_id=block))
                self.blocks.remove(block)
            case "turn":
                await self._turn(block)
        blocks = {one.block_id: one for one in (await self.memory.render(self.agent)).blocks}
        self.seen.append(((await self.memory.changes(block_id=block))[-1].create_time, blocks))

    async def _turn(self, block: str) -> None:
        """Attaches what is detached, and detaches what is attached."""
        if block in {one.block_id for one in (await self.memory.render(self.agent)).blocks}:
            request = pb.DetachBlockRequest(request_id=new_id(), block_id=block, agent_id=self.agent)
            await self.memory.stub.DetachBlock(request)
        else:
            await self.memory.attach(block, self.agent)


@dataclass(frozen=True)
class Replay:
    """The state at a moment, worked out from versions and audit alone."""

    changes: list[common_pb2.MemoryChange]
    versions: dict[str, dict[int, pb.BlockVersion]]

    def at(self, moment: Timestamp) -> dict[str, str]:
        """Returns the texts that the agent saw, by block."""
        attached: set[str] = set()
        current: dict[str, common_pb2.MemoryChange] = {}
        for change in self.changes:
            if change.create_time.ToNanoseconds() > moment.ToNanoseconds():
                continue
            current[change.resource_id] = change
            if change.kind == KIND.MEMORY_CHANGE_KIND_ATTACHED:
                attached.add(change.resource_id)
            elif change.kind == KIND.MEMORY_CHANGE_KIND_DETACHED:
                attached.discard(change.resource_id)
        return {
            block_id: self._text(change)
            for block_id, change in current.items()
            if block_id in attached and block_id in self.versions
        }

    def _text(self, change: common_pb2.MemoryChange) -> str:
        version = self.versions[change.resource_id][change.new_version]
        assert hashlib.sha256(version.value.encode()).hexdigest() == change.new_sha256
        assert len(version.value) == change.new_chars
        return version.value


steps = st.tuples(
    st.sampled_from(("create", "append", "append", "update", "restore", "turn", "delete")), st.integers(0, 99)
)


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, min_size=4, max_size=16))
async def test_any_past_state_equals_a_replay_of_versions_and_audit(
    memory: Memory, series: list[tuple[str, int]]
) -> None:
    life = Life(memory, f"agent-life-{next(_examples)}")
    for kind, number in series:
        await life.step(kind, number)

    made = {block_id for _, blocks in life.seen for block_id in blocks} | set(life.blocks)
    changes = [change for block_id in made for change in await memory.changes(block_id=block_id)]
    versions = {block_id: {one.version: one for one in await memory.versions(block_id)} for block_id in life.blocks}
    replay = Replay(sorted(changes, key=lambda change: change.sequence), versions)
    for moment, blocks in life.seen:
        then = {one.block_id: one for one in (await rendered(memory, life.agent, moment)).blocks}
        # What was deleted since is gone from the past as well; only the audit still tells of it.
        assert then == {block_id: one for block_id, one in blocks.items() if block_id in life.blocks}
        assert {block_id: one.value for block_id, one in then.items()} == replay.at(moment)


async def test_a_moment_that_was_read_never_changes(memory: Memory) -> None:
    """Writes under way when a moment is read come after it."""
    block = await memory.create("log", limit_chars=100_000, agents=(AGENT,))

    async def read() -> None:
        moment = Timestamp()
        moment.FromDatetime((await now(memory)).ToDatetime(UTC))
        first = await got(memory, by_id(block.block_id), moment)
        assert await got(memory, by_id(block.block_id), moment) == first
        moments.append((moment, first))

    moments: list[tuple[Timestamp, pb.GetBlockResponse]] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(memory.append(by_id(block.block_id), f"line {number}"))
            tasks.create_task(read())
    for moment, first in moments:
        assert await got(memory, by_id(block.block_id), moment) == first
