"""RPCs about all that is kept of one user."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from mneme.orchestrator import exporting, operations
from mneme.orchestrator.agents import new_operation
from mneme.orchestrator.base import Base, Context
from mneme.orchestrator.records import Operation
from mneme.orchestrator.store import purge
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids
from mneme.runtime.db import Connection


class UserMethods(Base):
    """Exports and forgets a user."""

    async def ForgetUser(self, request: pb.ForgetUserRequest, context: Context) -> pb.ForgetUserResponse:
        """Removes all data of a user in every service, as an operation that this call works on first."""
        user_id = call.acting_user(request.user_id)

        async def begin(tx: Connection) -> Operation:
            operation = new_operation(
                ids.new("operation"),
                pb.OPERATION_KIND_FORGET_USER,
                user_id,
                request.SerializeToString(),
                operations.user_forgetting_steps(),
            )
            # From this commit on nothing new of the user is accepted, however long the rest takes.
            await purge.bury(tx, call.tenant(), "user", user_id, operation.operation_id)
            return operation

        return await self._operate(request, pb.ForgetUserResponse, begin)

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
