"""An OpenAI-compatible embeddings endpoint on loopback."""

from __future__ import annotations

import json
from typing import Any

from tests.support.bedrock_server import embedding
from tests.support.replies import Fault, Handler, Recorded, Said, ScriptedServer

DIMENSIONS = 256
MAX_TOKENS = 8192

_FAULTS = {
    "throttled": (429, "Rate limit reached."),
    "denied": (401, "Incorrect API key provided."),
    "unknown_model": (404, "The model does not exist."),
    "down": (503, "The server is overloaded."),
}


class _Embeddings(Handler):
    server: OpenAIEmbeddingsServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.script.requests.append(Recorded(self.path, dict(self.headers), body))
        fault = self.server.script.next(Said())
        if isinstance(fault, Fault):
            self._fault(fault)
            return
        if self.server.refuses in body["input"]:
            self._refuse(400, "Invalid 'input'.", {})
            return
        tokens = [max(1, len(text) // 4) for text in body["input"]]
        if max(tokens) > MAX_TOKENS:
            counted = f"maximum context length is {MAX_TOKENS} tokens, however you requested {max(tokens)} tokens"
            self._refuse(400, f"This model's {counted}.", {})
            return
        # Not in order, as the protocol allows.
        data = [
            {"object": "embedding", "index": index, "embedding": embedding(text, DIMENSIONS)}
            for index, text in reversed(list(enumerate(body["input"])))
        ]
        usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
        answer: dict[str, Any] = {"object": "list", "data": data, "model": body["model"], "usage": usage}
        self.send_whole(200, json.dumps(answer).encode(), {})

    def _fault(self, fault: Fault) -> None:
        if fault.kind == "drop":
            self.hang_up()
            return
        status, message = _FAULTS[fault.kind]
        self._refuse(status, message, {"Retry-After": str(fault.retry_after)} if fault.retry_after else {})

    def _refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
        error = {"error": {"message": message, "type": "error", "code": None, "param": None}}
        self.send_whole(status, json.dumps(error).encode(), headers)


class OpenAIEmbeddingsServer(ScriptedServer):
    """The server; `script` holds what it answers next and what it was asked."""

    def __init__(self) -> None:
        super().__init__(_Embeddings)
        self.refuses = ""
        """A text that no call may hold."""
