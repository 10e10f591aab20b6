"""The reranker against an endpoint on loopback that speaks the `/rerank` protocol, also badly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from mneme.runtime.reranking import RerankEndpoint, build_reranker
from mneme.settings import ModelsSettings

TEXTS = ["about lamps", "the key hangs behind the door", "keys of a piano"]


class _Endpoint(ThreadingHTTPServer):
    """Scores a text by its words that the query has too, or answers what the test wants."""

    daemon_threads = True
    status = 200
    answer: Any = None
    held: Event | None = None
    asked: dict[str, Any]
    path = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: _Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked, self.server.path = body, self.path
        if self.server.held is not None:
            self.server.held.wait(10)
        words = set(body["query"].split())
        scored = [
            {"index": index, "relevance_score": float(len(words & set(text.split())))}
            for index, text in enumerate(body["documents"])
        ]
        best_first = sorted(scored, key=lambda one: -one["relevance_score"])
        content = json.dumps({"results": best_first} if self.server.answer is None else self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: object) -> None:
        """Says nothing."""


@pytest.fixture
def endpoint() -> Iterator[_Endpoint]:
    """A running endpoint."""
    server = _Endpoint(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    if server.held is not None:
        server.held.set()
    server.shutdown()
    server.server_close()
    thread.join()


def _reranker(endpoint: _Endpoint, **fields: Any) -> RerankEndpoint:
    return RerankEndpoint(ModelsSettings(rerank_model="judge", rerank_base_url=endpoint.url, **fields))


async def test_scores_come_in_the_order_of_the_texts(endpoint: _Endpoint) -> None:
    scores = await _reranker(endpoint).scores("where is the key", TEXTS)

    assert scores == [0.0, 2.0, 0.0]
    assert endpoint.path == "/v1/rerank"
    assert endpoint.asked == {"model": "judge", "query": "where is the key", "documents": TEXTS, "top_n": 3}


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"index": 0, "relevance_score": 1.0}]},
        {"results": [{"index": 7, "relevance_score": 1.0}] * 3},
        {"results": "none"},
        {"data": []},
        ["nonsense"],
    ],
)
async def test_an_answer_that_does_not_cover_all_texts_tells_nothing(endpoint: _Endpoint, answer: Any) -> None:
    endpoint.answer = answer

    assert await _reranker(endpoint).scores("key", TEXTS) is None


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_a_refusal_tells_nothing(endpoint: _Endpoint, status: int) -> None:
    endpoint.status = status

    assert await _reranker(endpoint).scores("key", TEXTS) is None


async def test_one_that_is_late_tells_nothing(endpoint: _Endpoint) -> None:
    endpoint.held = Event()

    assert await _reranker(endpoint, rerank_timeout=0.1).scores("key", TEXTS) is None


async def test_one_that_is_gone_tells_nothing() -> None:
    settings = ModelsSettings(rerank_model="judge", rerank_base_url="http://127.0.0.1:1/v1")

    assert await RerankEndpoint(settings).scores("key", TEXTS) is None


def test_there_is_none_unless_it_is_named() -> None:
    assert build_reranker(ModelsSettings()) is None
