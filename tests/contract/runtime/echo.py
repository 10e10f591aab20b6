"""A service of the tests, compiled from `echo.proto` when first needed: it repeats, waits or fails as it is told."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.message import Message
from grpc_tools import protoc  # type: ignore[import-untyped]

from mneme.common.v1 import options_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call
from mneme.runtime.errors import Error

SERVICE = "mneme.echo.v1.EchoService"
_HERE = Path(__file__).parent
# `echo.proto` imports these files, so they must be in the pool first.
_IMPORTED = (duration_pb2.DESCRIPTOR, struct_pb2.DESCRIPTOR, timestamp_pb2.DESCRIPTOR, options_pb2.DESCRIPTOR)


@functools.cache
def message(name: str) -> type[Any]:
    """Returns the class of a message of `echo.proto`."""
    pool = descriptor_pool.Default()
    try:
        found = pool.FindMessageTypeByName(f"mneme.echo.v1.{name}")
    except KeyError:
        with tempfile.NamedTemporaryFile() as target:
            well_known = Path(protoc.__file__).parent / "_proto"
            protos = _HERE.parents[2] / "protos"
            options = [f"-I{_HERE}", f"-I{protos}", f"-I{well_known}", f"--descriptor_set_out={target.name}"]
            assert protoc.main(["protoc", *options, "echo.proto"]) == 0
            files = descriptor_pb2.FileDescriptorSet.FromString(Path(target.name).read_bytes())
        pool.AddSerializedFile(files.file[0].SerializeToString())
        found = pool.FindMessageTypeByName(f"mneme.echo.v1.{name}")
    return message_factory.GetMessageClass(found)


def request(**fields: Any) -> Any:
    """Returns an EchoRequest."""
    return message("EchoRequest")(**fields)


async def _fail_in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise(Error(errors_pb2.REASON_QUOTA_EXCEEDED, "from a task group")))
        group.create_task(asyncio.sleep(60))


async def _raise(failure: BaseException) -> None:
    raise failure


async def _await_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


@dataclass
class Echo:
    """The service; `play` in a request names what happens."""

    failing: bool = False
    """`ready` raises."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call with play=hold has begun."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the calls with play=hold."""
    cancelled: int = 0
    """Calls that saw a cancellation."""
    steps: list[str] = field(default_factory=list)
    """Life-cycle steps so far."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer."""
        parse, write = message("EchoRequest").FromString, message("EchoResponse").SerializeToString
        unary = functools.partial(
            grpc.unary_unary_rpc_method_handler, request_deserializer=parse, response_serializer=write
        )
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: unary(self.say) for name in ("Say", "Administer", "ServeServices", "Forgotten")
        }
        handlers["SayMany"] = grpc.unary_stream_rpc_method_handler(self.say_many, parse, write)
        handlers["Collect"] = grpc.stream_unary_rpc_method_handler(self.collect, parse, write)
        handlers["Converse"] = grpc.stream_stream_rpc_method_handler(self.converse, parse, write)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def start(self) -> None:
        """Notes the step."""
        self.steps.append("start")

    async def drain(self) -> None:
        """Notes the step."""
        self.steps.append("drain")

    async def stop(self) -> None:
        """Notes the step."""
        self.steps.append("stop")

    async def ready(self) -> None:
        """Raises while `failing`."""
        if self.failing:
            raise ConnectionError("the store does not answer")

    async def say(self, asked: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        """Plays what the request says, then repeats its text and tells who called."""
        await self._play(asked.play, context)
        who = call.current().principal
        answer: Message = message("EchoResponse")(
            text=asked.text,
            tenant=who.tenant,
            actor=who.actor,
            user=who.user,
            service=who.service,
            remaining=call.remaining(),
            trace_id=call.trace_id(),
        )
        return answer

    async def say_many(self, asked: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message]:
        """Answers `count` times, then plays."""
        for _ in range(asked.count):
            yield await self.say(message("EchoRequest")(text=asked.text), context)
        await self._play(asked.play, context)

    async def collect(self, asked: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        """Joins all texts."""
        answer: Message = message("EchoResponse")(text="".join([one.text async for one in asked]))
        return answer

    async def converse(
        self, asked: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Message]:
        """Answers each message."""
        async for one in asked:
            yield await self.say(one, context)

    async def _play(self, name: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        failures: dict[str, BaseException] = {
            "typed": Error(errors_pb2.REASON_NOT_FOUND, "agent-1 does not exist", metadata={"resource": "agent-1"}),
            "long": Error(errors_pb2.REASON_NOT_FOUND, "很长" * 5000, metadata={"resource": "中" * 9000}),
            "bug": ValueError("the secret text of a message"),
            "store": psycopg.OperationalError("connection refused"),
            "slow": TimeoutError(),
            "unbuilt": NotImplementedError(),
        }
        plays: dict[str, Callable[[], Awaitable[None]]] = {
            "group": _fail_in_group,
            "cancelled": _await_cancelled,
            "hold": self._hold,
            "abort": lambda: context.abort(grpc.StatusCode.DATA_LOSS, "by hand"),
        }
        if name in failures:
            raise failures[name]
        if name in plays:
            await plays[name]()

    async def _hold(self) -> None:
        self.held.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
