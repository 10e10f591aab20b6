"""RPCs about all that is kept of one user."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from mneme.orchestrator import convert, exporting, operations
from mneme.orchestrator.agents import new_operation
from mneme.orchestrator.base import Base, Context
from mneme.orchestrator.store import operations as operation_store
from mneme.orchestrator.store import purge
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids
from mneme.runtime.idempotency import once


class UserMethods(Base):
    """Exports and forgets a user."""

    async def ForgetUser(self, request: pb.ForgetUserRequest, context: Context) -> pb.ForgetUserResponse:
        """Removes all data of a user in every service, as an operation that this call works on first."""
        tenant, user_id = call.tenant(), call.acting_user(request.user_id)

        async def run() -> pb.ForgetUserResponse:
            operation = new_operation(
                ids.new("operation"),
                pb.OPERATION_KIND_FORGET_USER,
                user_id,
                request.SerializeToString(),
                operations.user_forgetting_steps(),
            )
            # From this commit on nothing new of the user is accepted, however long the rest takes.
            await purge.bury(tx, tenant, "user", user_id, operation.operation_id)
            stored = await operation_store.insert(tx, tenant, operation, hold=self._operations.hold)
            return pb.ForgetUserResponse(operation=convert.wire_operation(stored))

        async with self._database.tenant(tenant) as tx:
            response = await once(tx, SCHEMA, request, pb.ForgetUserResponse, run)
        worked = await self._operations.work(tenant, response.operation.operation_id)
        return pb.ForgetUserResponse(operation=convert.wire_operation(worked))

    async def ExportUser(
        self, request: pb.ExportUserRequest, context: Context
    ) -> AsyncGenerator[pb.ExportUserResponse, None]:
        """Streams all data of a user in every service."""
        tenant, user_id = call.tenant(), call.acting_user(request.user_id)
        chain = exporting.Chain()
        async for record in exporting.user_records(self._database, self._deps.peers, tenant, user_id):
            piece = chain.piece(record)
            if piece.number > request.after_piece:
                yield pb.ExportUserResponse(piece=piece)
        yield pb.ExportUserResponse(piece=chain.end())
