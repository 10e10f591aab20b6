"""A Bedrock runtime on loopback that speaks the real wire protocol, so that the real SDK is what the tests run.

Converse, ConverseStream (binary event-stream frames with checksums) and InvokeModel for Titan Text Embeddings V2 and
Cohere Embed, whose vectors are made from the words of a text: texts that share words are near each other.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from binascii import crc32
from urllib.parse import unquote

import numpy as np

from tests.support.replies import Fault, Handler, Recorded, Said, ScriptedServer, pieces

_STOP = {"end": "end_turn", "tools": "tool_use", "length": "max_tokens", "filtered": "guardrail_intervened"}
_FAULTS = {
    "throttled": (429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "overflow": (400, "ValidationException", "Input is too long for requested model."),
    "denied": (403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
    "unknown_model": (404, "ResourceNotFoundException", "Model not found."),
    "invalid": (400, "ValidationException", "The provided request is not valid."),
    "down": (503, "ServiceUnavailableException", "Service unavailable"),
}
_TITAN_DIMENSIONS = (256, 512, 1024)
_TITAN_TOKENS = 8192


def frame(event: dict[str, object], *, kind: str, message_type: str = "event") -> bytes:
    """One event-stream message: prelude, headers, payload, and the checksums of both."""
    type_header = ":exception-type" if message_type == "exception" else ":event-type"
    named = {type_header: kind, ":content-type": "application/json", ":message-type": message_type}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in named.items()
    )
    payload = json.dumps(event).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", crc32(prelude)) + headers + payload
    return message + struct.pack("!I", crc32(message))


def embedding(text: str, dimensions: int) -> list[float]:
    """float[dimensions] of length 1, the same for the same words in any order."""
    total = np.zeros(dimensions)
    for word in text.lower().split() or [""]:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
        total += np.random.default_rng(seed).standard_normal(dimensions)
    vector: list[float] = (total / np.linalg.norm(total)).tolist()
    return vector


class Allowance:
    """A quota of calls a second: what is left unused is good for one more second, what is beyond is throttled."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._seen = time.monotonic()
        self._lock = threading.Lock()

    def admits(self) -> bool:
        """Whether one more call may be made now."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._per_second, self._left + (now - self._seen) * self._per_second)
            self._seen = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class _Bedrock(Handler):
    server: BedrockServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = unquote(self.path)
        self.server.script.requests.append(Recorded(path, dict(self.headers), body))
        _, model, operation = path.removeprefix("/").rsplit("/", 2)
        if operation == "invoke":
            self._invoke(model, body)
            return
        reply = self.server.script.next(Said(text="Hello."))
        if isinstance(reply, Fault):
            self._fault(reply)
        elif operation == "converse":
            self.send_whole(200, json.dumps(_whole(reply)).encode(), {})
        else:
            self.start_chunks("application/vnd.amazon.eventstream")
            if self.stream_pieces(reply, _frames(reply)):
                self.chunk(b"")

    def _fault(self, fault: Fault) -> None:
        if fault.kind == "drop":
            self.hang_up()
            return
        status, code, message = _FAULTS[fault.kind]
        if fault.in_stream:
            self.start_chunks("application/vnd.amazon.eventstream")
            self.chunk(frame({"role": "assistant"}, kind="messageStart"))
            self.chunk(frame({"message": message}, kind=code[0].lower() + code[1:], message_type="exception"))
            self.chunk(b"")
            return
        retry = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
        body = json.dumps({"message": message}).encode()
        self.send_whole(status, body, {"x-amzn-ErrorType": code, **retry})

    def _invoke(self, model: str, body: dict[str, object]) -> None:
        fault = self.server.script.next(Said())
        if self.server.allowance is not None and not self.server.allowance.admits():
            fault = Fault("throttled")
        if isinstance(fault, Fault):
            self._fault(fault)
            return
        time.sleep(self.server.embed_seconds)
        if "cohere" in model:
            self._embed_cohere(body)
        else:
            self._embed_titan(body)

    def _embed_titan(self, body: dict[str, object]) -> None:
        text, dimensions = str(body.get("inputText", "")), body.get("dimensions", 1024)
        tokens = max(1, len(text) // 4)
        if not text or dimensions not in _TITAN_DIMENSIONS:
            self._invalid("Malformed input request: #/inputText or #/dimensions, please reformat your input.")
        elif tokens > _TITAN_TOKENS:
            self._invalid(
                f"400 Bad Request: Too many input tokens. Max input tokens: {_TITAN_TOKENS}, "
                f"request input token count: {tokens}"
            )
        else:
            assert isinstance(dimensions, int)
            vector = embedding(text, dimensions)
            answer = {"embedding": vector, "embeddingsByType": {"float": vector}, "inputTextTokenCount": tokens}
            self.send_whole(200, json.dumps(answer).encode(), {"X-Amzn-Bedrock-Input-Token-Count": str(tokens)})

    def _embed_cohere(self, body: dict[str, object]) -> None:
        texts = body.get("texts")
        if not isinstance(texts, list) or not 1 <= len(texts) <= 96 or "input_type" not in body:
            self._invalid("Malformed input request: texts must hold 1 to 96 items, input_type is required.")
            return
        asked = body.get("output_dimension", 1024)
        vectors = [embedding(str(text), asked if isinstance(asked, int) else 1024) for text in texts]
        typed = bool(body.get("embedding_types"))
        answer = {
            "id": "1",
            "texts": texts,
            "response_type": "embeddings_by_type" if typed else "embeddings_floats",
            "embeddings": {"float": vectors} if typed else vectors,
        }
        tokens = sum(max(1, len(str(text)) // 4) for text in texts)
        self.send_whole(200, json.dumps(answer).encode(), {"X-Amzn-Bedrock-Input-Token-Count": str(tokens)})

    def _invalid(self, message: str) -> None:
        body = json.dumps({"message": message}).encode()
        self.send_whole(400, body, {"x-amzn-ErrorType": "ValidationException"})


class BedrockServer(ScriptedServer):
    """The server; `script` holds what it answers next and what it was asked."""

    def __init__(self) -> None:
        super().__init__(_Bedrock)
        self.allowance: Allowance | None = None
        """Quota of embedding calls; None for none."""
        self.embed_seconds = 0.0
        """Time that each embedding call takes."""


def _usage(said: Said) -> dict[str, int]:
    return {
        "inputTokens": said.input_tokens,
        "outputTokens": said.output_tokens,
        "totalTokens": said.input_tokens + said.output_tokens,
        "cacheReadInputTokens": said.cached_tokens,
        "cacheWriteInputTokens": 0,
    }


def _frames(said: Said) -> list[bytes]:
    """The stream of an answer: a block each for reasoning, text and every call, then the stop reason and the bill."""
    out = [frame({"role": "assistant"}, kind="messageStart")]
    block = 0
    if said.reasoning:
        deltas: list[dict[str, object]] = [{"reasoningContent": {"text": piece}} for piece in pieces(said.reasoning)]
        out += _block(block, [*deltas, {"reasoningContent": {"signature": "signed"}}])
        block += 1
    if said.text:
        out += _block(block, [{"text": piece} for piece in pieces(said.text)])
        block += 1
    for call in said.calls:
        start = {"toolUse": {"toolUseId": call.id, "name": call.name}}
        out.append(frame({"start": start, "contentBlockIndex": block}, kind="contentBlockStart"))
        out += _block(block, [{"toolUse": {"input": piece}} for piece in pieces(call.arguments_json)])
        block += 1
    out.append(frame({"stopReason": _STOP[said.stopped_by]}, kind="messageStop"))
    out.append(frame({"usage": _usage(said), "metrics": {"latencyMs": 1}}, kind="metadata"))
    return out


def _block(block: int, deltas: list[dict[str, object]]) -> list[bytes]:
    sent = [frame({"delta": delta, "contentBlockIndex": block}, kind="contentBlockDelta") for delta in deltas]
    return [*sent, frame({"contentBlockIndex": block}, kind="contentBlockStop")]


def _whole(said: Said) -> dict[str, object]:
    content: list[dict[str, object]] = []
    if said.reasoning:
        content.append({"reasoningContent": {"reasoningText": {"text": said.reasoning, "signature": "signed"}}})
    if said.text:
        content.append({"text": said.text})
    content += [
        {"toolUse": {"toolUseId": call.id, "name": call.name, "input": json.loads(call.arguments_json)}}
        for call in said.calls
    ]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _STOP[said.stopped_by],
        "usage": _usage(said),
        "metrics": {"latencyMs": 1},
    }
