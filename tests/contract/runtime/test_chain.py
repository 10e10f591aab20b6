"""What a client gets from every call, through a real server: codes, reasons, deadlines, traces, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.contract.runtime import echo
from tests.contract.runtime.conftest import Launch, Running, failure

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
KINDS = ["Say", "SayMany", "Collect", "Converse"]


async def until(condition: Any) -> None:
    """Waits at most five seconds until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (some conditions are metrics)
            await asyncio.sleep(0.005)


async def stream(*requests: Any) -> AsyncIterator[Any]:
    for one in requests:
        yield one


async def finish(running: Running, method: str, *requests: Any, **options: Any) -> list[Any]:
    """Runs a call of any kind to its end; returns its responses."""
    sent = stream(*requests) if method in ("Collect", "Converse") else requests[0]
    started = running.start(method, sent, **options)
    if method in ("Say", "Collect"):
        return [await started]
    return [response async for response in started]


@pytest.mark.parametrize("method", KINDS)
async def test_all_kinds_of_call_answer(running: Running, method: str) -> None:
    responses = await finish(running, method, echo.request(text="hello", count=1))
    assert [response.text for response in responses] == ["hello"]


async def test_the_call_tells_who_and_how_long(running: Running) -> None:
    answer = await running.start(
        "Say",
        echo.request(),
        token=running.token("acme", "ann"),
        timeout=7,
        metadata=(("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00"),),
    )
    assert (answer.tenant, answer.actor, answer.user, answer.service) == ("acme", "developer", "ann", "")
    assert 5 < answer.remaining < 7.5
    assert answer.trace_id == TRACE


@pytest.mark.parametrize(
    ("play", "code", "reason"),
    [
        ("typed", grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ("long", grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ("bug", grpc.StatusCode.INTERNAL, "INTERNAL"),
        ("store", grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
        ("slow", grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        ("unbuilt", grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
        ("group", grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
        ("cancelled", grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("method", ["Say", "SayMany", "Converse"])
async def test_each_failure_has_its_code_and_reason(
    running: Running, method: str, play: str, code: grpc.StatusCode, reason: str
) -> None:
    error = await failure(finish(running, method, echo.request(play=play)))
    assert (error.code, error.reason_name) == (code, reason)


async def test_an_unknown_failure_tells_nothing_but_the_trace(running: Running) -> None:
    error = await failure(running.say(play="bug"))
    assert "secret" not in error.message
    assert error.metadata["trace_id"] in error.message
    assert len(error.metadata["trace_id"]) == 32


async def test_a_stream_delivers_what_came_before_its_failure(running: Running) -> None:
    started = running.start("SayMany", echo.request(text="x", count=3, play="typed"))
    got: list[str] = []

    async def read() -> None:
        async for response in started:
            got.append(response.text)  # noqa: PERF401  (what came before the failure counts)

    error = await failure(read())
    assert got == ["x", "x", "x"]
    assert error.metadata == {"resource": "agent-1"}


async def test_the_default_deadline_ends_a_call_without_one(launch: Launch) -> None:
    async with launch(default_deadline=0.05) as running:
        error = await failure(running.start("Say", echo.request(play="hold"), timeout=None))
        assert error.reason_name == "DEADLINE_EXCEEDED"
        assert error.metadata == {"seconds": "0.05"}
        assert running.echo.cancelled == 1


async def test_no_call_gets_more_than_the_longest_deadline(launch: Launch) -> None:
    async with launch(max_deadline=3) as running:
        assert (await running.say()).remaining < 3.5


async def test_a_client_that_leaves_cancels_the_work(running: Running) -> None:
    for method in ("Say", "SayMany"):
        running.echo.held.clear()
        started = running.start(method, echo.request(play="hold"))
        waiting = asyncio.ensure_future(started.read() if method == "SayMany" else started)
        await asyncio.wait_for(running.echo.held.wait(), 5)
        started.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: running.echo.cancelled == 2)
    labels = {"method": f"{echo.SERVICE}/SayMany", "code": "CANCELLED"}
    name = "mneme_rpc_server_duration_seconds_count"
    await until(lambda: running.metrics.registry.get_sample_value(name, labels) == 1)


async def test_more_calls_than_the_bound_are_refused_with_a_time_to_retry(launch: Launch) -> None:
    async with launch(max_user_calls=1) as running:
        first = running.start("Say", echo.request(play="hold"))
        waiting = asyncio.ensure_future(first)
        await asyncio.wait_for(running.echo.held.wait(), 5)
        error = await failure(running.say())
        assert (error.code, error.reason_name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert error.metadata == {"limit": "1"}
        assert error.retry_after is not None
        [streamed] = await finish(running, "SayMany", echo.request(text="streams have their own bound", count=1))
        assert streamed.text
        running.echo.release.set()
        await waiting
        await running.say()


@pytest.mark.parametrize("method", KINDS)
async def test_invalid_utf8_names_the_field(running: Running, method: str) -> None:
    inner = b"\x0a\x02\xff\xfe"
    raw = b"\x2a" + bytes([len(inner)]) + inner
    error = await failure(finish(running, method, raw))
    assert (error.code, error.reason_name) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TEXT")
    assert error.message == "items[0].text: is not valid UTF-8"


async def test_bytes_that_are_no_message_are_an_invalid_argument(running: Running) -> None:
    error = await failure(running.start("Say", b"\x0a\x05a"))
    assert (error.code, error.reason_name) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_an_oversized_message_names_the_field_where_one_is_too_long(launch: Launch) -> None:
    async with launch(max_receive_bytes=1024) as running:
        error = await failure(running.say(text="x" * 2000))
        assert (error.reason_name, error.metadata["field"], error.metadata["limit"]) == ("TEXT_TOO_LONG", "text", "100")
        error = await failure(running.say(free="x" * 2000))
        assert (error.reason_name, error.metadata["field"], error.metadata["limit"]) == (
            "TEXT_TOO_LONG",
            "request",
            "1024",
        )


async def test_a_message_far_over_the_limit_is_refused_by_grpc_itself(launch: Launch) -> None:
    async with launch(max_receive_bytes=1024) as running:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.say(free="x" * 5000)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in str(raised.value.details())


async def test_a_broken_rule_in_a_stream_ends_the_stream(running: Running) -> None:
    error = await failure(finish(running, "Converse", echo.request(), echo.request(page_size=-1)))
    assert error.message == "page_size: -1 is below the smallest accepted value, 0"
    assert [violation.field for violation in error.violations] == ["page_size"]


async def test_a_servicers_own_abort_keeps_its_code(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.say(play="abort")
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS


async def test_a_stream_the_client_leaves_ends_as_cancelled(running: Running) -> None:
    started = running.start("SayMany", echo.request(count=1_000_000))
    await started.read()
    started.cancel()
    labels = {"method": f"{echo.SERVICE}/SayMany", "code": "CANCELLED"}
    sample = running.metrics.registry.get_sample_value
    await until(lambda: sample("mneme_rpc_server_duration_seconds_count", labels) == 1)
    assert sample("mneme_rpc_server_in_flight", {"method": f"{echo.SERVICE}/SayMany"}) == 0


@pytest.mark.parametrize("method", ["mneme.echo.v1.EchoService/Shout", "mneme.none.v1.NoService/Call"])
async def test_an_unknown_method_has_a_reason(running: Running, method: str) -> None:
    call: Any = running.channel.unary_unary(f"/{method}")
    error = await failure(call(b""))
    assert (error.code, error.reason_name) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
    assert error.metadata == {"method": method}
    streamed: Any = running.channel.stream_stream(f"/{method}")
    assert (await failure(streamed(stream(b"")).read())).reason_name == "NOT_IMPLEMENTED"


async def test_metrics_count_codes_and_reasons(running: Running) -> None:
    await running.say()
    await failure(running.say(play="typed"))
    await failure(running.start("Say", echo.request(), token=None))
    method = f"{echo.SERVICE}/Say"
    sample = running.metrics.registry.get_sample_value

    def count(code: str) -> float | None:
        return sample("mneme_rpc_server_duration_seconds_count", {"method": method, "code": code})

    await until(lambda: (count("OK"), count("NOT_FOUND"), count("UNAUTHENTICATED")) == (1, 1, 1))
    assert sample("mneme_rpc_server_failures_total", {"method": method, "reason": "NOT_FOUND"}) == 1
    assert sample("mneme_rpc_server_in_flight", {"method": method}) == 0


@pytest.mark.parametrize("method", KINDS)
async def test_each_call_ends_a_span(running: Running, spans: InMemorySpanExporter, method: str) -> None:
    await finish(running, method, echo.request(count=1))
    await until(spans.get_finished_spans)
    [span] = spans.get_finished_spans()
    assert span.name == f"{echo.SERVICE}/{method}"
    assert span.kind is SpanKind.SERVER
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {})["rpc.response.status_code"] == "OK"


@pytest.mark.parametrize("method", ["Say", "SayMany"])
async def test_failed_and_left_calls_end_error_spans(
    running: Running, spans: InMemorySpanExporter, method: str
) -> None:
    await failure(finish(running, method, echo.request(play="typed")))
    await until(lambda: len(spans.get_finished_spans()) == 1)
    started = running.start(method, echo.request(play="hold"))
    waiting = asyncio.ensure_future(started.read() if method == "SayMany" else started)
    await asyncio.wait_for(running.echo.held.wait(), 5)
    started.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: len(spans.get_finished_spans()) == 2)
    failed, left = spans.get_finished_spans()
    assert failed.status.status_code is left.status.status_code is StatusCode.ERROR
    assert dict(failed.attributes or {})["error.type"] == "NOT_FOUND"
    assert dict(left.attributes or {})["error.type"] == "CANCELLED"
