"""Operations: work that crosses services, in steps that can each be repeated.

A step is one idempotent call, with a request_id derived from the operation and the step's name. It is done when its
call has answered; until then it is tried again, by this process or another. A step that is refused for good ends the
operation; what was made so far is taken back where that makes sense.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator import events
from mneme.orchestrator.patience import is_transient, typed
from mneme.orchestrator.records import Counts, Operation, OperationStep
from mneme.orchestrator.removal import SERVICES, Removal, kind_of
from mneme.orchestrator.store import agents as agent_store
from mneme.orchestrator.store import operations as store
from mneme.orchestrator.store import purge
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call, ids
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.peers import Peers
from mneme.settings import OrchestratorSettings

_BATCH = 8
_RETRY_SECONDS = (0.5, 30.0)

DEFAULT_BLOCKS = (
    pb.BlockSpec(
        label="persona",
        value="I am a helpful assistant with a memory that lasts.",
        description="Who you are and how you behave.",
    ),
    pb.BlockSpec(
        label="human",
        description="What you know about the person you talk to: name, facts, wishes, preferences.",
        copy_per_user=True,
    ),
)
"""Blocks of an agent that was created without any."""

log = structlog.stdlib.get_logger("mneme.orchestrator.operations")

Step = Callable[[], Awaitable[Counts]]


class Operations:
    """Works on operations."""

    def __init__(self, database: Database, peers: Peers, settings: OrchestratorSettings) -> None:
        self._database = database
        self._peers = peers
        self._removal = Removal(database, peers)
        self._hold = timedelta(seconds=settings.operation_hold)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hold(self) -> timedelta:
        """For how long an operation belongs to the process that began it."""
        return self._hold

    async def work_due(self) -> None:
        """Begins to work on operations that were left by somebody else, or wait for a service."""
        async with self._database.work() as tx:
            heads = await store.claim(tx, limit=_BATCH, hold=self._hold)
        for head in heads:
            task = asyncio.create_task(self._guarded(head.tenant, head.operation_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends all work; others go on with it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def work(self, tenant: str, operation_id: str) -> Operation:
        """Works on an operation until it has ended or waits; returns how far it is.

        Raises:
            Error: The orchestrator's own database does not answer.
        """
        async with self._database.tenant(tenant) as tx:
            operation = await store.get(tx, tenant, operation_id)
        assert operation is not None
        if operation.state != pb.OPERATION_STATE_RUNNING:
            return operation
        deadline = call.current().deadline if call.find() else math.inf
        with call.enter(Call(Principal(tenant, operation.actor), deadline)):
            return await self._work(tenant, operation)

    async def _guarded(self, tenant: str, operation_id: str) -> None:
        try:
            await self.work(tenant, operation_id)
        except Error as error:
            log.warning("operation_left", operation_id=operation_id, reason=error.reason_name)

    async def _work(self, tenant: str, operation: Operation) -> Operation:
        steps = list(operation.steps)
        for index, step in enumerate(steps):
            if step.done:
                continue
            steps[index] = replace(step, attempts=step.attempts + 1)
            try:
                counts = await typed(self._step(tenant, operation, step.name))
            except Error as error:
                return await self._interrupted(tenant, operation, steps, index, error)
            steps[index] = replace(steps[index], done=True, counts=counts)
        async with self._database.tenant(tenant) as tx:
            return await store.record(tx, tenant, operation.operation_id, steps, pb.OPERATION_STATE_DONE)

    async def _interrupted(
        self, tenant: str, operation: Operation, steps: Sequence[OperationStep], index: int, error: Error
    ) -> Operation:
        log.warning(
            "operation_step_failed",
            operation_id=operation.operation_id,
            step=steps[index].name,
            reason=error.reason_name,
        )
        transient = is_transient(error) or operation.kind != pb.OPERATION_KIND_CREATE_AGENT
        if not transient:
            await self._take_back(tenant, operation)
        first, longest = _RETRY_SECONDS
        delay = min(longest, first * 2 ** min(steps[index].attempts, 10))
        state = pb.OPERATION_STATE_RUNNING if transient else pb.OPERATION_STATE_FAILED
        failure = events.failure_of(error).SerializeToString()
        async with self._database.tenant(tenant) as tx:
            recorded = await store.record(tx, tenant, operation.operation_id, steps, state, failure)
            if transient:
                await store.postpone(tx, tenant, operation.operation_id, timedelta(seconds=delay))
        return recorded

    async def _take_back(self, tenant: str, operation: Operation) -> None:
        """Removes what a failed creation has made; the agent was never ready, so nobody has used it."""
        try:
            await typed(lambda: self._removal.purge_at("core_memory", operation, "agent", operation.subject))
        except Error as error:
            log.warning("operation_not_taken_back", operation_id=operation.operation_id, reason=error.reason_name)
        async with self._database.tenant(tenant) as tx:
            await purge.purge(tx, tenant, "agent", operation.subject)

    def _step(self, tenant: str, operation: Operation, name: str) -> Step:
        """What a step does, by its name: `action` or `action:subject`."""
        action, _, subject = name.partition(":")
        actions: dict[str, Step] = {
            "create_block": lambda: self._create_block(operation, name, subject),
            "attach_block": lambda: self._attach_block(operation, name, subject),
            "attach_knowledge_base": lambda: self._attach_knowledge_base(operation, name, subject),
            "ready": lambda: self._make_ready(tenant, operation),
            "delete_blocks": lambda: self._removal.delete_blocks(operation, operation.subject),
            "purge": lambda: self._removal.purge_at(subject, operation, kind_of(operation), operation.subject),
            "purge_here": lambda: self._removal.purge_here(tenant, operation, kind_of(operation), operation.subject),
            "forget_edits": lambda: self._removal.forget_edits(tenant, operation),
            "forget_agents": lambda: self._removal.forget_agents(tenant, operation),
            "forget_answers": lambda: self._removal.forget_answers(subject),
        }
        return actions[action]

    async def _create_block(self, operation: Operation, name: str, label: str) -> Counts:
        request = pb.CreateAgentRequest.FromString(operation.input)
        spec = next(spec for spec in blocks_of(request) if spec.label == label)
        await self._peers.core_memory.CreateBlock(
            core_memory_pb2.CreateBlockRequest(
                request_id=ids.derived_uuid(operation.operation_id, name),
                block_id=ids.derived("block", operation.operation_id, label),
                block=core_memory_pb2.Block(
                    label=spec.label,
                    value=spec.value,
                    description=spec.description,
                    limit_chars=spec.limit_chars,
                    read_only=spec.read_only,
                    visibility=spec.visibility,
                ),
                attachments=[
                    core_memory_pb2.BlockAttachment(agent_id=operation.subject, copy_per_user=spec.copy_per_user)
                ],
                provenance=common_pb2.Provenance(reason="agent created", trust_level=common_pb2.TRUST_LEVEL_OPERATOR),
            )
        )
        return ()

    async def _attach_block(self, operation: Operation, name: str, block_id: str) -> Counts:
        await self._peers.core_memory.AttachBlock(
            core_memory_pb2.AttachBlockRequest(
                request_id=ids.derived_uuid(operation.operation_id, name),
                block_id=block_id,
                attachment=core_memory_pb2.BlockAttachment(agent_id=operation.subject),
            )
        )
        return ()

    async def _attach_knowledge_base(self, operation: Operation, name: str, knowledge_base_id: str) -> Counts:
        await self._peers.archival.AttachKnowledgeBase(
            archival_pb2.AttachKnowledgeBaseRequest(
                request_id=ids.derived_uuid(operation.operation_id, name),
                knowledge_base_id=knowledge_base_id,
                agent_id=operation.subject,
            )
        )
        return ()

    async def _make_ready(self, tenant: str, operation: Operation) -> Counts:
        async with self._database.tenant(tenant) as tx:
            await agent_store.set_agent_state(
                tx, tenant, operation.subject, pb.AGENT_STATE_READY, operation.operation_id
            )
        return ()


def blocks_of(request: pb.CreateAgentRequest) -> Sequence[pb.BlockSpec]:
    """Blocks to make for a new agent."""
    return request.blocks if request.blocks or request.block_ids else DEFAULT_BLOCKS


def creation_steps(request: pb.CreateAgentRequest) -> tuple[OperationStep, ...]:
    """Steps that make an agent's parts."""
    names = [
        *(f"create_block:{spec.label}" for spec in blocks_of(request)),
        *(f"attach_block:{block_id}" for block_id in request.block_ids),
        *(f"attach_knowledge_base:{kb_id}" for kb_id in request.knowledge_base_ids),
        "ready",
    ]
    return tuple(OperationStep(name) for name in dict.fromkeys(names))


def agent_deletion_steps(*, delete_blocks: bool) -> tuple[OperationStep, ...]:
    """Steps that remove an agent: here first, so that nothing runs any more; here again at the end, as a recount."""
    names = [
        "purge_here:first",
        *(["delete_blocks"] if delete_blocks else []),
        *(f"purge:{service}" for service in SERVICES),
        "purge_here:recount",
    ]
    return tuple(OperationStep(name) for name in names)


def conversation_deletion_steps(agent_id: str, user_id: str) -> tuple[OperationStep, ...]:
    """Steps that remove a conversation."""
    names = ("purge_here:first", "purge:recall", f"forget_answers:{agent_id}/{user_id}", "purge_here:recount")
    return tuple(OperationStep(name) for name in names)


def user_forgetting_steps() -> tuple[OperationStep, ...]:
    """Steps that remove a user: here first, so that no run goes on; the user's own agents; here again as a recount."""
    names = (
        "purge_here:first",
        *(f"purge:{service}" for service in SERVICES),
        "forget_edits",
        "forget_agents",
        "purge_here:recount",
    )
    return tuple(OperationStep(name) for name in names)
