"""How much of what answers a question a search finds, through the RPCs, with the embedded embedding model.

Each question is asked three times: the default way, by words alone, by meaning alone. The baseline of a figure is the
better of the two single ways, so a ratio far below 1 would say that mixing them loses what one of them had.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import evaluation
from benchmarks.evaluation import Question, Scope, Text
from benchmarks.processes import fresh_stores
from benchmarks.report import Bar, Row
from mneme import registry
from mneme.archival.v1 import archival_pb2
from mneme.common.v1 import common_pb2
from mneme.recall.v1 import recall_pb2
from mneme.runtime import call
from mneme.runtime.auth import ServiceTokens, SuiteKeys
from mneme.runtime.call import Call, Principal
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import Channels, Peers
from mneme.settings import Settings

PREFIXES = ("retrieval_",)

DATA = "MNEME_EVALUATION_DATA"
"""Environment variable that names the folder with the English sets."""

_MODES = ("default", "words", "meaning")
_DEPTH = 50
_PART = 200
_LANES = 4
_INDEX_SECONDS = 600.0

Measure = Callable[[Sequence[str], Question], float]
Ask = Callable[[str, Question], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what each way found for it."""

    question: Question
    found: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over some of the questions."""

    name: str
    measure: Measure
    categories: Sequence[str] = ()
    """Which questions; none: all."""
    bar: float | None = None

    def of(self, asked: Sequence[Asked], mode: str) -> float:
        """Its value for one way of searching."""
        return evaluation.mean(
            self.measure(one.found[mode], one.question)
            for one in asked
            if not self.categories or one.question.category in self.categories
        )


_LOCOMO = ("single_hop", "multi_hop", "temporal", "open_domain")


_FIGURES = {
    "locomo": [
        Figure("1to4_r10", evaluation.recall, _LOCOMO, 0.66),
        Figure("1to4_r5", lambda found, question: evaluation.recall(found, question, 5), _LOCOMO),
        *(Figure(f"{name}_r10", evaluation.recall, (name,)) for name in (*_LOCOMO, "adversarial")),
    ],
    "beam": [
        Figure("r10", evaluation.recall),
        *(
            Figure(f"{name}_r10", evaluation.recall, (name,))
            for name in (
                "information_extraction", "knowledge_update", "contradiction_resolution", "temporal_reasoning",
                "multi_session_reasoning", "preference_following", "instruction_following", "event_ordering",
                "summarization",
            )
        ),
        Figure("update_new_first", evaluation.new_first, ("knowledge_update",), 0.9),
        Figure("update_new_at_10", evaluation.new_found, ("knowledge_update",), 0.9),
    ],
    "preferences_passages": [
        Figure("own_r10", evaluation.recall, ("own",)),
        Figure("other_r10", evaluation.recall, ("other",)),
    ],
    "preferences_messages": [Figure("r10", evaluation.recall)],
    "products": [
        Figure("ndcg10", evaluation.ndcg, bar=0.78),
        Figure("r50", lambda found, question: evaluation.recall(found, question, 50), ("best",)),
    ],
    "chinese_passages": [
        Figure("r10", evaluation.recall),
        *(
            Figure(f"{name}_r10", evaluation.recall, (name,))
            for name in ("single", "multi", "indirect", "date", "code", "name", "mixed")
        ),
    ],
    "chinese_messages": [Figure("r10", evaluation.recall)],
}  # fmt: skip


async def measure() -> list[Row]:
    """The rows of this part. Sets whose data is not there are left out, which is printed."""
    folder = os.environ.get(DATA, "")
    rows: list[Row] = []
    async with _suite() as peers:
        rows += _rows("chinese_passages", await _passages(peers, evaluation.chinese()))
        rows += _rows("chinese_messages", await _messages(peers, [evaluation.chinese()]))
        if folder:
            rows += await _english(peers, Path(folder))
        else:
            _print(f"{DATA} names no folder: only the Chinese set is measured.")
    return rows


async def _english(peers: Peers, folder: Path) -> list[Row]:
    for name, checksum in evaluation.checksums(folder).items():
        _print(f"{name}: sha256 {checksum}")
    locomo = await _messages(peers, evaluation.locomo(folder))
    return [
        *_rows("locomo", locomo),
        _row("retrieval_locomo_session_r10", _sessions(locomo), None),
        *_rows("beam", await _messages(peers, evaluation.beam(folder))),
        *_rows("preferences_passages", await _passages(peers, evaluation.preferences_as_passages(folder))),
        *_rows("preferences_messages", await _messages(peers, evaluation.preferences_as_messages(folder))),
        *_rows("products", await _passages(peers, evaluation.products(folder))),
    ]


def _rows(name: str, asked: Sequence[Asked]) -> list[Row]:
    return [
        _row(f"retrieval_{name}_{figure.name}", {mode: figure.of(asked, mode) for mode in _MODES}, figure.bar)
        for figure in _FIGURES[name]
    ]


def _row(name: str, values: dict[str, float], bar: float | None) -> Row:
    _print(f"{name:<58}" + "  ".join(f"{mode} {value:.3f}" for mode, value in values.items()))
    best = max(values["words"], values["meaning"])
    return Row(name, values["default"], "", best, None if bar is None else Bar(bar, at_least=True))


def _print(line: str) -> None:
    Console(width=120, highlight=False).print(line)


def _sessions(asked: Sequence[Asked]) -> dict[str, float]:
    """Recall of the sessions that hold the evidence, among the first ten sessions that were found."""

    def of(found: Sequence[str], question: Question) -> float:
        sessions = list(dict.fromkeys(one.partition(":")[0] for one in found))
        wanted = {one.partition(":")[0] for one in question.evidence}
        return len(wanted & set(sessions[:10])) / len(wanted)

    figure = Figure("session_r10", of, _LOCOMO)
    return {mode: figure.of(asked, mode) for mode in _MODES}


async def _messages(peers: Peers, scopes: Sequence[Scope]) -> list[Asked]:
    """Stores each scope as the messages of an agent, waits until all are indexed by meaning, and asks."""
    asked: list[Asked] = []
    for scope in scopes:
        agent = f"agent-{uuid.uuid4()}"
        ids = await _append(peers, agent, scope.texts)
        await _until_messages_indexed(peers, agent)

        async def ask(mode: str, question: Question, agent: str = agent, ids: dict[str, str] = ids) -> list[str]:
            request = recall_pb2.SearchMessagesRequest(agent_id=agent, limit=_DEPTH)
            if mode == "default":
                request.hybrid.text = question.text
            elif mode == "words":
                request.text.text = question.text
            else:
                request.semantic.text = question.text
            response = await peers.recall.SearchMessages(request)
            return [ids[one.message.message_id] for one in response.results]

        asked += await _asked(scope.questions, ask)
    return asked


async def _append(peers: Peers, agent: str, texts: Sequence[Text]) -> dict[str, str]:
    """Returns the set's own id of each message."""
    groups: dict[str, list[Text]] = defaultdict(list)
    for text in texts:
        groups[text.group].append(text)
    ids: dict[str, str] = {}
    for texts_of_group in groups.values():
        conversation = f"conversation-{uuid.uuid4()}"
        for start in range(0, len(texts_of_group), _PART):
            part = texts_of_group[start : start + _PART]
            request = recall_pb2.AppendMessagesRequest(
                request_id=str(uuid.uuid4()),
                agent_id=agent,
                conversation_id=conversation,
                messages=[_message(text) for text in part],
            )
            stored = (await peers.recall.AppendMessages(request)).messages
            ids |= {message.message_id: text.id for message, text in zip(stored, part, strict=True)}
    return ids


def _message(text: Text) -> recall_pb2.Message:
    role = recall_pb2.ROLE_USER if text.by_user else recall_pb2.ROLE_ASSISTANT
    message = recall_pb2.Message(role=role, text=text.text, speaker=text.speaker)
    message.create_time.FromDatetime(text.said)
    return message


async def _until_messages_indexed(peers: Peers, agent: str) -> None:
    async with asyncio.timeout(_INDEX_SECONDS):
        token, waiting = "", True
        while token or waiting:
            request = recall_pb2.ListMessagesRequest(agent_id=agent, page_size=500, page_token=token)
            page = await peers.recall.ListMessages(request)
            waiting = any(message.index_state == common_pb2.INDEX_STATE_PENDING for message in page.messages)
            if waiting:
                await asyncio.sleep(0.2)
            else:
                token = page.next_page_token


async def _passages(peers: Peers, scope: Scope) -> list[Asked]:
    """Stores a scope as the passages of an agent, indexed by meaning as they are stored, and asks."""
    agent = f"agent-{uuid.uuid4()}"
    ids: dict[str, str] = {}
    for start in range(0, len(scope.texts), _PART):
        part = scope.texts[start : start + _PART]
        request = archival_pb2.InsertPassagesRequest(
            request_id=str(uuid.uuid4()),
            owner=archival_pb2.PassageOwner(agent_id=agent),
            items=[archival_pb2.PassageItem(passage=_passage(text)) for text in part],
        )
        results = (await peers.archival.InsertPassages(request)).results
        for result, text in zip(results, part, strict=True):
            # Of equal texts the first stands for all; pieces of a long text stand for it.
            for piece in result.piece_ids or [result.passage_id or result.duplicate_of]:
                ids.setdefault(piece, text.id)
    await _until_passages_indexed(peers, agent)

    async def ask(mode: str, question: Question) -> list[str]:
        request = archival_pb2.SearchPassagesRequest(
            scope=archival_pb2.SearchScope(agent_id=agent), query=question.text, limit=_DEPTH
        )
        request.filter.any_tags.extend(question.tags)
        if mode != "default":
            lexical, semantic = archival_pb2.SEARCH_MODE_LEXICAL, archival_pb2.SEARCH_MODE_SEMANTIC
            request.mode = lexical if mode == "words" else semantic
        response = await peers.archival.SearchPassages(request)
        return list(dict.fromkeys(ids[one.passage.passage_id] for one in response.results))

    return await _asked(scope.questions, ask)


def _passage(text: Text) -> archival_pb2.Passage:
    # Passages have no speaker; who said it is part of the text.
    words = f"{text.speaker}：{text.text}" if text.speaker else text.text
    kind = archival_pb2.PassageKind.Value(f"PASSAGE_KIND_{text.kind}")
    return archival_pb2.Passage(text=words, kind=kind, tags=text.tags)


async def _until_passages_indexed(peers: Peers, agent: str) -> None:
    owner = archival_pb2.PassageOwner(agent_id=agent)
    async with asyncio.timeout(_INDEX_SECONDS):
        token, waiting = "", True
        while token or waiting:
            request = archival_pb2.ListPassagesRequest(owner=owner, page_size=500, page_token=token)
            page = await peers.archival.ListPassages(request)
            waiting = any(passage.index_state == common_pb2.INDEX_STATE_PENDING for passage in page.passages)
            if waiting:
                await asyncio.sleep(0.2)
            else:
                token = page.next_page_token


async def _asked(questions: Sequence[Question], ask: Ask) -> list[Asked]:
    lanes = asyncio.Semaphore(_LANES)

    async def one(question: Question) -> Asked:
        async with lanes:
            return Asked(question, {mode: await ask(mode, question) for mode in _MODES})

    return list(await asyncio.gather(*map(one, questions)))


@asynccontextmanager
async def _suite() -> AsyncIterator[Peers]:
    """A fresh suite in this process, and stubs that call it as its orchestrator does."""
    async with (
        fresh_stores({"server": {"port": 0, "drain_wait": 0, "stop_grace": 1}}) as stores,
        registry.running(stores, ("embedding", "recall", "archival")) as server,
    ):
        with call.enter(Call(Principal(tenant="bench", actor="benchmark", service="orchestrator"))):
            yield _peers(stores, server.address)


def _peers(stores: Settings, address: str) -> Peers:
    tokens = ServiceTokens(SuiteKeys.load(stores.auth), stores.auth)
    return Peers(Channels(stores.peers, tokens, own_address=address, metrics=Metrics()), "orchestrator")
