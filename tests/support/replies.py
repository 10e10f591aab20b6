"""What a scripted model server answers, whatever protocol it speaks."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

HOLD_SECONDS = 20.0
"""Longest time that a held answer waits to be released, so that a failing test never leaves a server behind."""


@dataclass(frozen=True)
class ScriptedCall:
    """A tool call; the arguments are sent as they stand, also when they are no JSON."""

    name: str
    arguments_json: str
    id: str = "call-1"


@dataclass(frozen=True)
class Said:
    """An answer, streamed in pieces of a few characters."""

    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    reasoning: str = ""
    stop: Literal["end", "tools", "length", "filtered"] | None = None
    """None picks tools where there are calls, else end."""
    input_tokens: int = 100
    output_tokens: int = 20
    cached_tokens: int = 0
    cut_after: int | None = None
    """Drops the connection after this many pieces."""
    garble_after: int | None = None
    """Sends bytes that are no part of the protocol after this many pieces."""
    hold: threading.Event | None = None
    """After the first piece, waits until this is set: a slow provider without a clock."""

    @property
    def stopped_by(self) -> str:
        """The stop reason, worked out."""
        return self.stop or ("tools" if self.calls else "end")


@dataclass(frozen=True)
class Fault:
    """A refusal before anything streams, or inside the stream."""

    kind: Literal["throttled", "overflow", "denied", "unknown_model", "invalid", "down", "drop"]
    retry_after: int | None = None
    in_stream: bool = False


Reply = Said | Fault


@dataclass
class Recorded:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def pieces(text: str, size: int = 5) -> list[str]:
    """A text cut as a model's tokens would be."""
    return [text[at : at + size] for at in range(0, len(text), size)]


@dataclass
class Script:
    """The answers still to be given, and the requests that came."""

    replies: deque[Reply] = field(default_factory=deque)
    requests: list[Recorded] = field(default_factory=list)

    def next(self, default: Reply) -> Reply:
        """The next answer; the default when the script is at its end."""
        return self.replies.popleft() if self.replies else default


class Handler(BaseHTTPRequestHandler):
    """The plumbing of both servers: HTTP/1.1, chunks, no log."""

    protocol_version = "HTTP/1.1"
    garbage = b"\x00garbled\n" * 8
    """Bytes that break the protocol."""
    server: ScriptedServer

    def log_message(self, *_: object) -> None:
        """Keeps the test output clean."""

    def chunk(self, data: bytes) -> None:
        """Sends one chunk of a chunked body; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def start_chunks(self, content_type: str) -> None:
        """Sends the head of a streamed answer."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Sends a complete answer."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Drops the connection without the end of the answer."""
        self.close_connection = True
        self.connection.close()

    def stream_pieces(self, said: Said, frames: list[bytes]) -> bool:
        """Sends frames as chunks with the faults of the script; False when the connection was dropped."""
        for index, frame in enumerate(frames):
            if index == said.cut_after:
                self.hang_up()
                return False
            self.chunk(self.garbage if index == said.garble_after else frame)
            if index == 0 and said.hold is not None:
                said.hold.wait(HOLD_SECONDS)
        return True


class ScriptedServer(ThreadingHTTPServer):
    """A server on a free loopback port, with its script. A context manager; its threads end with it."""

    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.script = Script()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Address to give to a client."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the tests."""

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
