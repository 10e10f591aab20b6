"""What the parts of the service share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
from google.protobuf.message import Message

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert
from mneme.orchestrator.current import Deps
from mneme.orchestrator.operations import Operations
from mneme.orchestrator.records import Accepted, Agent, Conversation, Incoming, Operation
from mneme.orchestrator.relay.watch import Watcher
from mneme.orchestrator.store import agents as agent_store
from mneme.orchestrator.store import mailbox, purge
from mneme.orchestrator.store import operations as operation_store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.worker import Worker
from mneme.runtime import call
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found
from mneme.runtime.idempotency import MutatingRequest, once

R = TypeVar("R", pb.DeleteAgentResponse, pb.DeleteConversationResponse, pb.ForgetUserResponse)

Context = grpc.aio.ServicerContext[Message, Message]

PAGE_SIZE = 50
PAGE_SIZE_MAX = 500


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the servicer works with."""

    deps: Deps
    worker: Worker
    watcher: Watcher
    operations: Operations


class Base:
    """Helpers of the servicer's parts."""

    def __init__(self, parts: Parts) -> None:
        self._deps = parts.deps
        self._database = parts.deps.database
        self._worker = parts.worker
        self._watcher = parts.watcher
        self._operations = parts.operations

    async def _accept(self, incoming: Incoming) -> Accepted:
        """Stores an event.

        Raises:
            Error: NOT_FOUND, DELETED, INVALID_STATE or REQUEST_ID_REUSED.
        """
        try:
            return await self._worker.accept(call.tenant(), incoming)
        except mailbox.UnknownConversationError:
            raise not_found(incoming.conversation_id) from None
        except mailbox.OtherContentError:
            raise Error(
                errors_pb2.REASON_REQUEST_ID_REUSED,
                f"request_id: {incoming.request_id} was used for a request with other content",
                metadata={"request_id": incoming.request_id},
            ) from None
        except mailbox.ClosedConversationError as closed:
            raise _closed(closed, incoming.conversation_id) from None

    async def _agent(self, tx: Connection, agent_id: str) -> Agent:
        """The agent, as far as the caller may see it.

        Raises:
            Error: NOT_FOUND.
        """
        agent = await agent_store.get_agent(tx, call.tenant(), agent_id, bound_user())
        if agent is None:
            raise not_found(agent_id)
        return agent

    async def _operate(
        self, request: MutatingRequest, response_type: type[R], begin: Callable[[Connection], Awaitable[Operation]]
    ) -> R:
        """Begins an operation, once for a request, and works on it first.

        Args:
            request: What asks for it.
            response_type: Its response, whose `operation` says how far the work is.
            begin: Makes the operation, with all that must be so from its first moment.
        """
        tenant = call.tenant()

        async with self._database.tenant(tenant) as tx:

            async def run() -> R:
                stored = await operation_store.insert(tx, tenant, await begin(tx), hold=self._operations.hold)
                return response_type(operation=convert.wire_operation(stored))

            response = await once(tx, SCHEMA, request, response_type, run)
        worked = await self._operations.work(tenant, response.operation.operation_id)
        return response_type(operation=convert.wire_operation(worked))

    async def _refuse_forgotten(self, tx: Connection, user_id: str) -> None:
        """Refuses what would keep something of a user who was forgotten.

        Raises:
            Error: DELETED.
        """
        if user_id and await purge.is_buried(tx, call.tenant(), "user", user_id):
            raise Error(
                errors_pb2.REASON_DELETED,
                "user_id: the user was forgotten; a returning person needs a new id",
                metadata={"resource": user_id},
            )

    async def _conversation(self, tx: Connection, conversation_id: str) -> Conversation:
        """The conversation, as far as the caller may see it.

        Raises:
            Error: NOT_FOUND.
        """
        found = await agent_store.get_conversation(tx, call.tenant(), conversation_id, bound_user())
        if found is None:
            raise not_found(conversation_id)
        return found


def bound_user() -> str:
    """The user that the credential is bound to; empty for none."""
    return call.current().principal.user


def _closed(closed: mailbox.ClosedConversationError, conversation_id: str) -> Error:
    state = pb.AgentState.Name(closed.agent_state).removeprefix("AGENT_STATE_")
    if closed.agent_state == pb.AGENT_STATE_CREATING:
        return Error(
            errors_pb2.REASON_INVALID_STATE,
            f"{closed.agent_id} is {state} and takes no events yet",
            metadata={"resource": closed.agent_id, "state": state},
        )
    resource = closed.agent_id if closed.agent_state == pb.AGENT_STATE_DELETING else conversation_id
    return Error(errors_pb2.REASON_DELETED, f"{resource} is being deleted", metadata={"resource": resource})
