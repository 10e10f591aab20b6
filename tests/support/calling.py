"""Channels that show a credential with each call, for stubs of one service; `mneme.client` speaks to a whole suite."""

from __future__ import annotations

from typing import Any

import grpc.aio


def channel(address: str, token: str) -> grpc.aio.Channel:
    """A channel that sends the credential with each call; an empty one sends none."""
    kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    return grpc.aio.insecure_channel(address, interceptors=[kind(token) for kind in kinds] if token else [])


class _Bearer:
    """Adds the credential to each call."""

    def __init__(self, token: str) -> None:
        self._credential = ("authorization", f"Bearer {token}")

    async def _send(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._credential)
        return await continuation(details._replace(metadata=metadata), request)


class _UnaryUnary(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


class _UnaryStream(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


class _StreamUnary(_Bearer, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


class _StreamStream(_Bearer, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)
