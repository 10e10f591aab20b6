"""An OpenAI-compatible chat endpoint on loopback: server-sent events as DeepSeek, vLLM and others send them."""

from __future__ import annotations

import json

from tests.support.replies import Fault, Handler, Recorded, Said, ScriptedServer, pieces

_STOP = {"end": "stop", "tools": "tool_calls", "length": "length", "filtered": "content_filter"}
_FAULTS: dict[str, tuple[int, str, str]] = {
    "throttled": (429, "rate_limit_exceeded", "Rate limit reached."),
    "overflow": (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    ),
    "denied": (401, "invalid_api_key", "Incorrect API key provided."),
    "unknown_model": (404, "model_not_found", "The model does not exist."),
    "invalid": (422, "invalid_request", "Invalid request."),
    "down": (503, "server_error", "The server is overloaded."),
}


class _OpenAI(Handler):
    garbage = b"data: {not JSON\n\n"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.script.requests.append(Recorded(self.path, dict(self.headers), body))
        reply = self.server.script.next(Said(text="Hello."))
        if isinstance(reply, Fault):
            self._fault(reply)
            return
        self.start_chunks("text/event-stream")
        if self.stream_pieces(reply, _events(reply, str(body["model"]))):
            self.chunk(b"")

    def _fault(self, fault: Fault) -> None:
        if fault.kind == "drop":
            self.hang_up()
            return
        status, code, message = _FAULTS[fault.kind]
        error = {"error": {"message": message, "type": code, "code": code, "param": None}}
        if fault.in_stream:
            self.start_chunks("text/event-stream")
            self.chunk(_event(error))
            self.chunk(b"")
            return
        retry = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
        self.send_whole(status, json.dumps(error).encode(), retry)


class OpenAIServer(ScriptedServer):
    """The server; `script` holds what it answers next and what it was asked."""

    def __init__(self) -> None:
        super().__init__(_OpenAI)


def _event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _events(said: Said, model: str) -> list[bytes]:
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in pieces(said.reasoning)]
    deltas += [{"content": piece} for piece in pieces(said.text)]
    for index, call in enumerate(said.calls):
        head = {"index": index, "id": call.id, "type": "function"}
        deltas.append({"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in pieces(call.arguments_json)
        ]
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    chunks: list[dict[str, object]] = [
        {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _STOP[said.stopped_by]}]})
    usage = {
        "prompt_tokens": said.input_tokens + said.cached_tokens,
        "completion_tokens": said.output_tokens,
        "total_tokens": said.input_tokens + said.cached_tokens + said.output_tokens,
        "prompt_tokens_details": {"cached_tokens": said.cached_tokens},
    }
    chunks.append({**base, "choices": [], "usage": usage})
    return [*map(_event, chunks), b"data: [DONE]\n\n"]
