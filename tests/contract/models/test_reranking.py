"""The reranker against an endpoint on loopback that speaks the `/rerank` protocol, also badly."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.recall.v1 import recall_pb2
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime import ids
from mneme.runtime.reranking import RerankEndpoint, build_reranker
from mneme.settings import ModelsSettings, Settings
from tests.support.suite import Serve, Suite

AGENT = ids.new("agent")
TEXTS = ["about lamps", "the key hangs behind the door", "keys of a piano"]


class _Endpoint(ThreadingHTTPServer):
    """Scores a text by its words that the query has too, or answers what the test wants."""

    daemon_threads = True
    status = 200
    answer: Any = None
    favourite = ""
    """A text with this word is the best whatever is asked."""
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
            {
                "index": index,
                "relevance_score": 9.0
                if self.server.favourite in text.split()
                else float(len(words & set(text.split()))),
            }
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


@pytest.fixture
async def suite(endpoint: _Endpoint, suite_settings: Settings, serve: Serve) -> Suite:
    """Archival and recall with a reranker, and what they need."""
    models = suite_settings.models.model_copy(update={"rerank_model": "judge", "rerank_base_url": endpoint.url})
    return await serve("archival", "recall", "embedding", models=models)


async def _passages(suite: Suite, query: str, limit: int = 10) -> list[archival_pb2.PassageResult]:
    request = archival_pb2.SearchPassagesRequest(
        scope=archival_pb2.SearchScope(agent_id=AGENT), query=query, limit=limit
    )
    return list((await suite.stub(ArchivalServiceStub).SearchPassages(request)).results)


async def _insert(suite: Suite, text: str, *, supersedes: str = "") -> str:
    request = archival_pb2.InsertPassageRequest(
        request_id=str(uuid.uuid4()),
        owner=archival_pb2.PassageOwner(agent_id=AGENT),
        passage=archival_pb2.Passage(text=text),
        supersedes_passage_ids=[supersedes] if supersedes else [],
    )
    return (await suite.stub(ArchivalServiceStub).InsertPassage(request)).passage.passage_id


async def test_passages_follow_the_reranker_and_say_so(endpoint: _Endpoint, suite: Suite) -> None:
    for text in TEXTS:
        await _insert(suite, text)
    endpoint.favourite = "piano"
    best = (await _passages(suite, "which key hangs behind the door", limit=1))[0]
    assert best.passage.text == "keys of a piano"
    assert best.score == best.parts.rerank == 9
    endpoint.status = 500
    best = (await _passages(suite, "which key hangs behind the door", limit=1))[0]
    assert best.passage.text == "the key hangs behind the door"
    assert not best.parts.HasField("rerank")


async def test_what_was_replaced_stays_behind_its_successor(endpoint: _Endpoint, suite: Suite) -> None:
    old = await _insert(suite, "the key hangs behind the old door")
    await _insert(suite, "the key lies in a drawer", supersedes=old)
    endpoint.favourite = "old"
    request = archival_pb2.SearchPassagesRequest(
        scope=archival_pb2.SearchScope(agent_id=AGENT),
        query="where is the key",
        filter=archival_pb2.PassageFilter(include_superseded=True),
    )
    found = (await suite.stub(ArchivalServiceStub).SearchPassages(request)).results
    assert [one.passage.text for one in found] == ["the key lies in a drawer", "the key hangs behind the old door"]


async def test_messages_follow_the_reranker(endpoint: _Endpoint, suite: Suite) -> None:
    stub = suite.stub(RecallServiceStub)
    await stub.AppendMessages(
        recall_pb2.AppendMessagesRequest(
            request_id=str(uuid.uuid4()),
            agent_id=AGENT,
            conversation_id=ids.new("conversation"),
            messages=[recall_pb2.Message(role=recall_pb2.ROLE_USER, text=text) for text in TEXTS],
        )
    )
    endpoint.favourite = "piano"
    request = recall_pb2.SearchMessagesRequest(agent_id=AGENT, limit=1)
    request.hybrid.text = "where is the key"
    (best,) = (await stub.SearchMessages(request)).results
    assert best.message.text == "keys of a piano"
    assert best.parts.rerank == 9
