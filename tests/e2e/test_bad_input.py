"""Bad input gets its own reason and a message that names field and limit; nothing is half written, nothing INTERNAL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from mneme import registry
from mneme.archival.v1 import archival_pb2
from mneme.client import Client, Error, new_request_id
from mneme.common.v1 import common_pb2
from mneme.core_memory.v1 import core_memory_pb2
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.recall.v1 import recall_pb2
from mneme.runtime.errors import from_rpc_error
from mneme.semantic_cache.v1 import semantic_cache_pb2
from tests.support.deployment import Deployment
from tests.support.talking import new_agent, new_conversation, say

UNKNOWN_AGENT = "agent-00000000000000000000000000000000"
TEN_MEGABYTES = 10 * 1024 * 1024
Call = Callable[[Client], Awaitable[Any]]


def message(**fields: Any) -> recall_pb2.AppendMessagesRequest:
    return recall_pb2.AppendMessagesRequest(
        request_id=new_request_id(),
        agent_id=UNKNOWN_AGENT,
        conversation_id="conversation-1",
        messages=[recall_pb2.Message(**{"role": recall_pb2.ROLE_USER, "text": "hello", **fields})],
    )


def passage(text: str, **fields: Any) -> archival_pb2.InsertPassageRequest:
    return archival_pb2.InsertPassageRequest(
        request_id=new_request_id(),
        owner=archival_pb2.PassageOwner(agent_id=UNKNOWN_AGENT),
        passage=archival_pb2.Passage(text=text),
        **fields,
    )


CASES: dict[str, tuple[Call, str, str]] = {
    "unknown agent": (
        lambda c: c.agents.GetAgent(pb.GetAgentRequest(agent_id=UNKNOWN_AGENT)),
        "NOT_FOUND",
        UNKNOWN_AGENT,
    ),
    "conversation with an unknown agent": (
        lambda c: c.agents.CreateConversation(
            pb.CreateConversationRequest(request_id=new_request_id(), agent_id=UNKNOWN_AGENT)
        ),
        "NOT_FOUND",
        UNKNOWN_AGENT,
    ),
    "malformed id": (
        lambda c: c.agents.GetAgent(pb.GetAgentRequest(agent_id="run-1")),
        "INVALID_FIELD",
        "agent_id",
    ),
    "no request id": (
        lambda c: c.agents.CreateAgent(pb.CreateAgentRequest(agent=pb.Agent())),
        "INVALID_FIELD",
        "request_id",
    ),
    "wrong role": (
        lambda c: c.recall.AppendMessages(message(role=recall_pb2.ROLE_UNSPECIFIED)),
        "INVALID_FIELD",
        "messages[0].role",
    ),
    "role out of place": (
        lambda c: c.recall.AppendMessages(
            message(role=recall_pb2.ROLE_TOOL, tool_call_id="no-such-call", tool_ok=True)
        ),
        "INVALID_ROLE",
        "messages[0]",
    ),
    "unknown enum value": (
        lambda c: c.recall.AppendMessages(message(role=42)),
        "UNKNOWN_ENUM_VALUE",
        "messages[0].role",
    ),
    "empty text": (lambda c: c.archival.InsertPassage(passage("")), "INVALID_FIELD", "passage.text"),
    "empty message": (
        lambda c: say(c, "conversation-00000000000000000000000000000000", ""),
        "INVALID_FIELD",
        "text",
    ),
    "ten megabytes": (
        lambda c: c.recall.AppendMessages(message(text="a" * TEN_MEGABYTES)),
        "TEXT_TOO_LONG",
        "1048576",
    ),
    "NUL byte": (lambda c: c.recall.AppendMessages(message(text="a\x00b")), "INVALID_TEXT", "messages[0].text"),
    "broken page token": (
        lambda c: c.agents.ListAgents(pb.ListAgentsRequest(page_token="broken")),
        "INVALID_PAGE_TOKEN",
        "page_token",
    ),
    "negative page size": (
        lambda c: c.recall.ListMessages(recall_pb2.ListMessagesRequest(agent_id=UNKNOWN_AGENT, page_size=-1)),
        "INVALID_FIELD",
        "page_size",
    ),
    "negative limit": (
        lambda c: c.recall.SearchMessages(recall_pb2.SearchMessagesRequest(agent_id=UNKNOWN_AGENT, limit=-5)),
        "INVALID_FIELD",
        "limit",
    ),
    "tool call with bad JSON": (
        lambda c: c.recall.AppendMessages(
            message(
                role=recall_pb2.ROLE_ASSISTANT,
                tool_calls=[{"id": "call-1", "name": "send_message", "arguments_json": '{"message": '}],
            )
        ),
        "INVALID_TOOL_CALL",
        "arguments_json",
    ),
    "dimension mismatch": (
        lambda c: c.archival.InsertPassage(
            passage("text", vector=common_pb2.Vector(values=[0.5, 0.5], space_id="wordllama@256"))
        ),
        "DIMENSION_MISMATCH",
        "256",
    ),
    "dimension mismatch in a query": (
        lambda c: c.recall.SearchMessages(
            recall_pb2.SearchMessagesRequest(
                agent_id=UNKNOWN_AGENT,
                semantic=recall_pb2.SemanticQuery(
                    text="x", vector=common_pb2.Vector(values=[1.0], space_id="wordllama@256")
                ),
            )
        ),
        "DIMENSION_MISMATCH",
        "256",
    ),
    "text over a block's limit": (
        lambda c: c.core_memory.CreateBlock(
            core_memory_pb2.CreateBlockRequest(
                request_id=new_request_id(), block=core_memory_pb2.Block(label="x", value="abcdef", limit_chars=3)
            )
        ),
        "BLOCK_LIMIT_EXCEEDED",
        "6",
    ),
    "cron that makes no sense": (
        lambda c: c.agents.ScheduleEvent(
            pb.ScheduleEventRequest(
                request_id=new_request_id(),
                conversation_id="conversation-00000000000000000000000000000000",
                text="wake up",
                schedule=pb.Schedule(cron="61 25 * * *"),
            )
        ),
        "INVALID_SCHEDULE",
        "cron",
    ),
    "a service's method called by a user": (
        lambda c: c.semantic_cache.Acquire(semantic_cache_pb2.AcquireRequest()),
        "CALLER_NOT_ALLOWED",
        "Acquire",
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_bad_input_has_its_reason_and_names_the_field(client: Client, name: str) -> None:
    call, reason, named = CASES[name]
    with pytest.raises(Error) as refused:
        await call(client)
    error = refused.value
    assert error.reason_name == reason, error
    assert named in error.message, error.message
    assert error.code is not grpc.StatusCode.INTERNAL


async def test_nothing_is_half_written(client: Client) -> None:
    agent_id = await new_agent(client)
    conversation_id = await new_conversation(client, agent_id)
    request = recall_pb2.AppendMessagesRequest(
        request_id=new_request_id(),
        agent_id=agent_id,
        conversation_id=conversation_id,
        messages=[
            recall_pb2.Message(role=recall_pb2.ROLE_USER, text="the first is good"),
            recall_pb2.Message(role=recall_pb2.ROLE_TOOL, text="the second answers nothing", tool_call_id="none"),
        ],
    )
    with pytest.raises(Error):
        await client.recall.AppendMessages(request)
    listed = await client.recall.ListMessages(recall_pb2.ListMessagesRequest(agent_id=agent_id))
    assert not listed.messages


@pytest.mark.parametrize(
    ("token", "reason"), [("", "UNAUTHENTICATED"), ("nonsense", "UNAUTHENTICATED"), ("expired", "CREDENTIAL_EXPIRED")]
)
async def test_a_bad_credential_is_refused_by_every_service(deployment: Deployment, token: str, reason: str) -> None:
    sent = deployment.token("acme", lifetime=-60) if token == "expired" else token
    for service in registry.SERVICES:
        async with grpc.aio.insecure_channel(deployment.addresses[service.name]) as channel:
            method = {
                "orchestrator": "ListAgents",
                "core_memory": "ListBlocks",
                "recall": "ListMessages",
                "archival": "ListKnowledgeBases",
                "embedding": "GetSpace",
                "semantic_cache": "GetStats",
            }[service.name]
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                f"/{service.proto_service}/{method}"
            )
            metadata = (("authorization", f"Bearer {sent}"),) if sent else ()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=metadata)
            assert from_rpc_error(refused.value).reason_name == reason


async def test_text_that_is_no_utf8_is_named(deployment: Deployment, tenant: str) -> None:
    # Field 1 of ListAgentsRequest, `user_id`, with two bytes that no UTF-8 text holds.
    async with grpc.aio.insecure_channel(deployment.addresses["orchestrator"]) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/mneme.orchestrator.v1.AgentService/ListAgents"
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"\x0a\x02\xff\xfe", metadata=(("authorization", f"Bearer {deployment.token(tenant)}"),))
    error = from_rpc_error(refused.value)
    assert error.reason == errors_pb2.REASON_INVALID_TEXT
    assert "user_id" in error.message


async def test_another_tenants_block_looks_like_none(client: Client, deployment: Deployment) -> None:
    created = await client.core_memory.CreateBlock(
        core_memory_pb2.CreateBlockRequest(
            request_id=new_request_id(), block=core_memory_pb2.Block(label="human", value="secret")
        )
    )
    block_id = created.block.block_id
    async with deployment.client("intruder") as intruder:
        with pytest.raises(Error) as refused:
            await intruder.core_memory.AppendText(
                core_memory_pb2.AppendTextRequest(
                    request_id=new_request_id(),
                    ref=core_memory_pb2.BlockRef(block_id=block_id),
                    text="overwritten",
                )
            )
        assert refused.value.reason_name == "NOT_FOUND"
        with pytest.raises(Error) as missing:
            await intruder.agents.CreateAgent(
                pb.CreateAgentRequest(request_id=new_request_id(), agent=pb.Agent(), block_ids=[block_id])
            )
        assert missing.value.reason_name == "NOT_FOUND"
    unchanged = await client.core_memory.GetBlock(
        core_memory_pb2.GetBlockRequest(ref=core_memory_pb2.BlockRef(block_id=block_id))
    )
    assert unchanged.block.value == "secret"
