"""RPCs of conversations and operations."""

from __future__ import annotations

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert, operations
from mneme.orchestrator.agents import new_operation
from mneme.orchestrator.base import PAGE_SIZE, PAGE_SIZE_MAX, Base, Context, bound_user
from mneme.orchestrator.records import Operation
from mneme.orchestrator.store import agents as store
from mneme.orchestrator.store import operations as operation_store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids, pages
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found
from mneme.runtime.idempotency import once


class ConversationMethods(Base):
    """Opens, reads and deletes conversations; reads operations."""

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        """Opens a conversation."""
        tenant = call.tenant()
        user_id = call.acting_user(request.user_id)
        metadata = convert.metadata_of(request.metadata, "metadata")

        async def run() -> pb.CreateConversationResponse:
            agent = await self._agent(tx, request.agent_id)
            if agent.state == pb.AGENT_STATE_DELETING:
                raise Error(
                    errors_pb2.REASON_DELETED,
                    f"{agent.agent_id} is being deleted",
                    metadata={"resource": agent.agent_id},
                )
            served = user_id or agent.user_id
            await self._refuse_forgotten(tx, served)
            made = await store.insert_conversation(
                tx,
                tenant,
                conversation_id=ids.new("conversation"),
                agent_id=agent.agent_id,
                user_id=served,
                display_name=request.display_name,
                metadata=metadata,
            )
            return pb.CreateConversationResponse(conversation=convert.wire_conversation(made))

        async with self._database.tenant(tenant) as tx:
            return await once(tx, SCHEMA, request, pb.CreateConversationResponse, run)

    async def GetConversation(self, request: pb.GetConversationRequest, context: Context) -> pb.GetConversationResponse:
        """Returns one conversation."""
        async with self._database.tenant(call.tenant()) as tx:
            found = await self._conversation(tx, request.conversation_id)
        return pb.GetConversationResponse(conversation=convert.wire_conversation(found))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """Lists conversations, oldest first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await store.list_conversations(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                agent_id=request.agent_id,
                user_id=call.acting_user(request.user_id) if request.user_id else "",
                after=str(cursor[0]) if cursor else "",
                limit=size + 1,
            )
        response = pb.ListConversationsResponse(conversations=[convert.wire_conversation(one) for one in found[:size]])
        if len(found) > size:
            response.next_page_token = pages.encode(request, [found[size - 1].conversation_id])
        return response

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        """Deletes a conversation and its messages, as an operation that this call works on first."""

        async def begin(tx: Connection) -> Operation:
            found = await self._conversation(tx, request.conversation_id)
            await store.close_conversation(tx, call.tenant(), found.conversation_id)
            return new_operation(
                ids.new("operation"),
                pb.OPERATION_KIND_DELETE_CONVERSATION,
                found.conversation_id,
                request.SerializeToString(),
                operations.conversation_deletion_steps(found.agent_id, found.user_id),
            )

        return await self._operate(request, pb.DeleteConversationResponse, begin)

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.GetOperationResponse:
        """Returns one operation."""
        async with self._database.tenant(call.tenant()) as tx:
            found = await operation_store.get(tx, call.tenant(), request.operation_id)
        if found is None or bound_user() not in ("", found.user_id):
            raise not_found(request.operation_id)
        return pb.GetOperationResponse(operation=convert.wire_operation(found))

    async def ListOperations(self, request: pb.ListOperationsRequest, context: Context) -> pb.ListOperationsResponse:
        """Lists operations, newest first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await operation_store.list_operations(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                state=request.state,
                before=str(cursor[0]) if cursor else "",
                limit=size + 1,
            )
        response = pb.ListOperationsResponse(operations=[convert.wire_operation(one) for one in found[:size]])
        if len(found) > size:
            response.next_page_token = pages.encode(request, [found[size - 1].operation_id])
        return response
