"""Requests that are wrong: each gets its own reason and the name of the field, and nothing is half written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from tests.contract.core_memory.conftest import AGENT, Memory, by_id, by_label, new_id
from tests.support.hosting import failure

Send = Callable[[Memory, pb.Block], Awaitable[Any]]


def create(**fields: Any) -> Send:
    """A creation with these fields of the request."""
    fields.setdefault("request_id", new_id())
    return lambda memory, _: memory.stub.CreateBlock(pb.CreateBlockRequest(**fields))


def update(paths: tuple[str, ...], **fields: Any) -> Send:
    """An update under a mask."""

    def send(memory: Memory, block: pb.Block) -> Awaitable[Any]:
        request = pb.UpdateBlockRequest(request_id=new_id(), ref=by_id(block.block_id), block=pb.Block(**fields))
        request.update_mask.paths.extend(paths)
        return memory.stub.UpdateBlock(request)

    return send


def block_of(**metadata: Any) -> pb.Block:
    """A block with metadata."""
    block = pb.Block(label="human")
    block.metadata.update(metadata)
    return block


CASES: dict[str, tuple[Send, str, str]] = {
    "no label": (create(block=pb.Block(value="x")), "INVALID_FIELD", "block.label"),
    "bad label": (create(block=pb.Block(label="a b")), "INVALID_FIELD", "block.label"),
    "no block": (create(), "INVALID_FIELD", "block"),
    "no request_id": (create(request_id="", block=pb.Block(label="a")), "INVALID_FIELD", "request_id"),
    "bad request_id": (create(request_id="1", block=pb.Block(label="a")), "INVALID_FIELD", "request_id"),
    "negative limit": (create(block=pb.Block(label="a", limit_chars=-1)), "INVALID_FIELD", "block.limit_chars"),
    "huge limit": (create(block=pb.Block(label="a", limit_chars=100_001)), "INVALID_FIELD", "block.limit_chars"),
    "huge value": (create(block=pb.Block(label="a", value="x" * 100_001)), "TEXT_TOO_LONG", "block.value"),
    "value with NUL": (create(block=pb.Block(label="a", value="x\x00y")), "INVALID_TEXT", "block.value"),
    "unknown visibility": (create(block=pb.Block(label="a", visibility=42)), "UNKNOWN_ENUM_VALUE", "block.visibility"),  # type: ignore[arg-type]
    "metadata with NUL": (
        create(block=block_of(key="\x00")),
        "INVALID_TEXT",
        "block.metadata.fields[key].string_value",
    ),
    "metadata that is no number": (
        create(block=block_of(key=float("nan"))),
        "INVALID_FIELD",
        "block.metadata.fields[key].number_value",
    ),
    "large metadata": (create(block=block_of(key="x" * 17_000)), "TEXT_TOO_LONG", "block.metadata"),
    "over the own limit": (create(block=pb.Block(label="a", value="xx", limit_chars=1)), "BLOCK_LIMIT_EXCEEDED", ""),
    "agent without prefix": (
        create(block=pb.Block(label="a"), attachments=[pb.BlockAttachment(agent_id="1")]),
        "INVALID_FIELD",
        "attachments[0].agent_id",
    ),
    "copy per user of one user": (
        create(
            block=pb.Block(label="a"),
            attachments=[pb.BlockAttachment(agent_id=AGENT, user_id="ann", copy_per_user=True)],
        ),
        "INVALID_FIELD",
        "attachments[0].copy_per_user",
    ),
    "another user's attachment": (
        create(
            block=pb.Block(label="a", user_id="ann"),
            attachments=[pb.BlockAttachment(agent_id=AGENT, user_id="bob")],
        ),
        "INVALID_FIELD",
        "attachments[0].user_id",
    ),
    "attached template": (
        create(block=pb.Block(label="a", is_template=True), attachments=[pb.BlockAttachment(agent_id=AGENT)]),
        "INVALID_FIELD",
        "block.is_template",
    ),
    "two blocks of a label at once": (
        create(block=pb.Block(label="human"), attachments=[pb.BlockAttachment(agent_id=AGENT)]),
        "ALREADY_EXISTS",
        "",
    ),
    "no such template": (
        create(block=pb.Block(label="a"), template_block_id="block-none"),
        "NOT_FOUND",
        "",
    ),
    "own id": (create(block=pb.Block(label="a"), block_id="block-1"), "CALLER_NOT_ALLOWED", "block_id"),
    "no template": (
        lambda memory, block: memory.stub.CreateBlock(
            pb.CreateBlockRequest(request_id=new_id(), block=pb.Block(), template_block_id=block.block_id)
        ),
        "INVALID_STATE",
        "",
    ),
    "no reference": (
        lambda memory, _: memory.stub.GetBlock(pb.GetBlockRequest(ref=pb.BlockRef())),
        "INVALID_FIELD",
        "ref",
    ),
    "unknown block": (lambda memory, _: memory.get("block-none"), "NOT_FOUND", ""),
    "unknown label": (lambda memory, _: memory.append(by_label("nothing"), "x"), "NOT_FOUND", ""),
    "empty append": (lambda memory, _: memory.append(by_label("human"), ""), "INVALID_FIELD", "text"),
    "empty old text": (lambda memory, _: memory.replace(by_label("human"), "", "x"), "INVALID_FIELD", "old_text"),
    "unknown mask": (update(("colour",)), "INVALID_UPDATE_MASK", "update_mask"),
    "output-only mask": (update(("etag",)), "INVALID_UPDATE_MASK", "update_mask"),
    "no limit": (update(("limit_chars",)), "INVALID_FIELD", "block.limit_chars"),
    "label taken away": (update(("label",)), "INVALID_FIELD", "block.label"),
    "visibility taken away": (update(("visibility",)), "INVALID_FIELD", "block.visibility"),
    "unknown version": (
        lambda memory, block: memory.stub.RestoreVersion(
            pb.RestoreVersionRequest(request_id=new_id(), block_id=block.block_id, version=7)
        ),
        "NOT_FOUND",
        "",
    ),
    "negative page": (
        lambda memory, _: memory.stub.ListBlocks(pb.ListBlocksRequest(page_size=-1)),
        "INVALID_FIELD",
        "page_size",
    ),
    "broken page token": (
        lambda memory, _: memory.stub.ListBlocks(pb.ListBlocksRequest(page_token="!")),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    "token of another method": (
        lambda memory, block: memory.stub.ListVersions(
            pb.ListVersionsRequest(block_id=block.block_id, page_token="AAAAAAAAAAAAAAAAWzFd")
        ),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    "time turned round": (
        lambda memory, _: memory.changes(
            time_range=common_pb2.TimeRange(start={"seconds": 2}, end={"seconds": 1})  # type: ignore[arg-type]
        ),
        "INVALID_TIME_RANGE",
        "time_range",
    ),
    "time out of range": (
        lambda memory, _: memory.changes(time_range=common_pb2.TimeRange(start={"seconds": 2**60})),  # type: ignore[arg-type]
        "INVALID_TIME_RANGE",
        "time_range.start",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_wrong_request_names_what_is_wrong(memory: Memory, case: str) -> None:
    send, reason, field = CASES[case]
    block = await memory.create("human", "text", agents=(AGENT,))
    before = (await memory.changes(), (await memory.stub.ListBlocks(pb.ListBlocksRequest())).blocks)

    error = await failure(send(memory, block))

    assert error.reason == errors_pb2.Reason.Value(f"REASON_{reason}")
    assert error.metadata.get("field", "") == field
    assert error.message
    assert before == (await memory.changes(), (await memory.stub.ListBlocks(pb.ListBlocksRequest())).blocks)


async def test_a_text_at_the_limits_of_what_is_allowed_is_stored(memory: Memory) -> None:
    value = "𝄞汉字\t\n" * 20_000

    block = await memory.create("big", value, limit_chars=100_000)

    assert (await memory.get(block.block_id)).block.value == value
