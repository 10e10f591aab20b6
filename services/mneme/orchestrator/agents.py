"""RPCs of agents."""

from __future__ import annotations

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert, events, operations
from mneme.orchestrator.base import PAGE_SIZE, PAGE_SIZE_MAX, Base, Context, bound_user
from mneme.orchestrator.records import Agent, Operation, OperationStep
from mneme.orchestrator.store import agents as store
from mneme.orchestrator.store import operations as operation_store
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids, pages
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found
from mneme.runtime.idempotency import once


class AgentMethods(Base):
    """Creates, reads, changes and deletes agents."""

    async def CreateAgent(self, request: pb.CreateAgentRequest, context: Context) -> pb.CreateAgentResponse:
        """Creates an agent; its parts are made by an operation that this call works on first."""
        tenant, user_id = call.tenant(), call.acting_user(request.agent.user_id)
        definition = convert.definition(request.agent)
        agent_id, operation_id = ids.new("agent"), ids.new("operation")

        async def run() -> pb.CreateAgentResponse:
            await self._refuse_forgotten(tx, user_id)
            agent = await store.insert_agent(
                tx, tenant, agent_id=agent_id, user_id=user_id, definition=definition, operation_id=operation_id
            )
            await operation_store.insert(
                tx,
                tenant,
                new_operation(
                    operation_id,
                    pb.OPERATION_KIND_CREATE_AGENT,
                    agent_id,
                    request.SerializeToString(),
                    operations.creation_steps(request),
                ),
                hold=self._operations.hold,
            )
            return pb.CreateAgentResponse(agent=convert.wire_agent(agent), operation_id=operation_id)

        async with self._database.tenant(tenant) as tx:
            response = await once(tx, SCHEMA, request, pb.CreateAgentResponse, run)
        operation = await self._operations.work(tenant, response.operation_id)
        if operation.state == pb.OPERATION_STATE_FAILED:
            raise _failure_of(operation)
        async with self._database.tenant(tenant) as tx:
            agent = await store.get_agent(tx, tenant, response.agent.agent_id)
        if agent is None:
            raise not_found(response.agent.agent_id)
        return pb.CreateAgentResponse(agent=convert.wire_agent(agent), operation_id=response.operation_id)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        """Returns one agent."""
        async with self._database.tenant(call.tenant()) as tx:
            agent = await self._agent(tx, request.agent_id)
        return pb.GetAgentResponse(agent=_shown(agent))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """Lists agents, oldest first."""
        size = pages.page_size(request.page_size, default=PAGE_SIZE, maximum=PAGE_SIZE_MAX)
        cursor = pages.decode(request)
        async with self._database.tenant(call.tenant()) as tx:
            found = await store.list_agents(
                tx,
                call.tenant(),
                bound_user=bound_user(),
                user_id=call.acting_user(request.user_id) if request.user_id else "",
                after=str(cursor[0]) if cursor else "",
                limit=size + 1,
            )
        response = pb.ListAgentsResponse(agents=[_shown(agent) for agent in found[:size]])
        if len(found) > size:
            response.next_page_token = pages.encode(request, [found[size - 1].agent_id])
        return response

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, context: Context) -> pb.UpdateAgentResponse:
        """Changes fields of an agent."""
        tenant = call.tenant()

        async def run() -> pb.UpdateAgentResponse:
            agent = await store.lock_agent(tx, tenant, request.agent_id, bound_user())
            if agent is None:
                raise not_found(request.agent_id)
            convert.check_etag(agent, request.etag)
            has_mask = request.HasField("update_mask")
            changed = convert.merged(agent.definition, request.agent, request.update_mask, has_mask=has_mask)
            definition = convert.definition(changed)
            user_id = call.acting_user(changed.user_id)
            await self._refuse_forgotten(tx, user_id)
            updated = await store.update_agent(tx, tenant, agent.agent_id, user_id=user_id, definition=definition)
            return pb.UpdateAgentResponse(agent=convert.wire_agent(updated))

        async with self._database.tenant(tenant) as tx:
            return await once(tx, SCHEMA, request, pb.UpdateAgentResponse, run)

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, context: Context) -> pb.DeleteAgentResponse:
        """Deletes an agent and all its data in every service, as an operation that this call works on first."""

        async def begin(tx: Connection) -> Operation:
            operation_id = ids.new("operation")
            await self._agent(tx, request.agent_id)
            await store.set_agent_state(tx, call.tenant(), request.agent_id, pb.AGENT_STATE_DELETING, operation_id)
            return new_operation(
                operation_id,
                pb.OPERATION_KIND_DELETE_AGENT,
                request.agent_id,
                request.SerializeToString(),
                operations.agent_deletion_steps(delete_blocks=request.delete_blocks),
            )

        return await self._operate(request, pb.DeleteAgentResponse, begin)


def new_operation(
    operation_id: str,
    kind: pb.OperationKind.ValueType,
    subject: str,
    request: bytes,
    steps: tuple[OperationStep, ...],
) -> Operation:
    """An operation that the running call asks for."""
    principal = call.current().principal
    return Operation(
        operation_id=operation_id,
        kind=kind,
        state=pb.OPERATION_STATE_RUNNING,
        subject=subject,
        user_id=principal.user,
        actor=principal.actor,
        input=request,
        create_time=events.now(),
        steps=steps,
    )


def _shown(agent: Agent) -> pb.Agent:
    """The agent for the wire, without what is the operator's own where an end user asks."""
    wire = convert.wire_agent(agent)
    if bound_user():
        for name in ("instructions", "tool_rules", "metadata"):
            wire.ClearField(name)
    return wire


def _failure_of(operation: Operation) -> Error:
    failure = convert.wire_operation(operation).failure
    metadata = {**failure.metadata, "operation_id": operation.operation_id}
    return Error(failure.reason or errors_pb2.REASON_INTERNAL, failure.message, metadata=metadata)
