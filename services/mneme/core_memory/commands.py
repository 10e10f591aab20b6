"""What the mutating methods do inside their transaction, from the request to the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Protocol

from mneme.common.v1 import common_pb2
from mneme.core_memory import access, callers, editing, messages
from mneme.core_memory.blocks import Attachment, Author, Block, ChangeKind, Seen, Version, Visibility
from mneme.core_memory.store import purge as purging
from mneme.core_memory.store import reads, writes
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, ids
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, invalid, not_found

# Up to here the search for the closest line, after a failed edit, does not hold up other calls.
_QUICK_CHARS = 2000


class TextEdit(Protocol):
    """What the three edits of a text have in common."""

    request_id: str
    by_agent: bool
    etag: str

    @property
    def ref(self) -> pb.BlockRef:
        """The block to edit."""

    @property
    def provenance(self) -> common_pb2.Provenance:
        """Why."""


async def create(tx: Connection, request: pb.CreateBlockRequest) -> pb.CreateBlockResponse:
    """Creates a block, from a template if one is named, and attaches it."""
    caller, tenant = callers.caller(), call.tenant()
    if request.block_id and not caller.service:
        raise Error(
            errors_pb2.REASON_CALLER_NOT_ALLOWED,
            "block_id: only services of the suite choose the id of a new block",
            metadata={"field": "block_id", "caller": "user"},
        )
    user = callers.owner(request.block.user_id)
    attachments = sorted(_attachments(request, user), key=lambda one: (one.agent_id, one.user_id))
    subjects = [("user", user), *(pair for one in attachments for pair in _subjects(one))]
    await writes.refuse_deleted(tx, tenant, subjects)
    template = await _template(tx, request.template_block_id)
    block = messages.new_block(request.block, template, block_id=request.block_id or ids.new("block"), user_id=user)
    if block.is_template and (user or attachments):
        raise invalid("block.is_template", "a template belongs to no user and is attached to no agent")
    editing.check_limit(block)
    author = callers.author(request.request_id, request.provenance, user_id=user)
    block = await writes.insert(tx, tenant, block, author)
    for attachment in attachments:
        await writes.attach(tx, tenant, block, attachment, author)
    return pb.CreateBlockResponse(block=messages.block_message(block))


async def update(tx: Connection, request: pb.UpdateBlockRequest) -> pb.UpdateBlockResponse:
    """Changes fields of a block; a user's copy is made first where the block is copied per user."""
    author = _author(request.request_id, request.ref, request.provenance)
    by_tool = bool(callers.caller().service and request.provenance.step_id)
    seen = await _lock(tx, request.ref, author)
    access.check_etag(seen.block, request.etag)
    _check_writable(seen, author, by_tool=by_tool)
    after = messages.updated_block(seen.block, request)
    if after == seen.block:
        return pb.UpdateBlockResponse(block=messages.block_message(seen.block))
    if (after.value, after.limit) != (seen.block.value, seen.block.limit):
        editing.check_limit(after)
    stored = await _store(tx, seen, after, author)
    return pb.UpdateBlockResponse(block=messages.block_message(stored))


async def delete(tx: Connection, request: pb.DeleteBlockRequest) -> pb.DeleteBlockResponse:
    """Deletes a block with its versions and attachments."""
    author = callers.author(request.request_id, request.provenance, user_id=call.acting_user(""))
    block = await _lock_by_id(tx, request.block_id)
    access.check_owner(block, callers.caller())
    access.check_not_read_only(block, callers.caller(), by_tool=bool(author.step_id))
    access.check_etag(block, request.etag)
    await writes.delete(tx, call.tenant(), block, author)
    return pb.DeleteBlockResponse()


async def edit(tx: Connection, request: TextEdit, change: Callable[[Block], str]) -> tuple[Block, Block]:
    """Edits the text of a block as `change` says; returns the block before and after.

    The block stays locked from the moment its text is read, so no other edit comes between.
    """
    author = _author(request.request_id, request.ref, request.provenance)
    by_tool = request.by_agent or bool(callers.caller().service)
    seen = await _lock(tx, request.ref, author)
    access.check_etag(seen.block, request.etag)
    _check_writable(seen, author, by_tool=by_tool)
    before = seen.block
    value = change(before) if len(before.value) < _QUICK_CHARS else await asyncio.to_thread(change, before)
    after = messages.with_value(before, value, since=before)
    if after.version == before.version:
        return before, before
    editing.check_limit(after)
    return before, await _store(tx, seen, after, author)


async def restore(tx: Connection, request: pb.RestoreVersionRequest) -> pb.RestoreVersionResponse:
    """Makes the text of an earlier version the current one, as a new version."""
    tenant, user = call.tenant(), call.acting_user("")
    author = callers.author(request.request_id, request.provenance, user_id=user)
    await writes.refuse_deleted(tx, tenant, [("user", user)])
    block = await _lock_by_id(tx, request.block_id)
    access.check_owner(block, callers.caller())
    access.check_not_read_only(block, callers.caller(), by_tool=bool(author.step_id))
    access.check_etag(block, request.etag)
    found = await reads.versions(tx, tenant, block.id, [request.version])
    version = present(found, block.id, request.version)
    after = replace(block, value=version.value, version=block.version + 1)
    editing.check_limit(after)
    stored = await writes.update(
        tx, tenant, block, after, author, kind=ChangeKind.RESTORED, restored_version=version.version
    )
    return pb.RestoreVersionResponse(block=messages.block_message(stored))


async def attach(tx: Connection, request: pb.AttachBlockRequest) -> pb.AttachBlockResponse:
    """Lets an agent see a block."""
    attachment = _attachment("attachment", request.attachment)
    await writes.refuse_deleted(tx, call.tenant(), _subjects(attachment))
    block = await _lock_by_id(tx, request.block_id)
    access.check_owner(block, callers.caller())
    if block.is_template:
        raise Error(
            errors_pb2.REASON_INVALID_STATE,
            f"{block.id} is a template: create a block from it and attach that",
            metadata={"resource": block.id, "state": "TEMPLATE"},
        )
    _check_same_user("attachment", attachment, block.user_id)
    author = callers.author(request.request_id, user_id=call.acting_user(""))
    await writes.attach(tx, call.tenant(), block, attachment, author)
    return pb.AttachBlockResponse(block=messages.block_message(block))


async def detach(tx: Connection, request: pb.DetachBlockRequest) -> pb.DetachBlockResponse:
    """Takes a block from an agent."""
    attachment = Attachment(request.agent_id, callers.owner(request.user_id))
    block = await _lock_by_id(tx, request.block_id)
    access.check_owner(block, callers.caller())
    author = callers.author(request.request_id, user_id=call.acting_user(""))
    await writes.detach(tx, call.tenant(), block, attachment, author)
    return pb.DetachBlockResponse()


async def purge(tx: Connection, request: pb.PurgeDataRequest) -> pb.PurgeDataResponse:
    """Removes all data of an agent or a user. Nothing here belongs to a conversation."""
    kind = request.subject.WhichOneof("subject")
    if kind is None or not getattr(request.subject, kind):
        raise invalid("subject", "names nobody: set one of agent_id, user_id and conversation_id")
    if kind == "conversation_id":
        return pb.PurgeDataResponse()
    counts = await purging.purge(
        tx,
        call.tenant(),
        "agent" if kind == "agent_id" else "user",
        getattr(request.subject, kind),
        operation_id=request.operation_id,
        author=callers.author(request.request_id, agent_id=request.subject.agent_id),
    )
    return pb.PurgeDataResponse(
        counts=[
            common_pb2.PurgeCount(store=count.table, removed=count.removed, remaining=count.remaining)
            for count in counts
        ]
    )


async def find(
    tx: Connection, ref: pb.BlockRef, user: str, *, lock: bool = False, as_of: datetime | None = None
) -> Seen:
    """Returns the block that a reference names, as seen for a user, now or at a past moment.

    Raises:
        Error: REASON_NOT_FOUND, also for another user's own block; REASON_INVALID_FIELD for an empty reference.
    """
    if ref.HasField("agent_label"):
        label = ref.agent_label
        seen = await reads.find_seen(tx, call.tenant(), label.agent_id, user, label.label, lock=lock, as_of=as_of)
        if seen is None:
            raise not_found(f"block '{label.label}' of {label.agent_id}")
        return seen
    if not ref.block_id:
        raise invalid("ref", "names no block: set block_id or agent_label")
    block = await reads.find(tx, call.tenant(), ref.block_id, lock=lock, as_of=as_of)
    if block is None:
        raise not_found(ref.block_id)
    access.check_visible(block, callers.caller())
    return Seen(block, Attachment("", block.user_id))


def present(found: dict[int, Version], block_id: str, number: int) -> Version:
    """Returns one of the versions found.

    Raises:
        Error: REASON_NOT_FOUND, when it is not among them.
    """
    if number not in found:
        raise not_found(f"version {number} of {block_id}")
    return found[number]


async def _lock(tx: Connection, ref: pb.BlockRef, author: Author) -> Seen:
    """Returns the block that a reference names, locked until the commit."""
    subjects = [("agent", author.agent_id), ("user", author.user_id)]
    await writes.refuse_deleted(tx, call.tenant(), subjects)
    seen = await find(tx, ref, author.user_id, lock=True)
    if not seen.needs_copy(author.user_id):
        return seen
    # The source is locked now: a copy that another edit has made meanwhile is seen by this second look.
    return await find(tx, ref, author.user_id, lock=True)


async def _lock_by_id(tx: Connection, block_id: str) -> Block:
    return (await find(tx, pb.BlockRef(block_id=block_id), "", lock=True)).block


async def _store(tx: Connection, seen: Seen, after: Block, author: Author) -> Block:
    """Stores a changed block; where each user has a copy, the change goes to the user's own."""
    tenant, before = call.tenant(), seen.block
    if seen.needs_copy(author.user_id):
        copy = partial(replace, id=ids.new("block"), user_id=author.user_id, visibility=Visibility.PRIVATE)
        after = copy(after, version=after.version - before.version + 1)
        before = await writes.insert(tx, tenant, copy(before, version=1), author)
        await writes.attach(tx, tenant, before, Attachment(author.agent_id, author.user_id), author)
    return await writes.update(tx, tenant, before, after, author)


def _check_writable(seen: Seen, author: Author, *, by_tool: bool) -> None:
    caller = callers.caller()
    if not seen.needs_copy(author.user_id):
        access.check_owner(seen.block, caller)
    access.check_not_read_only(seen.block, caller, by_tool=by_tool)


def _author(request_id: str, ref: pb.BlockRef, provenance: common_pb2.Provenance) -> Author:
    user = call.acting_user(ref.agent_label.user_id)
    return callers.author(request_id, provenance, user_id=user, agent_id=ref.agent_label.agent_id)


async def _template(tx: Connection, block_id: str) -> Block | None:
    if not block_id:
        return None
    template = (await find(tx, pb.BlockRef(block_id=block_id), "")).block
    if not template.is_template:
        raise Error(
            errors_pb2.REASON_INVALID_STATE,
            f"{block_id} is not a template",
            metadata={"resource": block_id, "state": "BLOCK"},
        )
    return template


def _attachments(request: pb.CreateBlockRequest, user: str) -> list[Attachment]:
    attachments = []
    for index, message in enumerate(request.attachments):
        field = f"attachments[{index}]"
        attachment = _attachment(field, message)
        _check_same_user(field, attachment, user)
        attachments.append(attachment)
    return attachments


def _attachment(field: str, message: pb.BlockAttachment) -> Attachment:
    attachment = Attachment(message.agent_id, callers.owner(message.user_id), message.copy_per_user)
    if attachment.user_id and attachment.copy_per_user:
        raise invalid(f"{field}.copy_per_user", "must be false where user_id is set: there is one user only")
    return attachment


def _check_same_user(field: str, attachment: Attachment, user: str) -> None:
    if user and attachment.user_id != user:
        raise invalid(f"{field}.user_id", "must be the user whose own block it is")


def _subjects(attachment: Attachment) -> list[tuple[str, str]]:
    return [("agent", attachment.agent_id), ("user", attachment.user_id)]
