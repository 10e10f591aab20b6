"""A Titan embedding model that takes its time and throttles: `python -m benchmarks.titan PORT`.

Vectors depend on the text only, so they can be told apart. `GET /begin?per_second=100&seconds=0.06` sets the quota (0
for none; what is left unused is good for one more second) and the time of a call, and counts anew; `GET /counts` says
how many calls were answered and throttled.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import zlib
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import uvloop

DIMENSIONS = 1024
MODEL = "amazon.titan-embed-text-v2:0"
_SPREAD = 0.2


@dataclass
class _Quota:
    per_second: float = 0.0
    seconds: float = 0.0
    left: float = 0.0
    seen: float = 0.0
    answered: int = 0
    throttled: int = 0

    def admits(self) -> bool:
        now = time.monotonic()
        self.left = min(self.per_second, self.left + (now - self.seen) * self.per_second)
        self.seen = now
        if self.per_second and self.left < 1:
            self.throttled += 1
            return False
        self.left -= 1
        self.answered += 1
        return True


class Titan:
    """The server."""

    def __init__(self) -> None:
        self._quota = _Quota()

    async def serve(self, port: int) -> None:
        """Serves until the process ends."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", port, backlog=512)
        async with server:
            await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *headers = head.decode().split("\r\n")
                sizes = [header for header in headers if header.lower().startswith("content-length:")]
                body = await reader.readexactly(int(sizes[0].partition(":")[2]) if sizes else 0)
                method, target, _ = line.split(" ", 2)
                writer.write(await (self._embed(body) if method == "POST" else self._control(target)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _control(self, target: str) -> bytes:
        parts = urlsplit(target)
        if parts.path == "/begin":
            asked = {name: float(values[0]) for name, values in parse_qs(parts.query).items()}
            rate = asked["per_second"]
            self._quota = _Quota(rate, asked["seconds"], left=rate, seen=time.monotonic())
        counts = {"answered": self._quota.answered, "throttled": self._quota.throttled}
        return _response("200 OK", json.dumps(counts).encode())

    async def _embed(self, body: bytes) -> bytes:
        quota = self._quota
        if not quota.admits():
            return _response("429 Too Many Requests", b'{"message": "slow down"}', "ThrottlingException")
        await asyncio.sleep(quota.seconds * random.uniform(1 - _SPREAD, 1 + _SPREAD))
        return _response("200 OK", _vector(body))


def _vector(body: bytes) -> bytes:
    first = zlib.crc32(body) / 2**32
    values = ", ".join([f"{first:.6f}", *["0.03125"] * (DIMENSIONS - 1)])
    return f'{{"embedding": [{values}], "inputTextTokenCount": {max(1, len(body) // 4)}}}'.encode()


def _response(status: str, body: bytes, error: str = "") -> bytes:
    kind = f"x-amzn-ErrorType: {error}\r\n" if error else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{kind}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


if __name__ == "__main__":
    uvloop.run(Titan().serve(int(sys.argv[1])))
