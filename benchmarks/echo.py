"""The least a call can cost: a bare grpc.aio server that returns what it gets. `python -m benchmarks.echo PORT`."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

METHOD = "/benchmarks.Echo/Echo"


async def _echo(request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return request


async def serve(port: int) -> None:
    """Serves until the process ends."""
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
