"""Core memory over gRPC: each method turns a request into one transaction and its outcome into a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext as Context

from mneme.core_memory import access, callers, commands, editing, history, messages, rendering
from mneme.core_memory.blocks import Block
from mneme.core_memory.store import export, reads
from mneme.core_memory.store.reads import BlockFilter, ChangeFilter
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.core_memory.v1 import core_memory_pb2_grpc as pb_grpc
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, exports, migrations, pages
from mneme.runtime.component import Component, Runtime
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import Error, invalid
from mneme.runtime.idempotency import MutatingRequest, once

SCHEMA = "core_memory"

_ABOVE_ALL = 2**62
_ATTACHMENTS_SHOWN = 100

R = TypeVar("R", bound=Message)


def build(runtime: Runtime) -> Component:
    """Returns the service on this process's database."""
    return CoreMemory(runtime.database)


class CoreMemory(pb_grpc.CoreMemoryServiceServicer):
    """Keeps the blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, server: grpc.aio.Server) -> None:
        """Adds itself to the server."""
        pb_grpc.add_CoreMemoryServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Has nothing to start."""

    async def drain(self) -> None:
        """Has nothing to hand over."""

    async def stop(self) -> None:
        """Has nothing to free."""

    async def ready(self) -> None:
        """Returns when the database answers and its schema is new enough."""
        async with self._database.work() as tx:
            await migrations.check_schema(tx, SCHEMA)

    async def CreateBlock(self, request: pb.CreateBlockRequest, context: Context[Any, Any]) -> pb.CreateBlockResponse:
        """Creates a block and attaches it."""
        return await self._once(request, pb.CreateBlockResponse, commands.create)

    async def GetBlock(self, request: pb.GetBlockRequest, context: Context[Any, Any]) -> pb.GetBlockResponse:
        """Returns a block and the first of those who see it."""
        caller = callers.caller()
        bound = caller.user if caller.is_end_user else ""
        as_of = _as_of(request)
        async with self._reading(as_of) as tx:
            user = call.acting_user(request.ref.agent_label.user_id)
            seen = await commands.find(tx, request.ref, user, as_of=as_of)
            if as_of is not None:
                access.check_owner(seen.block, caller)
            attachments, count = await reads.attachments(
                tx, call.tenant(), seen.block.id, limit=_ATTACHMENTS_SHOWN, bound=bound, as_of=as_of
            )
        return pb.GetBlockResponse(
            block=messages.block_message(seen.block),
            attachments=[messages.attachment_message(one) for one in attachments],
            attachment_count=count,
        )

    async def ListBlocks(self, request: pb.ListBlocksRequest, context: Context[Any, Any]) -> pb.ListBlocksResponse:
        """Lists blocks in the order of their creation."""
        size = pages.page_size(request.page_size, default=50, maximum=500)
        which = _block_filter(request)
        after = pages.decode(request)
        async with self._reading(which.as_of) as tx:
            blocks = await reads.list_blocks(tx, call.tenant(), which, after=after, limit=size + 1)
        response = pb.ListBlocksResponse(blocks=pages.fitting(map(messages.block_message, blocks[:size])))
        if len(blocks) > len(response.blocks):
            last = blocks[len(response.blocks) - 1]
            assert last.create_time is not None
            response.next_page_token = pages.encode(request, [last.create_time.isoformat(), last.id])
        return response

    async def UpdateBlock(self, request: pb.UpdateBlockRequest, context: Context[Any, Any]) -> pb.UpdateBlockResponse:
        """Changes fields of a block."""
        return await self._once(request, pb.UpdateBlockResponse, commands.update)

    async def DeleteBlock(self, request: pb.DeleteBlockRequest, context: Context[Any, Any]) -> pb.DeleteBlockResponse:
        """Deletes a block with its versions."""
        return await self._once(request, pb.DeleteBlockResponse, commands.delete)

    async def AppendText(self, request: pb.AppendTextRequest, context: Context[Any, Any]) -> pb.AppendTextResponse:
        """Adds text at the end of a block."""

        async def run(tx: Connection, request: pb.AppendTextRequest) -> pb.AppendTextResponse:
            before, after = await commands.edit(tx, request, lambda block: editing.append(block.value, request.text))
            return pb.AppendTextResponse(block=messages.block_message(after), previous_value=before.value)

        return await self._once(request, pb.AppendTextResponse, run)

    async def ReplaceText(self, request: pb.ReplaceTextRequest, context: Context[Any, Any]) -> pb.ReplaceTextResponse:
        """Replaces a text that occurs exactly once."""

        async def run(tx: Connection, request: pb.ReplaceTextRequest) -> pb.ReplaceTextResponse:
            before, after = await commands.edit(
                tx, request, lambda block: editing.replace(block, request.old_text, request.new_text)
            )
            return pb.ReplaceTextResponse(block=messages.block_message(after), previous_value=before.value)

        return await self._once(request, pb.ReplaceTextResponse, run)

    async def RemoveText(self, request: pb.RemoveTextRequest, context: Context[Any, Any]) -> pb.RemoveTextResponse:
        """Removes a text that occurs exactly once."""

        async def run(tx: Connection, request: pb.RemoveTextRequest) -> pb.RemoveTextResponse:
            before, after = await commands.edit(tx, request, lambda block: editing.remove(block, request.text))
            return pb.RemoveTextResponse(block=messages.block_message(after), previous_value=before.value)

        return await self._once(request, pb.RemoveTextResponse, run)

    async def AttachBlock(self, request: pb.AttachBlockRequest, context: Context[Any, Any]) -> pb.AttachBlockResponse:
        """Lets an agent see a block."""
        return await self._once(request, pb.AttachBlockResponse, commands.attach)

    async def DetachBlock(self, request: pb.DetachBlockRequest, context: Context[Any, Any]) -> pb.DetachBlockResponse:
        """Takes a block from an agent."""
        return await self._once(request, pb.DetachBlockResponse, commands.detach)

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context[Any, Any]
    ) -> pb.ListVersionsResponse:
        """Lists the versions of a block, newest first."""
        size = pages.page_size(request.page_size, default=50, maximum=500)
        before = int((pages.decode(request) or [_ABOVE_ALL])[0])
        tenant = call.tenant()
        async with self._database.tenant(tenant) as tx:
            await _own_block(tx, request.block_id)
            found = await reads.list_versions(tx, tenant, request.block_id, before=before, limit=size + 1)
        response = pb.ListVersionsResponse(versions=pages.fitting(map(messages.version_message, found[:size])))
        if len(found) > len(response.versions):
            response.next_page_token = pages.encode(request, [found[len(response.versions) - 1].version])
        return response

    async def DiffVersions(
        self, request: pb.DiffVersionsRequest, context: Context[Any, Any]
    ) -> pb.DiffVersionsResponse:
        """Compares two versions of a block."""
        async with self._database.tenant(call.tenant()) as tx:
            block = await _own_block(tx, request.block_id)
            numbers = [request.from_version, request.to_version or block.version]
            found = await reads.versions(tx, call.tenant(), block.id, numbers)
        before, after = (commands.present(found, block.id, number) for number in numbers)
        diff = await asyncio.to_thread(
            history.unified_diff,
            before.value,
            after.value,
            before_name=f"{block.label} version {before.version}",
            after_name=f"{block.label} version {after.version}",
        )
        response = pb.DiffVersionsResponse(unified_diff=diff, to=messages.version_message(after))
        # The field is named like a keyword.
        getattr(response, "from").CopyFrom(messages.version_message(before))
        return response

    async def RestoreVersion(
        self, request: pb.RestoreVersionRequest, context: Context[Any, Any]
    ) -> pb.RestoreVersionResponse:
        """Makes the text of an earlier version the current one."""
        return await self._once(request, pb.RestoreVersionResponse, commands.restore)

    async def RenderMemory(
        self, request: pb.RenderMemoryRequest, context: Context[Any, Any]
    ) -> pb.RenderMemoryResponse:
        """Renders an agent's working context."""
        user = call.acting_user(request.user_id)
        as_of = _as_of(request)
        if as_of is not None:
            access.check_operator(callers.caller(), "as_of")
        async with self._reading(as_of) as tx:
            seen = await reads.render(
                tx, call.tenant(), request.agent_id, user, shared_only=request.shared_only, as_of=as_of
            )
        if seen.deleted_on is not None:
            raise Error(
                errors_pb2.REASON_DELETED,
                f"{request.agent_id}, or the user it serves, was deleted on {seen.deleted_on.date()}",
                metadata={"resource": request.agent_id},
            )
        response = pb.RenderMemoryResponse(
            text=rendering.render(seen.blocks), blocks=map(messages.block_message, seen.blocks)
        )
        if as_of is None:
            response.revision.scope = rendering.scope(request.agent_id, user)
            response.revision.revision = seen.revision
            response.shared_revision.scope = f"{request.agent_id} shared blocks"
            response.shared_revision.revision = seen.shared_revision
        return response

    async def ListMemoryChanges(
        self, request: pb.ListMemoryChangesRequest, context: Context[Any, Any]
    ) -> pb.ListMemoryChangesResponse:
        """Lists the audit, oldest first."""
        size = pages.page_size(request.page_size, default=100, maximum=1000)
        which = _change_filter(request)
        after = int((pages.decode(request) or [0])[0])
        async with self._database.tenant(call.tenant()) as tx:
            changes = await reads.list_changes(tx, call.tenant(), which, after=after, limit=size + 1)
        response = pb.ListMemoryChangesResponse(changes=map(messages.change_message, changes[:size]))
        if len(changes) > size:
            response.next_page_token = pages.encode(request, [changes[size - 1].sequence])
        return response

    async def PurgeData(self, request: pb.PurgeDataRequest, context: Context[Any, Any]) -> pb.PurgeDataResponse:
        """Removes all data of an agent or a user."""
        return await self._once(request, pb.PurgeDataResponse, commands.purge)

    async def ExportData(
        self, request: pb.ExportDataRequest, context: Context[Any, Any]
    ) -> AsyncGenerator[pb.ExportDataResponse, None]:
        """Streams all blocks and versions of an agent or a user."""
        kind, subject = exports.subject_of(request.subject)
        scope = (self._database, call.tenant(), kind, subject)
        async for blocks in export.blocks(*scope, rows=exports.PAGE_ROWS):
            for records in exports.portions(exports.record("block", messages.block_message(one)) for one in blocks):
                yield pb.ExportDataResponse(records=records)
        async for versions in export.versions(*scope, rows=exports.PAGE_ROWS):
            found = (exports.record("block_version", messages.version_message(one)) for one in versions)
            for records in exports.portions(found):
                yield pb.ExportDataResponse(records=records)

    @asynccontextmanager
    async def _reading(self, as_of: datetime | None) -> AsyncIterator[Connection]:
        """A transaction that reads the present, or a past moment that nothing changes any more."""
        async with self._database.tenant(call.tenant()) as tx:
            if as_of is not None:
                await reads.await_writers(tx, call.tenant(), as_of)
            yield tx

    async def _once(self, request: MutatingRequest, response: type[R], run: Callable[..., Awaitable[R]]) -> R:
        async with self._database.tenant(call.tenant()) as tx:
            return await once(tx, SCHEMA, request, response, partial(run, tx, request))


async def _own_block(tx: Connection, block_id: str) -> Block:
    """Returns a block whose history the caller may read: an end user's own, any for others."""
    block = (await commands.find(tx, pb.BlockRef(block_id=block_id), "")).block
    access.check_owner(block, callers.caller())
    return block


def _block_filter(request: pb.ListBlocksRequest) -> BlockFilter:
    caller = callers.caller()
    user = call.acting_user(request.user_id)
    return BlockFilter(
        agent_id=request.agent_id,
        user_id=user if request.agent_id else request.user_id,
        label=request.label,
        is_template=request.is_template if request.HasField("is_template") else None,
        template_name=request.template_name,
        end_user=caller.user if caller.is_end_user else "",
        as_of=_as_of(request),
    )


def _change_filter(request: pb.ListMemoryChangesRequest) -> ChangeFilter:
    span = request.time_range
    start = _time(span.start) if span.HasField("start") else None
    end = _time(span.end) if span.HasField("end") else None
    if start and end and end < start:
        raise invalid(
            "time_range",
            f"end {end.isoformat()} is before start {start.isoformat()}",
            errors_pb2.REASON_INVALID_TIME_RANGE,
        )
    return ChangeFilter(
        agent_id=request.agent_id,
        user_id=callers.owner(request.user_id),
        block_id=request.block_id,
        actor=request.actor,
        start=start,
        end=end,
    )


def _as_of(request: pb.GetBlockRequest | pb.ListBlocksRequest | pb.RenderMemoryRequest) -> datetime | None:
    return _time(request.as_of) if request.HasField("as_of") else None


def _time(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
