"""What holds after any series of writes, compared with a plain model of a block."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id


async def write_something(memory: Memory, block_id: str, model: list[str], dice: random.Random) -> None:
    """Makes one random write and notes the text that must come of it."""
    current, ref = model[-1], by_id(block_id)
    word = f"word{dice.randrange(10**6)}"
    lines = current.split("\n")
    match dice.choice(("append", "replace", "remove", "update", "restore")):
        case "append":
            await memory.append(ref, word)
            model.append(f"{current}\n{word}" if current else word)
        case "replace" if current:
            old = dice.choice(lines)
            await memory.replace(ref, old, word)
            model.append("\n".join(word if line == old else line for line in lines))
        case "remove" if current:
            old = dice.choice(lines)
            await memory.stub.RemoveText(pb.RemoveTextRequest(request_id=new_id(), ref=ref, text=old))
            model.append("\n".join(line for line in lines if line != old))
        case "restore":
            version = dice.randrange(len(model)) + 1
            request = pb.RestoreVersionRequest(request_id=new_id(), block_id=block_id, version=version)
            await memory.stub.RestoreVersion(request)
            model.append(model[version - 1])
        case _:
            await memory.update(ref, value=word)
            model.append(word)


@pytest.mark.parametrize("seed", range(4))
async def test_versions_audit_and_prompt_agree_after_any_writes(memory: Memory, seed: int) -> None:
    dice = random.Random(seed)
    block = await memory.create("human", "first", agents=(AGENT,))
    model = ["first"]
    for _ in range(25):
        await write_something(memory, block.block_id, model, dice)

    versions = (await memory.versions(block.block_id))[::-1]
    audit = [one for one in await memory.changes(block_id=block.block_id) if one.new_version > one.old_version]
    rendered = await memory.render()

    assert [one.value for one in versions] == model
    assert [one.version for one in versions] == [one.new_version for one in audit] == list(range(1, len(model) + 1))
    hashes = [hashlib.sha256(value.encode()).hexdigest() for value in model]
    assert [one.new_sha256 for one in audit] == hashes
    assert [one.old_sha256 for one in audit] == ["", *hashes[:-1]]
    assert [one.new_chars for one in audit] == [len(value) for value in model]
    assert rendered.blocks[0].value == model[-1]
    assert rendered.revision.revision == len(model)


async def test_pages_of_the_audit_skip_nothing_while_others_write(memory: Memory) -> None:
    for number in range(8):
        await memory.create(f"log-{number}", "", agents=(AGENT,))

    async def write(number: int) -> None:
        for line in range(12):
            await memory.append(by_label(f"log-{number}"), f"line {line}")

    async def read() -> list[common_pb2.MemoryChange]:
        request = pb.ListMemoryChangesRequest(page_size=3)
        found: list[common_pb2.MemoryChange] = []
        while True:
            page = await memory.stub.ListMemoryChanges(request)
            found += page.changes
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read()) for _ in range(2)]
        for number in range(8):
            tasks.create_task(write(number))

    everything = await memory.changes()
    for seen in (reader.result() for reader in readers):
        assert seen == everything[: len(seen)]


async def test_writes_of_all_kinds_at_once_all_end_well(memory: Memory, agent: Memory) -> None:
    """No order of locks among edits, copies, attachments, renamings and deletions makes two of them wait for ever."""
    shared = await memory.create("policy", "P", agents=("agent-1", "agent-2", "agent-3"), limit_chars=100_000)
    default = await memory.create("human", "N", limit_chars=100_000)
    await memory.attach(default.block_id, AGENT, copy_per_user=True)

    async def edit(number: int) -> None:
        await agent.append(by_label("policy", f"agent-{number % 3 + 1}"), f"{number}")
        await agent.append(by_label("human", user=f"user-{number % 4}"), f"{number}")

    async def come_and_go(number: int) -> None:
        block = await memory.create(f"label-{number}", "x", agents=("agent-3", "agent-1", "agent-2"))
        await memory.update(by_id(block.block_id), label=f"renamed-{number}", value="y")
        await memory.stub.DeleteBlock(pb.DeleteBlockRequest(request_id=new_id(), block_id=block.block_id))

    await asyncio.gather(*(edit(number) for number in range(24)), *(come_and_go(number) for number in range(12)))

    assert len((await memory.get(shared.block_id)).block.value.split("\n")) == 25
    copies = [(await memory.render(user=f"user-{number}")).blocks for number in range(4)]
    assert (
        sum(len(block.value.split("\n")) - 1 for blocks in copies for block in blocks if block.label == "human") == 24
    )
