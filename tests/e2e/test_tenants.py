"""Two tenants with the same users, labels, texts and chosen ids, and two users of one tenant, over every RPC."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mneme import registry
from mneme.archival.v1 import archival_pb2
from mneme.client import Client, new_request_id
from mneme.common.v1 import common_pb2, options_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.runtime.auth import ServiceTokens, SuiteKeys
from mneme.runtime.call import Principal
from mneme.runtime.errors import from_rpc_error
from mneme.semantic_cache.v1 import semantic_cache_pb2
from mneme.settings import AuthSettings
from tests.support.deployment import Deployment
from tests.support.talking import new_conversation, say

USER = "ann"
QUESTION = "Where does Ann keep the spare key?"
FINGERPRINT = "ab" * 32
# The id asked for was chosen by both tenants: each gets what is its own.
CHOSEN_BY_BOTH = {("archival", "GetIngest")}
# Its lease is a secret of who acquired it, so another's is refused before anything else.
NEEDS_A_LEASE = {("semantic_cache", "Commit"), ("semantic_cache", "Abort")}
# A case that ends like this has not reached what it is about.
NEVER = {"INTERNAL", "INVALID_FIELD", "CALLER_NOT_ALLOWED"}
SERVICE_OF = {service.proto_service: service.name for service in registry.SERVICES}

Request = dict[str, Any] | Sequence[dict[str, Any]]


@dataclass(frozen=True)
class World:
    """The ids of what one tenant has: an agent, a conversation with one user, and what this user alone sees."""

    agent: str
    conversation: str
    run: str
    step: str
    message: str
    block: str
    own_block: str
    passage: str
    own_passage: str
    knowledge_base: str
    timer: str
    operation: str
    entry: str
    ingest: str


def chosen(name: str) -> str:
    """The id that every tenant chooses for a thing."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


async def build(client: Client, marker: str, private: str) -> World:
    """Makes a tenant's world. The first marker is in all that users share, the second in what is one user's.

    Whatever may be chosen is the same for every tenant: request ids, ids of messages and passages, users, labels.
    """
    agent = (
        await client.agents.CreateAgent(
            pb.CreateAgentRequest(
                request_id=chosen("agent"),
                agent=pb.Agent(display_name=marker),
                blocks=[pb.BlockSpec(label="policy", value=marker, visibility=common_pb2.BLOCK_VISIBILITY_SHARED)],
            )
        )
    ).agent.agent_id
    conversation = await new_conversation(client, agent, USER)
    turn = await say(client, conversation, f"My spare key is under the {private}.")
    block, own_block = await _blocks(client, agent, marker, private)
    passage, own_passage, knowledge_base = await _passages(client, agent, marker, private)
    message = await _message(client, agent, private)
    steps = await client.agents.ListSteps(pb.ListStepsRequest(run_id=turn.run_id))
    timer = await client.agents.ScheduleEvent(
        pb.ScheduleEventRequest(
            request_id=chosen("timer"),
            conversation_id=conversation,
            text=private,
            schedule=pb.Schedule(cron="0 0 1 1 *"),
        )
    )
    forgetting = await client.agents.ForgetUser(pb.ForgetUserRequest(request_id=chosen("forget"), user_id="nobody"))
    entry = await client.semantic_cache.Put(
        json_format.ParseDict(
            {"request_id": chosen("put"), "key": cache_key(agent), "entry": {"answer": private}},
            semantic_cache_pb2.PutRequest(),
        )
    )
    return World(
        agent=agent,
        conversation=conversation,
        run=turn.run_id,
        step=steps.steps[0].step_id,
        message=message,
        block=block,
        own_block=own_block,
        passage=passage,
        own_passage=own_passage,
        knowledge_base=knowledge_base,
        timer=timer.scheduled_event.timer_id,
        operation=forgetting.operation.operation_id,
        entry=entry.entry_id,
        ingest=chosen("ingest"),
    )


async def _blocks(client: Client, agent: str, marker: str, private: str) -> tuple[str, str]:
    shared = core_memory_pb2.Block(label="human", value=f"{marker} human")
    own = core_memory_pb2.Block(label="notes", value=private, user_id=USER)
    made = []
    for block, user in ((shared, ""), (own, USER)):
        request = core_memory_pb2.CreateBlockRequest(request_id=chosen(block.label), block=block)
        request.attachments.add(agent_id=agent, user_id=user)
        made.append((await client.core_memory.CreateBlock(request)).block.block_id)
    return made[0], made[1]


async def _passages(client: Client, agent: str, marker: str, private: str) -> tuple[str, str, str]:
    base = await client.archival.CreateKnowledgeBase(
        archival_pb2.CreateKnowledgeBaseRequest(
            request_id=chosen("base"), knowledge_base=archival_pb2.KnowledgeBase(display_name=marker)
        )
    )
    base_id = base.knowledge_base.knowledge_base_id
    owners = (archival_pb2.PassageOwner(knowledge_base_id=base_id), archival_pb2.PassageOwner(agent_id=agent))
    made = []
    for owner, text, user in ((owners[0], f"{marker} key", ""), (owners[1], f"{private} key", USER)):
        passage = archival_pb2.Passage(text=text, user_id=user)
        request = archival_pb2.InsertPassageRequest(request_id=chosen(text[-9:] + user), owner=owner, passage=passage)
        made.append((await client.archival.InsertPassage(request)).passage.passage_id)
    await client.archival.IngestPassages(
        iter(
            [
                archival_pb2.IngestPassagesRequest(
                    start=archival_pb2.IngestStart(request_id=chosen("ingest"), owner=owners[0])
                ),
                archival_pb2.IngestPassagesRequest(
                    item=archival_pb2.PassageItem(passage=archival_pb2.Passage(text=f"{marker} ingested"))
                ),
            ]
        )
    )
    return made[0], made[1], base_id


async def _message(client: Client, agent: str, private: str) -> str:
    message_id = f"message-{chosen('message')}"
    request = recall_pb2.AppendMessagesRequest(
        request_id=chosen("append"),
        agent_id=agent,
        conversation_id=f"conversation-{chosen('conversation')}",
        user_id=USER,
        messages=[recall_pb2.Message(message_id=message_id, role=recall_pb2.ROLE_USER, text=private)],
    )
    await client.recall.AppendMessages(request)
    return message_id


def nobodys(world: World) -> World:
    """Ids of the same kinds that nobody ever had."""
    made_up = {
        name: new_request_id() if name == "ingest" else f"{value.partition('-')[0]}-{uuid.uuid4().hex}"
        for name, value in asdict(world).items()
    }
    return replace(world, **made_up)


def cache_key(agent: str) -> dict[str, Any]:
    return {"scope": {"agent_id": agent, "user_id": USER}, "question": QUESTION, "fingerprint": FINGERPRINT}


def orchestrator_cases(w: World) -> dict[str, Request]:
    agent, conversation, run = {"agent_id": w.agent}, {"conversation_id": w.conversation}, {"run_id": w.run}
    return {
        "GetAgent": agent,
        "ListAgents": {"user_id": USER},
        "CreateAgent": {"agent": {}, "block_ids": [w.block], "knowledge_base_ids": [w.knowledge_base]},
        "UpdateAgent": {**agent, "agent": {"display_name": "taken over"}},
        "ExportAgent": agent,
        "ImportAgent": [{"start": {"request_id": new_request_id(), "user_id": USER}}],
        "CreateConversation": {**agent, "user_id": USER},
        "GetConversation": conversation,
        "ListConversations": {**agent, "user_id": USER},
        "SendMessage": {**conversation, "text": "What do you know?"},
        "SendEvent": {**conversation, "kind": "EVENT_KIND_SYSTEM", "text": "wake up"},
        "ScheduleEvent": {**conversation, "text": "wake up", "schedule": {"cron": "0 0 1 1 *"}},
        "ListScheduledEvents": conversation,
        "CancelScheduledEvent": {"timer_id": w.timer},
        "GetRun": run,
        "ListRuns": {**agent, **conversation},
        "WatchRun": run,
        "CancelRun": run,
        "ResumeRun": {**run, "tool_call_id": "call-1", "approval": {"approved": True}},
        "ListDeadLetters": agent,
        "RetryDeadLetter": {"event_id": f"event-{uuid.uuid4().hex}"},
        "ListSteps": run,
        "GetContextWindow": conversation,
        "ReplayStep": {"step_id": w.step},
        "GetOperation": {"operation_id": w.operation},
        "ListOperations": {},
        "GetUsage": {**agent, "user_id": USER},
        "DeleteConversation": conversation,
        "DeleteAgent": {**agent, "delete_blocks": True},
        "ExportUser": {"user_id": USER},
        "ForgetUser": {"user_id": USER},
    }


def core_memory_cases(w: World) -> dict[str, Request]:
    ref, block = {"ref": {"block_id": w.own_block}}, {"block_id": w.own_block}
    attachment = {"agent_id": w.agent, "user_id": USER}
    subject = {"subject": {"agent_id": w.agent}}
    return {
        "GetBlock": ref,
        "ListBlocks": {"agent_id": w.agent, "user_id": USER},
        "CreateBlock": {"block": {"label": "new"}, "template_block_id": w.block, "attachments": [attachment]},
        "UpdateBlock": {**ref, "block": {"value": "taken over"}},
        "AppendText": {**ref, "text": "taken over"},
        "ReplaceText": {"ref": {"agent_label": {**attachment, "label": "notes"}}, "old_text": "q", "new_text": "x"},
        "RemoveText": {"ref": {"agent_label": {**attachment, "label": "notes"}}, "text": "q"},
        "AttachBlock": {**block, "attachment": attachment},
        "DetachBlock": {**block, **attachment},
        "ListVersions": block,
        "DiffVersions": {**block, "from_version": 1},
        "RestoreVersion": {**block, "version": 1},
        "RenderMemory": attachment,
        "ListMemoryChanges": {"block_id": w.own_block, "user_id": USER},
        "DeleteBlock": block,
        "ExportData": subject,
        "PurgeData": subject,
    }


def recall_cases(w: World) -> dict[str, Request]:
    agent, ids = {"agent_id": w.agent}, {"message_ids": [w.message]}
    place = {**agent, "conversation_id": w.conversation}
    subject = {"subject": {"conversation_id": w.conversation}}
    message = {"message_id": w.message, "role": "ROLE_USER", "text": "taken over"}
    return {
        "ListMessages": {**agent, "filter": {"user_id": USER}},
        "GetMessages": {**agent, **ids},
        "SearchMessages": {**agent, "hybrid": {"text": "spare key"}, "neighbours": 2, "highlight": True},
        "GetWindow": place,
        "EvictMessages": {**place, "first_kept_sequence": 2, "summary": "taken over"},
        "SetRetention": {"subject": agent, "max_age_days": 1},
        "GetRetention": {"subject": agent},
        "DeleteMessages": {**agent, **ids},
        "AppendMessages": {**place, "messages": [message]},
        "ExportData": {"subject": agent},
        "PurgeData": subject,
    }


def archival_cases(w: World) -> dict[str, Request]:
    own, passage = {"owner": {"agent_id": w.agent}}, {"passage_id": w.own_passage}
    base, agent = {"knowledge_base_id": w.knowledge_base}, {"agent_id": w.agent}
    text = {"text": "planted", "user_id": USER}
    vector = {"values": [1 / 16] * 256, "space_id": "wordllama@256"}
    return {
        "InsertPassage": {"owner": base, "passage": {"text": "planted"}, "supersedes_passage_ids": [w.passage]},
        "InsertPassages": {"owner": base, "items": [{"passage": {"text": "planted"}}]},
        "IngestPassages": [{"start": {"request_id": new_request_id(), "owner": base}}, {"item": {"passage": text}}],
        "GetIngest": {"request_id": w.ingest},
        "GetPassage": passage,
        "ListPassages": {**own, "filter": {"user_id": USER}},
        "UpdatePassage": {**passage, "passage": {"text": "taken over"}},
        "ListPassageVersions": passage,
        "RestorePassageVersion": {**passage, "version": 1},
        "ReinstatePassage": passage,
        "SearchPassages": {
            "scope": {**agent, "knowledge_base_ids": [w.knowledge_base]},
            "query": "key",
            "filter": {"user_id": USER},
        },
        "CreateKnowledgeBase": {"knowledge_base": {"display_name": f"new {uuid.uuid4()}"}},
        "GetKnowledgeBase": base,
        "ListKnowledgeBases": agent,
        "UpdateKnowledgeBase": {**base, "knowledge_base": {"display_name": "taken over"}},
        "AttachKnowledgeBase": {**base, **agent},
        "DetachKnowledgeBase": {**base, **agent},
        "GetRevisions": agent,
        "CheckUnchanged": {**base, "since_revision": 1, "passage_ids": [w.passage], "vector": vector},
        "ListMemoryChanges": {"passage_id": w.own_passage, "user_id": USER},
        "DeletePassage": passage,
        "DeleteKnowledgeBase": base,
        "ExportData": {"subject": agent},
        "PurgeData": {"subject": agent},
    }


def embedding_cases() -> dict[str, Request]:
    return {"Embed": {"texts": ["key"]}, "GetSpace": {}, "SwitchSpace": {"space_id": "none@1"}}


def semantic_cache_cases(w: World) -> dict[str, Request]:
    key, lease = {"key": cache_key(w.agent)}, {"lease_token": "none"}
    return {
        "Lookup": key,
        "Explain": key,
        "Acquire": key,
        "Commit": {**key, **lease, "entry": {"answer": "planted"}},
        "Abort": {**key, **lease},
        "Put": {**key, "entry": {"answer": "planted"}},
        "Feedback": {"entry_id": w.entry, "verdict": "VERDICT_WRONG"},
        "Invalidate": {"entry_id": w.entry},
        "GetStats": {"agent_id": w.agent},
        "TakeSamples": {"limit": 10},
        "JudgeSample": {"sample_id": f"sample-{uuid.uuid4().hex}", "verdict": "VERDICT_WRONG"},
        "OpenStratum": {"stratum": "shared/semantic/0.90/guards"},
        "PurgeData": {"subject": {"agent_id": w.agent}},
    }


def cases(w: World) -> dict[tuple[str, str], Request]:
    """A request for every method of every service, with a world's ids in each field that takes one."""
    by_service = {
        "orchestrator": orchestrator_cases(w),
        "core_memory": core_memory_cases(w),
        "recall": recall_cases(w),
        "archival": archival_cases(w),
        "embedding": embedding_cases(),
        "semantic_cache": semantic_cache_cases(w),
    }
    return {(service, method): case for service, own in by_service.items() for method, case in own.items()}


def methods(deployment: Deployment) -> dict[tuple[str, str], MethodDescriptor]:
    """Every method that the deployment offers, as its reflection lists them."""
    found = {}
    for proto_service, name in SERVICE_OF.items():
        with grpc.insecure_channel(deployment.addresses[name]) as channel:
            listed = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(proto_service)
            for method in listed.methods:
                found[name, method.name] = Default().FindMethodByName(method.full_name)
    return found


@dataclass
class Caller:
    """Calls any method as one tenant's operator or user; what only services may call, as the orchestrator for them."""

    deployment: Deployment
    tenant: str
    user: str = ""

    async def outcome(self, service: str, method: MethodDescriptor, case: Request) -> tuple[str, bytes]:
        """Returns the reason of the failure, or OK, and all bytes that came back."""
        async with grpc.aio.insecure_channel(self.deployment.addresses[service]) as channel:
            try:
                received = [one async for one in self._received(channel, service, method, case)]
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error)
                told = repr((failure.message, failure.metadata, error.details(), error.trailing_metadata()))
                return failure.reason_name, told.encode()
        return "OK", b"".join(received)

    async def _received(
        self,
        channel: Any,  # bytes in, bytes out: what its types do not provide for
        service: str,
        method: MethodDescriptor,
        case: Request,
    ) -> AsyncIterator[bytes]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        sent = [_encoded(method, one) for one in ([case] if isinstance(case, Mapping) else case)]
        options: dict[str, Any] = {"metadata": [("authorization", f"Bearer {self._token(service, method)}")]}
        options["timeout"] = 30
        if method.client_streaming:
            yield await channel.stream_unary(path)(iter(sent), **options)
        elif method.server_streaming:
            async for one in channel.unary_stream(path)(sent[0], **options):
                yield one
        else:
            yield await channel.unary_unary(path)(sent[0], **options)

    def _token(self, service: str, method: MethodDescriptor) -> str:
        if method.GetOptions().Extensions[options_pb2.access].users:
            return self.deployment.token(self.tenant, self.user)
        folder = self.deployment.credentials
        settings = AuthSettings(jwks=str(folder / "jwks.json"), suite_keys_file=folder / "suite.key")
        principal = Principal(self.tenant, "tester", self.user, "orchestrator")
        return ServiceTokens(SuiteKeys.load(settings), settings).token("orchestrator", service, principal)


def _encoded(method: MethodDescriptor, fields: Mapping[str, Any]) -> bytes:
    message = GetMessageClass(method.input_type)()
    given = dict(fields)
    if "request_id" in method.input_type.fields_by_name:
        given.setdefault("request_id", new_request_id())
    return json_format.ParseDict(given, message).SerializeToString()


async def kept(caller: Caller, world: World) -> dict[tuple[str, str], bytes]:
    """Returns all that the memory services keep of a world's agent and user, and what the cache would serve."""
    offered = methods(caller.deployment)
    found = {}
    for service in ("core_memory", "recall", "archival"):
        for subject in ({"agent_id": world.agent}, {"user_id": USER}):
            method = offered[service, "ExportData"]
            outcome, found[service, repr(subject)] = await caller.outcome(service, method, {"subject": subject})
            assert outcome == "OK"
    agent = {"agent_id": world.agent}
    _, found["orchestrator", "agent"] = await caller.outcome("orchestrator", offered["orchestrator", "GetAgent"], agent)
    return found


def test_every_method_has_a_case(deployment: Deployment) -> None:
    example = World(*(["agent-1"] * 14))
    assert set(cases(example)) == set(methods(deployment))


async def test_tenants_with_the_same_ids_users_and_texts_never_see_each_other(deployment: Deployment) -> None:
    """Peers' complaint 37: reads answered from the last-written tenant's graph.

    getzep/graphiti/issues/1795, getzep/graphiti/issues/1842. What another tenant has cannot be told from what nobody
    ever had, in any method, and nothing of it can be changed.
    """
    suffix = uuid.uuid4().hex[:12]
    marker, private = f"plum{suffix}", f"quince{suffix}"
    tenants = [f"tenant-{suffix}-a", f"tenant-{suffix}-b"]
    async with deployment.client(tenants[0]) as client:
        theirs = await build(client, marker, private)
    async with deployment.client(tenants[1]) as client:
        await build(client, "other", "words")
    owner, intruder = (Caller(deployment, tenant) for tenant in tenants)
    before = await kept(owner, theirs)
    assert all(marker.encode() in before[key] or private.encode() in before[key] for key in before)

    offered = methods(deployment)
    nobody = cases(nobodys(theirs))
    wrong = []
    for (service, name), case in cases(theirs).items():
        outcome, told = await intruder.outcome(service, offered[service, name], case)
        unknown, _ = await intruder.outcome(service, offered[service, name], nobody[service, name])
        if outcome != unknown and (service, name) not in CHOSEN_BY_BOTH:
            wrong.append(f"{service}/{name}: {outcome} for another tenant's, {unknown} for nobody's")
        if outcome in NEVER and (service, name) not in NEEDS_A_LEASE:
            wrong.append(f"{service}/{name}: {told!r}")
        if marker.encode() in told or private.encode() in told:
            wrong.append(f"{service}/{name} shows another tenant's text")
    assert not wrong

    assert await kept(owner, theirs) == before
    outcome, told = await owner.outcome(
        "semantic_cache", offered["semantic_cache", "Lookup"], {"key": cache_key(theirs.agent)}
    )
    assert private.encode() in told


async def test_a_user_never_sees_what_is_another_users(deployment: Deployment) -> None:
    suffix = uuid.uuid4().hex[:12]
    marker, private = f"plum{suffix}", f"quince{suffix}"
    tenant = f"tenant-{suffix}"
    async with deployment.client(tenant) as client:
        world = await build(client, marker, private)
    before = await kept(Caller(deployment, tenant), world)

    offered = methods(deployment)
    bob = Caller(deployment, tenant, "bob")
    wrong = []
    for (service, name), case in cases(world).items():
        access = offered[service, name].GetOptions().Extensions[options_pb2.access]
        if not access.users:
            continue
        outcome, told = await bob.outcome(service, offered[service, name], case)
        if (outcome == "CALLER_NOT_ALLOWED") is access.bound_users or outcome in NEVER - {"CALLER_NOT_ALLOWED"}:
            wrong.append(f"{service}/{name}: {outcome} {told!r}")
        if private.encode() in told:
            wrong.append(f"{service}/{name} shows another user's text")
    assert not wrong

    assert await kept(Caller(deployment, tenant), world) == before
