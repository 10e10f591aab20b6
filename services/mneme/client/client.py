"""The asyncio client and its blocking twin."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.client import ingesting
from mneme.client.connection import Connection, TokenSource
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.v1 import orchestrator_pb2
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime.errors import Error, from_rpc_error
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub

if TYPE_CHECKING:
    # Async stubs exist for the type checker alone: at run time the channel decides.
    from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceAsyncStub
    from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceAsyncStub
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub
    from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceAsyncStub
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub
    from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceAsyncStub

_TERMINAL = frozenset({"completed", "failed"})
_REATTACHED = 5
"""Cuts of one stream in a row that are bridged before the last one is raised."""


def new_request_id() -> str:
    """A fresh id for a mutating request. Keep it to retry the same request, and only for that."""
    return str(uuid.uuid4())


class Client:
    """Calls the suite from asyncio code. Keep one for the life of the program; it opens one channel a service."""

    def __init__(self, connection: Connection) -> None:
        """Opens nothing yet: channels open at the first call, inside the running event loop."""
        self.connection = connection
        self._channels: dict[str, grpc.aio.Channel] = {}

    @classmethod
    def connect(
        cls, address: str = "", *, token: TokenSource = "", addresses: Mapping[str, str] | None = None, **options: Any
    ) -> Self:
        """A client of the suite at one address, or at one a service; see `Connection` for all options."""
        return cls(Connection(address=address, token=token, addresses=dict(addresses or {}), **options))

    @cached_property
    def agents(self) -> AgentServiceAsyncStub:
        """Agents, conversations, runs."""
        return AgentServiceStub(self._channel("orchestrator"))

    @cached_property
    def core_memory(self) -> CoreMemoryServiceAsyncStub:
        """Blocks."""
        return CoreMemoryServiceStub(self._channel("core_memory"))

    @cached_property
    def recall(self) -> RecallServiceAsyncStub:
        """Messages."""
        return RecallServiceStub(self._channel("recall"))

    @cached_property
    def archival(self) -> ArchivalServiceAsyncStub:
        """Passages and knowledge bases."""
        return ArchivalServiceStub(self._channel("archival"))

    @cached_property
    def embedding(self) -> EmbeddingServiceAsyncStub:
        """Vectors."""
        return EmbeddingServiceStub(self._channel("embedding"))

    @cached_property
    def semantic_cache(self) -> SemanticCacheServiceAsyncStub:
        """Stored answers."""
        return SemanticCacheServiceStub(self._channel("semantic_cache"))

    async def ask(
        self,
        conversation_id: str,
        text: str,
        *,
        request_id: str = "",
        stream_tokens: bool = True,
        include_inner_events: bool = True,
        bypass_cache: bool = False,
    ) -> AsyncIterator[orchestrator_pb2.RunEvent]:
        """Sends a message and yields the events of its run, to the terminal one.

        A stream that is cut is taken up again where it was: durable events come once and without gaps.

        Raises:
            Error: The message was refused, or the suite stayed out of reach.
        """
        request = orchestrator_pb2.SendMessageRequest(
            request_id=request_id or new_request_id(),
            conversation_id=conversation_id,
            text=text,
            stream_tokens=stream_tokens,
            include_inner_events=include_inner_events,
            bypass_cache=bypass_cache,
        )
        position = _Position(stream_tokens=stream_tokens, include_inner_events=include_inner_events)
        while True:
            try:
                # The same request_id attaches to the same run, so asking again is safe before the first event too.
                stream = self._follow(request, position)
                async for response in stream:
                    if position.accepts(response.event):
                        yield response.event
                position.cut(None)
            except Error as error:
                position.cut(error)
            if position.ended:
                return

    async def watch(self, run_id: str, *, after_sequence: int = 0) -> AsyncIterator[orchestrator_pb2.RunEvent]:
        """Yields a run's events after a sequence, stored ones first, then live ones, to the terminal one.

        Raises:
            Error: There is no such run, or the suite stayed out of reach.
        """
        position = _Position(run_id, after_sequence)
        while True:
            try:
                async for response in self.agents.WatchRun(position.watch_request()):
                    if position.accepts(response.event):
                        yield response.event
                position.cut(None)
            except Error as error:
                position.cut(error)
            if position.ended:
                return

    async def ingest(
        self,
        owner: archival_pb2.PassageOwner,
        items: Iterable[archival_pb2.PassageItem | str],
        *,
        request_id: str = "",
        resume: bool = False,
        progress: Callable[[archival_pb2.IngestPassagesResponse], None] | None = None,
    ) -> archival_pb2.IngestPassagesResponse:
        """Stores passages or documents, however many, and returns what became of them.

        A stream that is cut goes on where it was, also when the server was restarted: what is settled is not sent
        again.

        Args:
            owner: Who shall own them.
            items: What to store; a text stands for an item with nothing else. Read only as far as it is sent.
            request_id: Names the ingest, so that a later run of the program can go on with it.
            resume: Goes on with an ingest of this `request_id`: as many items as were settled are left out.
            progress: Called with the counts so far, about every 1,000 items.

        Raises:
            Error: The ingest was refused, or the suite stayed out of reach. Refused items are no error: they are in
                the response.
        """
        sending = ingesting.Sending(owner, items, request_id or new_request_id())
        if resume:
            sending.skip(await self._settled(sending))
        response = archival_pb2.IngestPassagesResponse()
        while sending.more():
            try:
                response = await self.archival.IngestPassages(sending.requests())
            except Error as error:
                sending.cut(error)
                sending.go_on(await self._settled(sending))
                continue
            sending.answered(response.next_index)
            if progress is not None:
                progress(response)
        return response

    async def _settled(self, sending: ingesting.Sending) -> int:
        """Position behind the last item that the server settled; waits for one that is restarted."""
        try:
            found = await self.archival.GetIngest(
                sending.place(), wait_for_ready=True, timeout=ingesting.RECONNECT_SECONDS
            )
        except Error as error:
            if ingesting.is_unknown(error):
                return 0
            raise
        return found.next_index

    async def close(self) -> None:
        """Closes all channels; running calls are cancelled."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _follow(self, request: orchestrator_pb2.SendMessageRequest, position: _Position) -> AsyncIterator[Any]:
        if position.run_id:
            return aiter(self.agents.WatchRun(position.watch_request()))
        return aiter(self.agents.SendMessage(request))

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            target, options = self.connection.target(service), self.connection.options(service)
            if self.connection.tls_ca is None:
                self._channels[service] = grpc.aio.insecure_channel(target, options=options)
            else:
                authority = grpc.ssl_channel_credentials(self.connection.tls_ca.read_bytes())
                self._channels[service] = grpc.aio.secure_channel(target, authority, options=options)
        return _AsyncCalls(self._channels[service], self.connection, self.connection.target(service))  # type: ignore[return-value]


class SyncClient:
    """Calls the suite from code without an event loop; otherwise as `Client`."""

    def __init__(self, connection: Connection) -> None:
        """Opens nothing yet: channels open at the first call."""
        self.connection = connection
        self._channels: dict[str, grpc.Channel] = {}

    @classmethod
    def connect(
        cls, address: str = "", *, token: TokenSource = "", addresses: Mapping[str, str] | None = None, **options: Any
    ) -> Self:
        """A client of the suite at one address, or at one a service; see `Connection` for all options."""
        return cls(Connection(address=address, token=token, addresses=dict(addresses or {}), **options))

    @cached_property
    def agents(self) -> AgentServiceStub:
        """Agents, conversations, runs."""
        return AgentServiceStub(self._channel("orchestrator"))

    @cached_property
    def core_memory(self) -> CoreMemoryServiceStub:
        """Blocks."""
        return CoreMemoryServiceStub(self._channel("core_memory"))

    @cached_property
    def recall(self) -> RecallServiceStub:
        """Messages."""
        return RecallServiceStub(self._channel("recall"))

    @cached_property
    def archival(self) -> ArchivalServiceStub:
        """Passages and knowledge bases."""
        return ArchivalServiceStub(self._channel("archival"))

    @cached_property
    def embedding(self) -> EmbeddingServiceStub:
        """Vectors."""
        return EmbeddingServiceStub(self._channel("embedding"))

    @cached_property
    def semantic_cache(self) -> SemanticCacheServiceStub:
        """Stored answers."""
        return SemanticCacheServiceStub(self._channel("semantic_cache"))

    def ask(
        self,
        conversation_id: str,
        text: str,
        *,
        request_id: str = "",
        stream_tokens: bool = True,
        include_inner_events: bool = True,
        bypass_cache: bool = False,
    ) -> Iterator[orchestrator_pb2.RunEvent]:
        """Sends a message and yields the events of its run, to the terminal one; see `Client.ask`.

        Raises:
            Error: The message was refused, or the suite stayed out of reach.
        """
        request = orchestrator_pb2.SendMessageRequest(
            request_id=request_id or new_request_id(),
            conversation_id=conversation_id,
            text=text,
            stream_tokens=stream_tokens,
            include_inner_events=include_inner_events,
            bypass_cache=bypass_cache,
        )
        yield from self._follow(
            request, _Position(stream_tokens=stream_tokens, include_inner_events=include_inner_events)
        )

    def watch(self, run_id: str, *, after_sequence: int = 0) -> Iterator[orchestrator_pb2.RunEvent]:
        """Yields a run's events after a sequence, to the terminal one; see `Client.watch`.

        Raises:
            Error: There is no such run, or the suite stayed out of reach.
        """
        yield from self._follow(None, _Position(run_id, after_sequence))

    def _follow(
        self, request: orchestrator_pb2.SendMessageRequest | None, position: _Position
    ) -> Iterator[orchestrator_pb2.RunEvent]:
        while True:
            try:
                stream: Iterator[Any] = (
                    self.agents.WatchRun(position.watch_request())
                    if position.run_id or request is None
                    else self.agents.SendMessage(request)
                )
                for response in stream:
                    if position.accepts(response.event):
                        yield response.event
                position.cut(None)
            except Error as error:
                position.cut(error)
            if position.ended:
                return

    def ingest(
        self,
        owner: archival_pb2.PassageOwner,
        items: Iterable[archival_pb2.PassageItem | str],
        *,
        request_id: str = "",
        resume: bool = False,
        progress: Callable[[archival_pb2.IngestPassagesResponse], None] | None = None,
    ) -> archival_pb2.IngestPassagesResponse:
        """Stores passages or documents, however many, and returns what became of them; see `Client.ingest`.

        Raises:
            Error: The ingest was refused, or the suite stayed out of reach.
        """
        sending = ingesting.Sending(owner, items, request_id or new_request_id())
        if resume:
            sending.skip(self._settled(sending))
        response = archival_pb2.IngestPassagesResponse()
        while sending.more():
            try:
                response = self.archival.IngestPassages(sending.requests())
            except Error as error:
                sending.cut(error)
                sending.go_on(self._settled(sending))
                continue
            sending.answered(response.next_index)
            if progress is not None:
                progress(response)
        return response

    def _settled(self, sending: ingesting.Sending) -> int:
        """Position behind the last item that the server settled; waits for one that is restarted."""
        try:
            found = self.archival.GetIngest(sending.place(), wait_for_ready=True, timeout=ingesting.RECONNECT_SECONDS)
        except Error as error:
            if ingesting.is_unknown(error):
                return 0
            raise
        return found.next_index

    def close(self) -> None:
        """Closes all channels."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _channel(self, service: str) -> grpc.Channel:
        if service not in self._channels:
            target, options = self.connection.target(service), self.connection.options(service)
            if self.connection.tls_ca is None:
                self._channels[service] = grpc.insecure_channel(target, options=options)
            else:
                authority = grpc.ssl_channel_credentials(self.connection.tls_ca.read_bytes())
                self._channels[service] = grpc.secure_channel(target, authority, options=options)
        return _BlockingCalls(self._channels[service], self.connection, self.connection.target(service))  # type: ignore[return-value]


class _Position:
    """How far a run has been seen, so that a cut stream can be taken up again."""

    def __init__(
        self,
        run_id: str = "",
        sequence: int = 0,
        *,
        stream_tokens: bool = True,
        include_inner_events: bool = True,
    ) -> None:
        self._stream_tokens = stream_tokens
        self._include_inner_events = include_inner_events
        self.run_id = run_id
        self.sequence = sequence
        self.ended = False
        self._cuts = 0

    def accepts(self, event: orchestrator_pb2.RunEvent) -> bool:
        """Notes an event; False for a durable one that was seen before."""
        self.run_id = event.run_id
        if event.sequence:
            if event.sequence <= self.sequence:
                return False
            self.sequence = event.sequence
        self._cuts = 0
        self.ended = event.WhichOneof("event") in _TERMINAL
        return True

    def cut(self, error: Error | None) -> None:
        """Notes that the stream ended; raises when that was before the run's end and makes no sense to bridge."""
        if self.ended:
            return
        self._cuts += 1
        if error is not None and error.code not in _BRIDGED:
            raise error
        if self._cuts > _REATTACHED:
            raise error or ConnectionError("the server keeps ending the stream before the run ends")

    def watch_request(self) -> orchestrator_pb2.WatchRunRequest:
        return orchestrator_pb2.WatchRunRequest(
            run_id=self.run_id,
            after_sequence=self.sequence,
            stream_tokens=self._stream_tokens,
            include_inner_events=self._include_inner_events,
        )


_BRIDGED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


class _AsyncCalls:
    """A channel whose calls carry credential and deadline, and raise `Error`.

    Not an interceptor: grpc.aio runs those in a task of their own for each call, which costs as much as the call.
    """

    def __init__(self, channel: grpc.aio.Channel, connection: Connection, target: str) -> None:
        self._channel = channel
        self._connection = connection
        self._target = target

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self._channel.unary_unary(method, *args, **kwargs), self._connection.timeout)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self._channel.stream_unary(method, *args, **kwargs), None)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.stream_stream(method, *args, **kwargs))

    def _unary(self, start: Callable[..., Any], default: float | None) -> Callable[..., Any]:
        async def invoke(request: Any, **options: Any) -> Any:
            try:
                return await start(request, **_filled_in(self._connection, options, default))
            except grpc.aio.AioRpcError as error:
                raise _typed(error, self._target) from error

        return invoke

    def _stream(self, start: Callable[..., Any]) -> Callable[..., Any]:
        async def invoke(request: Any, **options: Any) -> AsyncIterator[Any]:
            call = start(request, **_filled_in(self._connection, options, None))
            try:
                async for response in call:
                    yield response
            except grpc.aio.AioRpcError as error:
                raise _typed(error, self._target) from error
            finally:
                call.cancel()

        return invoke


class _BlockingCalls:
    """The same for a blocking channel."""

    def __init__(self, channel: grpc.Channel, connection: Connection, target: str) -> None:
        self._channel = channel
        self._connection = connection
        self._target = target

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self._channel.unary_unary(method, *args, **kwargs), self._connection.timeout)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._unary(self._channel.stream_unary(method, *args, **kwargs), None)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream(self._channel.stream_stream(method, *args, **kwargs))

    def _unary(self, start: Callable[..., Any], default: float | None) -> Callable[..., Any]:
        def invoke(request: Any, **options: Any) -> Any:
            try:
                return start(request, **_filled_in(self._connection, options, default))
            except grpc.RpcError as error:
                raise _typed(error, self._target) from error

        return invoke

    def _stream(self, start: Callable[..., Any]) -> Callable[..., Any]:
        def invoke(request: Any, **options: Any) -> Iterator[Any]:
            call = start(request, **_filled_in(self._connection, options, None))
            try:
                yield from call
            except grpc.RpcError as error:
                raise _typed(error, self._target) from error
            finally:
                call.cancel()

        return invoke


def _typed(error: Any, target: str) -> Error:
    """A failed call as the suite's error; one that reached nobody names where it went."""
    typed = from_rpc_error(error)
    if typed.reason != errors_pb2.REASON_PEER_UNAVAILABLE or typed.metadata:
        return typed
    address = target.removeprefix("dns:///")
    message = f"nothing answers at {address}: is the suite running there?"
    return Error(typed.reason, message, metadata={"address": address})


def _filled_in(connection: Connection, options: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    """A call's options with credential and deadline, where the caller gave none."""
    given = tuple(options.pop("metadata", None) or ())
    metadata = (("authorization", connection.authorization()), *given)
    return {"timeout": timeout, **options, "metadata": metadata}
