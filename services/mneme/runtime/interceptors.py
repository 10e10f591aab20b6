"""What every RPC passes through before it reaches its servicer: one list of layers, in one order.

All layers have one shape, for all four kinds of call: `await layer(rpc, proceed)`. They are composed once for
each method. The chain is one grpc.aio interceptor, because grpc.aio rebuilds a handler for each interceptor
and call. Streams run in the reader-writer style inside the same coroutine, so a cut stream still unwinds
through every layer.

Health and reflection pass by the chain: probes and tools ask them without a credential, and Watch streams
never end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, cast

import grpc
import grpc.aio
import psycopg
import psycopg_pool
import structlog
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, health, validation
from mneme.runtime.auth import Access, Authenticator, access_of
from mneme.runtime.call import Call, Principal
from mneme.runtime.errors import STATUS_KEY, Error, from_rpc_error, not_implemented
from mneme.runtime.metrics import Metrics
from mneme.runtime.telemetry import tracer
from mneme.settings import ServerSettings

log = structlog.stdlib.get_logger("mneme.runtime.rpc")

EXEMPT_PREFIXES = (health.METHOD_PREFIX, "/grpc.reflection.")

_PROPAGATOR = TraceContextTextMapPropagator()
_RETRY_SOON = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of a method before it is called."""

    name: str
    """Full name without the leading slash."""
    access: Access
    """Who may call it."""
    parse: Callable[[bytes], Message]
    """Decodes a request message."""
    request_streaming: bool
    """The client sends a stream."""
    response_streaming: bool
    """The server sends a stream."""

    @property
    def streaming(self) -> bool:
        """Either side sends a stream."""
        return self.request_streaming or self.response_streaming


@dataclass(slots=True)
class Rpc:
    """One running RPC on its way through the layers."""

    method: Method
    """Method that was called."""
    request: Any
    """Request: bytes, or an iterator of bytes; the validation layer replaces it by messages."""
    context: grpc.aio.ServicerContext[Any, Any]
    """grpc's context of the call."""
    metadata: dict[str, str | bytes]
    """What the client sent along, the last value of each key."""
    principal: Principal | None = None
    """Who calls; set by the authentication layer."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    """How it ended; set by the error layer."""
    reason: str = ""
    """Why it failed; set by the error layer."""


Proceed = Callable[[Rpc], Awaitable[Any]]
Layer = Callable[[Rpc, Proceed], Awaitable[Any]]


def layers(settings: ServerSettings, *, metrics: Metrics, authenticator: Authenticator) -> list[Layer]:
    """Returns the chain, outermost first. The order is part of the design:

    1. tracing: outermost, so that the span covers everything and sees the final code of a failed call.
    2. metrics: outside the errors, so that it counts the code the client gets, refused calls included.
    3. errors: everything below may raise; only tracing and metrics, which never raise, stand outside.
    4. authentication: before anything is spent on the caller, and before the deadline, as it starts the Call.
    5. deadline: from here on the call is bounded, and `call.current()` tells who and how long.
    6. concurrency: refuses before the request is parsed, but counts only callers who are known.
    7. validation: innermost, as it parses the request, the dearest step.
    """
    return [
        trace_call,
        CallMetrics(metrics),
        Errors(metrics),
        Authentication(authenticator),
        Deadline(settings),
        Concurrency(settings),
        Validation(settings),
    ]


class Chain(grpc.aio.ServerInterceptor):
    """Puts the layers around the servicers' methods."""

    def __init__(self, chain: Sequence[Layer]) -> None:
        self._layers = tuple(chain)
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the method's handler with the layers around it, made at its first call."""
        name = handler_call_details.method
        wrapped = self._wrapped.get(name)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if name.startswith(EXEMPT_PREFIXES):
            return handler
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(partial(_refuse_unknown, name.removeprefix("/")))
        self._wrapped[name] = self._wrap(name.removeprefix("/"), handler)
        return self._wrapped[name]

    def _wrap(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        method = Method(
            name=name,
            access=access_of(name),
            parse=cast("Callable[[bytes], Message]", handler.request_deserializer),
            request_streaming=bool(handler.request_streaming),
            response_streaming=bool(handler.response_streaming),
        )
        proceed: Proceed = partial(_write_stream if method.response_streaming else _answer, _servicer(handler))
        for layer in reversed(self._layers):
            proceed = partial(_pass, layer, proceed)

        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await proceed(Rpc(method, request, context, dict(context.invocation_metadata() or ())))

        make = _HANDLERS[method.request_streaming, method.response_streaming]
        # No request deserializer: a message that cannot be parsed fails inside the chain, with a reason.
        return make(run, None, handler.response_serializer)


_HANDLERS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


async def _refuse_unknown(name: str, _request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    message = f"{name} is not a method of this server"
    await _abort(context, Error(errors_pb2.REASON_NOT_IMPLEMENTED, message, metadata={"method": name}))


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Error) -> Any:
    status = error.to_status()
    return await context.abort(error.code, status.message, ((STATUS_KEY, status.SerializeToString()),))


def _servicer(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None
    return cast("Callable[..., Any]", found)


async def _pass(layer: Layer, proceed: Proceed, rpc: Rpc) -> Any:
    return await layer(rpc, proceed)


async def _answer(servicer: Callable[..., Awaitable[Any]], rpc: Rpc) -> Any:
    return await servicer(rpc.request, rpc.context)


async def _write_stream(servicer: Callable[..., AsyncIterator[Message]], rpc: Rpc) -> None:
    responses = servicer(rpc.request, rpc.context)
    async with aclosing(cast("Any", responses)):
        async for response in responses:
            await rpc.context.write(response)


async def trace_call(rpc: Rpc, proceed: Proceed) -> Any:
    """Runs the call in a server span that continues the caller's trace; a failed call ends as an ERROR span."""
    with tracer.start_as_current_span(
        rpc.method.name,
        context=_PROPAGATOR.extract(cast("dict[str, str]", rpc.metadata)),
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            return await proceed(rpc)
        finally:
            if span.is_recording():
                span.set_attribute("rpc.system.name", "grpc")
                span.set_attribute("rpc.method", rpc.method.name)
                span.set_attribute("rpc.response.status_code", rpc.code.name)
                if rpc.code is not grpc.StatusCode.OK:
                    span.set_status(StatusCode.ERROR)
                    span.set_attribute("error.type", rpc.reason or rpc.code.name)


class CallMetrics:
    """Rate, errors and duration of calls by method and code, and how many run."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Measures one call."""
        running = self._metrics.rpc_in_flight.labels(rpc.method.name)
        running.inc()
        started = time.perf_counter()
        try:
            return await proceed(rpc)
        finally:
            running.dec()
            seconds = time.perf_counter() - started
            self._metrics.rpc_seconds.labels(rpc.method.name, rpc.code.name).observe(seconds, _exemplar())


def _exemplar() -> dict[str, str] | None:
    context = call.span_context()
    return {"trace_id": format(context.trace_id, "032x")} if context.trace_flags.sampled else None


class Errors:
    """Turns every exception into a google.rpc.Status; what is not understood becomes one fixed sentence."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Runs the rest of the chain and answers its failure."""
        try:
            return await proceed(rpc)
        except asyncio.CancelledError as failure:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                rpc.code = _left(rpc)
                raise
            error = _stray_cancellation(failure)
        except grpc.aio.AbortError:
            rpc.code = _status_code(rpc.context.code())
            raise
        except Exception as failure:
            if rpc.context.cancelled():
                rpc.code = _left(rpc)
                raise asyncio.CancelledError from failure
            error = translate(failure, rpc.method.name)
            self._log(rpc, error, failure)
        rpc.code, rpc.reason = error.code, error.reason_name
        self._metrics.rpc_refused.labels(rpc.method.name, rpc.reason).inc()
        return await _abort(rpc.context, error)

    def _log(self, rpc: Rpc, error: Error, failure: Exception) -> None:
        who = {"tenant": rpc.principal.tenant, "actor": rpc.principal.actor} if rpc.principal else {}
        bound = log.bind(method=rpc.method.name, reason=error.reason_name, code=error.code.name, **who)
        if error.reason == errors_pb2.REASON_INTERNAL:
            bound.error("call_failed", exc_info=failure)
        elif error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            answered = {"peer_answered": failure.details()} if isinstance(failure, grpc.aio.AioRpcError) else {}
            bound.warning("call_failed", message=error.message, **answered)
        else:
            # Without the message: that of a refused edit quotes the block.
            bound.info("call_failed", fields=[violation.field for violation in error.violations])


def translate(failure: BaseException, method: str = "") -> Error:
    """Returns the Error that stands for any exception: its own, or INTERNAL with one fixed sentence.

    Args:
        failure: What was raised; of a group, the first member that is understood.
        method: Full name of the method, for NotImplementedError.
    """
    if isinstance(failure, Error):
        return failure
    if isinstance(failure, BaseExceptionGroup):
        understood = [translate(member, method) for member in failure.exceptions]
        return next((e for e in understood if e.reason != errors_pb2.REASON_INTERNAL), understood[0])
    if isinstance(failure, grpc.aio.AioRpcError):
        return from_rpc_error(failure)
    if isinstance(failure, psycopg.OperationalError | psycopg.InterfaceError | psycopg_pool.PoolTimeout):
        return Error(
            errors_pb2.REASON_STORE_UNAVAILABLE,
            "the database does not answer",
            metadata={"store": "postgresql"},
        )
    if isinstance(failure, TimeoutError):
        return Error(errors_pb2.REASON_DEADLINE_EXCEEDED, "something the call waited for took too long")
    return not_implemented(method.rpartition("/")[2]) if isinstance(failure, NotImplementedError) else _internal()


def _internal() -> Error:
    trace_id = call.trace_id()
    return Error(
        errors_pb2.REASON_INTERNAL,
        f"internal error; the server's log has the details under trace {trace_id}",
        metadata={"trace_id": trace_id},
    )


def _left(rpc: Rpc) -> grpc.StatusCode:
    """Says how a call ended that gRPC cancelled: its deadline passed, or the client went away."""
    remaining = rpc.context.time_remaining()
    late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _stray_cancellation(failure: asyncio.CancelledError) -> Error:
    """Stands for a CancelledError that nobody asked of this call: what it awaited was cancelled by others."""
    log.warning("awaited_work_was_cancelled", exc_info=failure)
    return Error(errors_pb2.REASON_PEER_UNAVAILABLE, "something the call waited for was cancelled")


def _status_code(code: Any) -> grpc.StatusCode:
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN)


class Authentication:
    """Finds out who calls, and whether that caller may use the method."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Refuses callers without a valid credential or without access."""
        sent = rpc.metadata.get("authorization")
        access = rpc.method.access
        principal = await self._authenticator.authenticate(sent if isinstance(sent, str) else None, access.service)
        rpc.principal = principal
        access.check(principal)
        return await proceed(rpc)


class Deadline:
    """Gives every call a deadline and makes it the running call."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Ends the call at the caller's deadline, or at the default one."""
        assert rpc.principal is not None
        settings = self._settings
        default = settings.default_stream_deadline if rpc.method.streaming else settings.default_deadline
        asked = rpc.context.time_remaining()
        seconds = min(default if asked is None else asked, settings.max_deadline)
        deadline = asyncio.get_running_loop().time() + seconds
        with call.enter(Call(rpc.principal, deadline, rpc.method.name)):
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    return await proceed(rpc)
            except TimeoutError:
                if not limit.expired():
                    raise
                spent = str(round(seconds, 2))
                raise Error(
                    errors_pb2.REASON_DEADLINE_EXCEEDED,
                    f"the deadline passed after {spent} s",
                    metadata={"seconds": spent},
                ) from None


@dataclass(slots=True)
class _Bound:
    limit: int
    running: int = 0


@dataclass(slots=True)
class Concurrency:
    """Bounds the calls that run at once, apart for users, services and streams; none is ever queued."""

    settings: ServerSettings
    _users: _Bound = field(init=False)
    _services: _Bound = field(init=False)
    _streams: _Bound = field(init=False)

    def __post_init__(self) -> None:
        self._users = _Bound(self.settings.max_user_calls)
        self._services = _Bound(self.settings.max_service_calls)
        self._streams = _Bound(self.settings.max_streams)

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Runs the call, or refuses it with REASON_TOO_MANY_CALLS."""
        bound = self._bound(rpc)
        if bound.running >= bound.limit:
            raise Error(
                errors_pb2.REASON_TOO_MANY_CALLS,
                f"{bound.limit} calls are running, the limit of this server",
                metadata={"limit": str(bound.limit)},
                retry_after=_RETRY_SOON,
            )
        bound.running += 1
        try:
            return await proceed(rpc)
        finally:
            bound.running -= 1

    def _bound(self, rpc: Rpc) -> _Bound:
        if rpc.method.streaming:
            return self._streams
        return self._services if rpc.principal is not None and rpc.principal.service else self._users


class Validation:
    """Parses requests and checks them against the rules of their contract."""

    def __init__(self, settings: ServerSettings) -> None:
        self._max_bytes = settings.max_receive_bytes

    async def __call__(self, rpc: Rpc, proceed: Proceed) -> Any:
        """Hands messages to the servicer; those of a stream are checked as they come."""
        if rpc.method.request_streaming:
            rpc.request = self._stream(rpc.method, rpc.request)
        else:
            rpc.request = self._message(rpc.method, rpc.request)
        return await proceed(rpc)

    async def _stream(self, method: Method, raw: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for data in raw:
            yield self._message(method, data)

    def _message(self, method: Method, raw: bytes) -> Message:
        try:
            message = method.parse(raw)
        except DecodeError:
            raise validation.undecodable(method.name, raw) from None
        validation.check(message)
        # Last, as a field's own limit says more.
        if len(raw) > self._max_bytes:
            raise validation.too_large("request", len(raw), self._max_bytes)
        return message
