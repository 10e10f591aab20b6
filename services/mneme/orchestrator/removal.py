"""Removal of agents, conversations and users: here, and in every service that keeps something of theirs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator import convert
from mneme.orchestrator.patience import typed
from mneme.orchestrator.records import Agent, Counts, Operation
from mneme.orchestrator.store import agents as agent_store
from mneme.orchestrator.store import purge
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.runtime import ids
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.peers import Peers
from mneme.semantic_cache.v1 import semantic_cache_pb2

SERVICES: Mapping[str, Any] = MappingProxyType(
    {
        "core_memory": core_memory_pb2.PurgeDataRequest,
        "recall": recall_pb2.PurgeDataRequest,
        "archival": archival_pb2.PurgeDataRequest,
        "semantic_cache": semantic_cache_pb2.PurgeDataRequest,
    }
)
"""Services that keep data of agents and users, in the order in which it is removed."""

_SUBJECT_KINDS: Mapping[int, purge.Kind] = MappingProxyType(
    {pb.OPERATION_KIND_DELETE_CONVERSATION: "conversation", pb.OPERATION_KIND_FORGET_USER: "user"}
)
_AGENTS_AT_ONCE = 8
_PURGE_SECONDS = 600.0
_PURGE_ROUNDS = 3


class Removal:
    """The steps of operations that remove something; each can be repeated."""

    def __init__(self, database: Database, peers: Peers) -> None:
        self._database = database
        self._peers = peers

    async def delete_blocks(self, operation: Operation, agent_id: str) -> Counts:
        """Deletes the agent's blocks that no other agent sees."""
        stub, token = self._peers.core_memory, ""
        removed = 0
        while True:
            page = await stub.ListBlocks(core_memory_pb2.ListBlocksRequest(agent_id=agent_id, page_token=token))
            for block in page.blocks:
                ref = core_memory_pb2.BlockRef(block_id=block.block_id)
                found = await stub.GetBlock(core_memory_pb2.GetBlockRequest(ref=ref))
                others = {attachment.agent_id for attachment in found.attachments} != {agent_id}
                # Where not all are shown, the rest may be others.
                if others or found.attachment_count > len(found.attachments):
                    continue
                await stub.DeleteBlock(
                    core_memory_pb2.DeleteBlockRequest(
                        request_id=ids.derived_uuid(operation.operation_id, "delete", block.block_id),
                        block_id=block.block_id,
                    )
                )
                removed += 1
            token = page.next_page_token
            if not token:
                return (("core_memory.block", removed, 0),)

    async def purge_at(self, service: str, operation: Operation, kind: purge.Kind, subject: str) -> Counts:
        """Removes a subject from a service, again where its recount found something that came in between."""
        named = common_pb2.PurgeSubject(**{f"{kind}_id": subject})
        rounds: list[Counts] = []
        for number in range(_PURGE_ROUNDS):
            request = SERVICES[service](
                request_id=ids.derived_uuid(operation.operation_id, "purge", service, subject, str(number)),
                subject=named,
                operation_id=operation.operation_id,
            )
            response = await getattr(self._peers, service).PurgeData(request, timeout=_PURGE_SECONDS)
            rounds.append(tuple((count.store, count.removed, count.remaining) for count in response.counts))
            if not any(remaining for _, _, remaining in rounds[-1]):
                break
        return _summed(rounds)

    async def forget_answers(self, scope: str) -> Counts:
        """Drops cached answers that a deleted conversation may have shaped."""
        agent_id, _, user_id = scope.partition("/")
        target = semantic_cache_pb2.CacheScope(agent_id=agent_id, user_id=user_id)
        response = await self._peers.semantic_cache.Invalidate(semantic_cache_pb2.InvalidateRequest(scope=target))
        return (("semantic_cache.entries", response.removed_count, 0),)

    async def purge_here(self, tenant: str, operation: Operation, kind: purge.Kind, subject: str) -> Counts:
        async with self._database.tenant(tenant) as tx:
            await purge.bury(tx, tenant, kind, subject, operation.operation_id)
        await self._database.settled()
        async with self._database.tenant(tenant) as tx:
            return tuple(await purge.purge(tx, tenant, kind, subject))

    async def forget_agents(self, tenant: str, operation: Operation) -> Counts:
        """Removes the agents made for a user; one that serves others too is only no longer the user's."""
        user_id = operation.subject
        done: list[Counts] = []
        while True:
            async with self._database.tenant(tenant) as tx:
                found = await agent_store.list_agents(
                    tx, tenant, bound_user="", user_id=user_id, after="", limit=_AGENTS_AT_ONCE
                )
                shared = {one.agent_id for one in found if await agent_store.serves_others(tx, tenant, one)}
                for agent in found:
                    if agent.agent_id in shared:
                        definition = convert.without_user(agent.definition)
                        await agent_store.update_agent(tx, tenant, agent.agent_id, user_id="", definition=definition)
            if not found:
                return _summed(done)
            done += [await self._remove_agent(tenant, operation, one) for one in found if one.agent_id not in shared]

    async def forget_edits(self, tenant: str, operation: Operation) -> Counts:
        """Takes the texts out of recorded edits of blocks that others see too: the user's words stood in them."""
        stub, token, stripped = self._peers.core_memory, "", 0
        seen: set[str] = set()
        while True:
            page = await stub.ListMemoryChanges(
                core_memory_pb2.ListMemoryChangesRequest(user_id=operation.subject, page_token=token)
            )
            for block_id in {change.resource_id for change in page.changes} - seen:
                seen.add(block_id)
                agents = await self._agents_of(block_id)
                async with self._database.tenant(tenant) as tx:
                    stripped += await purge.strip_edits(tx, tenant, block_id, agents)
            token = page.next_page_token
            if not token:
                return (("orchestrator.run_event (edits)", stripped, 0),)

    async def _agents_of(self, block_id: str) -> list[str] | None:
        """Agents that see a block: none for one that is gone, None where they are too many to tell."""
        ref = core_memory_pb2.BlockRef(block_id=block_id)
        try:
            found = await typed(lambda: self._peers.core_memory.GetBlock(core_memory_pb2.GetBlockRequest(ref=ref)))
        except Error as error:
            if error.reason != errors_pb2.REASON_NOT_FOUND:
                raise
            return []
        if found.attachment_count > len(found.attachments):
            return None
        return sorted({attachment.agent_id for attachment in found.attachments})

    async def _remove_agent(self, tenant: str, operation: Operation, agent: Agent) -> Counts:
        done = [await self.delete_blocks(operation, agent.agent_id)]
        done += [await self.purge_at(service, operation, "agent", agent.agent_id) for service in SERVICES]
        return _summed([*done, await self.purge_here(tenant, operation, "agent", agent.agent_id)])


def kind_of(operation: Operation) -> purge.Kind:
    """What a removal concerns."""
    return _SUBJECT_KINDS.get(operation.kind, "agent")


def _summed(rounds: Iterable[Counts]) -> Counts:
    """Counts of several removals, a line a store: what went adds up, what is left is what the last one found."""
    removed: dict[str, int] = {}
    remaining: dict[str, int] = {}
    for store_name, gone, left in itertools.chain.from_iterable(rounds):
        removed[store_name] = removed.get(store_name, 0) + gone
        remaining[store_name] = left
    return tuple((name, gone, remaining[name]) for name, gone in removed.items())
