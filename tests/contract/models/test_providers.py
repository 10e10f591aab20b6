"""One contract for every provider."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.bedrock_wire import Answer, converse_arguments
from mneme.orchestrator.models.port import (
    AnyTool,
    Finished,
    ModelOutput,
    ModelRequest,
    OneTool,
    ReasoningDelta,
    StopReason,
    StreamEvent,
    SystemPart,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    ToolOutcome,
    ToolUse,
    Turn,
    Usage,
    complete,
)
from mneme.orchestrator.models.table import DEFAULT_MODEL, model_info
from mneme.orchestrator.tools import TOOLS, ParsedCall, parse_call
from mneme.runtime.errors import Error
from tests.contract.models.conftest import REMOTE, Provider
from tests.support.bedrock_server import BedrockServer
from tests.support.replies import Fault, Said, Script, ScriptedCall

every_provider = pytest.mark.parametrize("provider", ["offline", *REMOTE], indirect=True)
every_remote = pytest.mark.parametrize("provider", REMOTE, indirect=True)
bedrock_only = pytest.mark.parametrize("provider", ["bedrock"], indirect=True)
openai_only = pytest.mark.parametrize("provider", ["openai"], indirect=True)

SEND = ScriptedCall("send_message", '{"message": "I noted it 😀 好。"}')
MEMORY = '<memory_blocks>\n<block label="human" chars="0" limit="2000" read_only="false">\n\n</block>\n</memory_blocks>'


def asked(provider: Provider, *turns: Turn, tools: bool = True) -> ModelRequest:
    """A request with instructions, memory and turns."""
    return ModelRequest(
        model=provider.model,
        system=(SystemPart("You have a memory.", cache_point=True), SystemPart(MEMORY)),
        turns=turns or (Turn("user", "My bicycle is green."),),
        tools=tuple(TOOLS.values()) if tools else (),
        max_tokens=500,
        temperature=0.1,
        top_p=0.9,
    )


async def events_of(provider: Provider, request: ModelRequest) -> list[StreamEvent]:
    async with aclosing(provider.chat.stream(request)) as stream:
        return [event async for event in stream]


async def failure_of(provider: Provider, request: ModelRequest) -> Error:
    with pytest.raises(Error) as caught:
        await complete(provider.chat, request)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens in another thread and tells nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def output_of(provider: Provider, *turns: Turn) -> ModelOutput:
    return await complete(provider.chat, asked(provider, *turns))


@every_provider
async def test_the_pieces_add_up_to_the_answer(provider: Provider) -> None:
    provider.answers(Said(text="A private thought.", calls=(SEND,)))
    events = await events_of(provider, asked(provider))
    finished = [event for event in events if isinstance(event, Finished)]
    assert events[-1:] == finished
    output = finished[0].output
    assert output.text == "".join(event.text for event in events if isinstance(event, TextDelta))
    started = [event for event in events if isinstance(event, ToolCallStarted)]
    assert [(event.index, event.id, event.name) for event in started] == [
        (index, call.id, call.name) for index, call in enumerate(output.tool_calls)
    ]
    for index, call in enumerate(output.tool_calls):
        pieces = [event.text for event in events if isinstance(event, ToolArgumentsDelta) and event.index == index]
        assert "".join(pieces) == call.arguments_json
    assert output.tool_calls
    assert output.stop_reason is StopReason.TOOL_USE
    assert output.model == provider.model


@every_provider
async def test_calls_can_be_parsed(provider: Provider) -> None:
    provider.answers(Said(calls=(SEND,)))
    output = await output_of(provider)
    for call in output.tool_calls:
        assert isinstance(parse_call(call.name, call.arguments_json), ParsedCall)


@every_provider
async def test_the_bill_counts_prompt_and_answer(provider: Provider) -> None:
    provider.answers(Said(calls=(SEND,), input_tokens=80, cached_tokens=20, output_tokens=7))
    usage = (await output_of(provider)).usage
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    if provider.name in REMOTE:
        assert usage == Usage(input_tokens=80, output_tokens=7, cache_read_tokens=20)
        assert usage.prompt_tokens == 100


@every_provider
async def test_a_call_and_its_outcome_lead_to_an_answer(provider: Provider) -> None:
    provider.answers(
        Said(calls=(ScriptedCall("core_memory_append", '{"label":"human","content":"x"}'),)), Said(calls=(SEND,))
    )
    turns = [Turn("user", "My bicycle is green.")]
    first = await output_of(provider, *turns)
    outcomes = tuple(ToolOutcome(call.id, ok=True, content="OK.") for call in first.tool_calls)
    second = await output_of(provider, *turns, first.as_turn(), Turn("tool", outcomes=outcomes))
    assert [call.name for call in second.tool_calls] == ["send_message"]


@every_provider
async def test_a_request_without_tools_gets_text(provider: Provider) -> None:
    provider.answers(Said(text="A summary."))
    said = Turn("user", "Summary of everything before:\n(none)\n\nMessages that follow:\nuser: My bicycle is green.")
    output = await complete(provider.chat, asked(provider, said, tools=False))
    assert output.text
    assert output.tool_calls == ()
    assert output.stop_reason is StopReason.END_TURN


@every_remote
async def test_parallel_calls_keep_their_order_and_arguments(provider: Provider) -> None:
    calls = tuple(ScriptedCall("conversation_search", json.dumps({"query": f"q{n}"}), f"id-{n}") for n in range(3))
    provider.answers(Said(calls=calls))
    output = await output_of(provider)
    assert output.tool_calls == tuple(ToolUse(call.id, call.name, call.arguments_json) for call in calls)


@every_remote
async def test_bad_json_arrives_as_the_model_wrote_it_and_can_go_back(provider: Provider) -> None:
    provider.answers(Said(calls=(ScriptedCall("send_message", '{"message": "cut'),)), Said(calls=(SEND,)))
    first = await output_of(provider)
    assert first.tool_calls[0].arguments_json == '{"message": "cut'
    failed = Turn("tool", outcomes=(ToolOutcome(first.tool_calls[0].id, ok=False, content="not valid JSON"),))
    await output_of(provider, Turn("user", "Hi"), first.as_turn(), failed)
    assert '{\\"message\\": \\"cut' in json.dumps(provider.script.requests[-1].body) or (
        "not_json" in json.dumps(provider.script.requests[-1].body)
    )


@every_remote
@pytest.mark.parametrize(
    ("stop", "reason"),
    [("end", StopReason.END_TURN), ("length", StopReason.MAX_TOKENS), ("filtered", StopReason.REFUSAL)],
)
async def test_stop_reasons(provider: Provider, stop: str, reason: StopReason) -> None:
    provider.answers(Said(text="So far.", stop=stop))  # type: ignore[arg-type]
    assert (await output_of(provider)).stop_reason is reason


@every_remote
async def test_reasoning_streams_and_is_kept(provider: Provider) -> None:
    provider.answers(Said(reasoning="Let me see what is known.", calls=(SEND,)))
    events = await events_of(provider, asked(provider))
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Let me see what is known."
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [piece.text for piece in finished.output.reasoning] == ["Let me see what is known."]


@bedrock_only
async def test_reasoning_goes_back_to_the_model_that_wrote_it_only(provider: Provider) -> None:
    provider.answers(Said(reasoning="Hm.", calls=(SEND,)))
    first = await output_of(provider)
    sent = Turn("tool", outcomes=(ToolOutcome("call-1", ok=True, content="Sent."),))
    await output_of(provider, Turn("user", "Hi"), first.as_turn(), sent)
    returned = provider.script.requests[-1].body["messages"][1]["content"][0]
    assert returned == {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "signed"}}}
    provider.model = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
    await output_of(provider, Turn("user", "Hi"), first.as_turn(), sent)
    assert "reasoningContent" not in json.dumps(provider.script.requests[-1].body)


@bedrock_only
async def test_only_accepted_sampling_and_cache_points_are_sent_to_bedrock(provider: Provider) -> None:
    await output_of(provider)
    body = provider.script.requests[-1].body
    assert body["inferenceConfig"] == {"maxTokens": 500, "temperature": 0.1}
    assert [next(iter(part)) for part in body["system"]] == ["text", "cachePoint", "text"]
    provider.model = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
    await output_of(provider)
    assert provider.script.requests[-1].body["inferenceConfig"] == {"maxTokens": 500, "temperature": 0.1, "topP": 0.9}
    provider.model = "meta.unknown-v1:0"
    await output_of(provider)
    assert provider.script.requests[-1].body["inferenceConfig"] == {"maxTokens": 500, "temperature": 0.1}
    assert "cachePoint" not in json.dumps(provider.script.requests[-1].body)


@openai_only
async def test_the_chat_request(provider: Provider) -> None:
    await output_of(provider)
    request = provider.script.requests[-1]
    assert request.path == "/v1/chat/completions"
    assert request.body["temperature"] == 0.1
    assert request.body["top_p"] == 0.9
    assert request.body["stream_options"] == {"include_usage": True}
    assert [message["role"] for message in request.body["messages"]] == ["system", "user"]
    assert request.body["tools"][0]["function"]["name"] == "send_message"


@every_remote
@pytest.mark.parametrize(("choice", "wanted"), [(AnyTool(), "send_message"), (OneTool("send_message"), "send_message")])
async def test_a_tool_can_be_demanded(provider: Provider, choice: AnyTool | OneTool, wanted: str) -> None:
    request = asked(provider)
    request = ModelRequest(request.model, request.system, request.turns, request.tools, tool_choice=choice)
    await complete(provider.chat, request)
    body = provider.script.requests[-1].body
    sent = body["toolConfig"]["toolChoice"] if provider.name == "bedrock" else body["tool_choice"]
    expected: dict[str, object] = {
        "bedrock": {"any": {}} if isinstance(choice, AnyTool) else {"tool": {"name": wanted}},
        "openai": "required" if isinstance(choice, AnyTool) else {"type": "function", "function": {"name": wanted}},
    }
    assert sent == expected[provider.name]


@every_remote
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("throttled"), errors_pb2.REASON_PROVIDER_THROTTLED),
        (Fault("throttled", in_stream=True), errors_pb2.REASON_PROVIDER_THROTTLED),
        (Fault("overflow"), errors_pb2.REASON_CONTEXT_OVERFLOW),
        (Fault("denied"), errors_pb2.REASON_PROVIDER_REFUSED),
        (Fault("unknown_model"), errors_pb2.REASON_PROVIDER_REFUSED),
        (Fault("invalid"), errors_pb2.REASON_PROVIDER_REFUSED),
        (Fault("down"), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Fault("down", in_stream=True), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Fault("drop"), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Said(text="This will be cut.", cut_after=3), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Said(text="This will be garbled.", garble_after=3), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
    ],
    ids=str,
)
async def test_failures_have_their_reason(
    provider: Provider, fault: Fault | Said, reason: errors_pb2.Reason.ValueType
) -> None:
    provider.answers(fault)
    error = await failure_of(provider, asked(provider))
    assert error.reason == reason
    assert provider.model in error.message
    assert len(provider.script.requests) == 1, "the adapter does not retry: the loop does"


@every_remote
async def test_throttling_says_when_to_come_back(provider: Provider) -> None:
    provider.answers(Fault("throttled", retry_after=7), Fault("throttled"))
    assert (await failure_of(provider, asked(provider))).retry_after == timedelta(seconds=7)
    assert (await failure_of(provider, asked(provider))).retry_after


@every_remote
async def test_an_answer_follows_a_failure(provider: Provider) -> None:
    provider.answers(Said(text="Never to the end.", cut_after=2), Said(text="Whole."))
    await failure_of(provider, asked(provider))
    assert (await output_of(provider)).text == "Whole."


@every_remote
async def test_a_slow_answer_does_not_hold_up_others(provider: Provider) -> None:
    hold = threading.Event()
    provider.answers(Said(text="Slow.", hold=hold), Said(text="Quick."))
    slow = asyncio.create_task(output_of(provider))
    async with asyncio.timeout(10):
        await until(lambda: bool(provider.script.requests))
        assert (await output_of(provider)).text == "Quick."
        assert not slow.done()
        hold.set()
        assert (await slow).text == "Slow."


@every_remote
async def test_leaving_an_answer_ends_its_request(provider: Provider) -> None:
    hold = threading.Event()
    provider.answers(Said(text="Never read.", hold=hold))
    reader = asyncio.create_task(output_of(provider))
    async with asyncio.timeout(10):
        await until(lambda: bool(provider.script.requests))
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await provider.chat.close()
        await until(lambda: not any(thread.name.startswith("bedrock") for thread in threading.enumerate()))
    assert not hold.is_set(), "the thread ended although the server still holds the answer"
    hold.set()


async def test_a_model_that_does_not_stream_answers_whole(bedrock_server: BedrockServer, bedrock_client: Any) -> None:
    bedrock_server.script = Script()
    bedrock_server.script.replies.append(Said(text="Thought.", reasoning="Hm.", calls=(SEND,)))
    request = ModelRequest(DEFAULT_MODEL, (SystemPart("You have a memory."),), (Turn("user", "Hi"),))
    arguments = converse_arguments(request, model_info(DEFAULT_MODEL))
    answer = Answer(DEFAULT_MODEL)
    assert list(answer.take({"converse": await asyncio.to_thread(lambda: bedrock_client.converse(**arguments))})) == []
    output = answer.finished().output
    assert output.text == "Thought."
    assert [piece.signature for piece in output.reasoning] == ["signed"]
    assert json.loads(output.tool_calls[0].arguments_json) == json.loads(SEND.arguments_json)
    assert output.stop_reason is StopReason.TOOL_USE


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("amazon.titan-embed-text-v2:0", {"inputText": "tea", "dimensions": 512, "normalize": True}),
        ("cohere.embed-multilingual-v3", {"texts": ["tea", "milk"], "input_type": "search_query"}),
    ],
)
async def test_the_bedrock_server_embeds(
    bedrock_server: BedrockServer, bedrock_client: Any, model: str, body: dict[str, Any]
) -> None:
    bedrock_server.script = Script()
    answer = await asyncio.to_thread(
        lambda: json.loads(bedrock_client.invoke_model(modelId=model, body=json.dumps(body))["body"].read())
    )
    vectors = [answer["embedding"]] if "embedding" in answer else answer["embeddings"]
    assert [len(vector) for vector in vectors] == [512] if "embedding" in answer else [1024, 1024]
    assert all(sum(number * number for number in vector) == pytest.approx(1.0) for vector in vectors)
