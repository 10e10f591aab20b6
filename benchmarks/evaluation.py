"""Questions with known answers, and how well a ranking finds them. No I/O but reading the files.

The English sets are not part of this repository: `MNEME_EVALUATION_DATA` names a folder with `retrieval/*.jsonl.gz`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

CHINESE = Path(__file__).parent / "data" / "chinese_retrieval.jsonl"
FILES = (
    "locomo_turns", "locomo_questions", "beam_messages", "beam_questions", "prefeval_preferences", "prefeval_filler",
    "icecat_products", "icecat_queries", "icecat_labels",
)  # fmt: skip
_RATINGS = range(4)
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Text:
    """Something to store: a message, or a passage."""

    id: str
    text: str
    group: str = ""
    """Conversation of a message."""
    said: datetime = _EPOCH
    by_user: bool = True
    speaker: str = ""
    kind: str = "FACT"
    """Kind of a passage."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what answers it."""

    text: str
    category: str
    evidence: frozenset[str]
    grades: Mapping[str, int] = field(default_factory=dict)
    """Ratings of `_RATINGS`, where answers have degrees."""
    old: frozenset[str] = frozenset()
    """What was true before, for an updated fact."""
    new: frozenset[str] = frozenset()
    """What is true now."""
    tags: tuple[str, ...] = ()
    """Only passages with one of these are looked at; none: all."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one agent remembers, and what it is asked."""

    texts: Sequence[Text]
    questions: Sequence[Question]


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file, by name."""
    return {name: hashlib.sha256(_path(folder, name).read_bytes()).hexdigest() for name in FILES}


def locomo(folder: Path) -> list[Scope]:
    """Months of chat between two friends; a session is a conversation."""
    turns, questions = _by_conversation(folder, "locomo_turns"), _by_conversation(folder, "locomo_questions")
    return [
        Scope(
            [
                Text(
                    id=turn["turn_id"],
                    text=turn["text"] + (f" [photo: {turn['image_caption']}]" if turn.get("image_caption") else ""),
                    group=str(turn["session"]),
                    said=datetime.fromisoformat(turn["date"]).replace(tzinfo=UTC) + timedelta(seconds=place),
                    speaker=turn["speaker"],
                )
                for place, turn in enumerate(own)
            ],
            [
                Question(one["question"], one["category_name"], frozenset(one["evidence"]))
                for one in questions[name]
                if one.get("evidence")
            ],
        )
        for name, own in turns.items()
    ]  # fmt: skip


def beam(folder: Path) -> list[Scope]:
    """Long chats with an assistant, both sides stored whole."""
    messages, questions = _by_conversation(folder, "beam_messages"), _by_conversation(folder, "beam_questions")
    return [
        Scope(
            [
                Text(
                    id=str(message["msg"]),
                    text=message["text"],
                    group="chat",
                    said=_EPOCH + timedelta(minutes=place),
                    by_user=message["role"] == "user",
                )
                for place, message in enumerate(own)
            ],
            [_beam_question(one) for one in questions[name] if one.get("evidence")],
        )
        for name, own in messages.items()
    ]


def _beam_question(one: Mapping[str, Any]) -> Question:
    parts = one.get("evidence_parts", {})
    update = one["category"] == "knowledge_update"
    return Question(
        one["question"],
        one["category"],
        frozenset(map(str, one["evidence"])),
        old=frozenset(map(str, parts["original_info"])) if update else frozenset(),
        new=frozenset(map(str, parts["updated_info"])) if update else frozenset(),
    )


def preferences_as_passages(folder: Path) -> Scope:
    """Each preference among unrelated messages alone (`own`), and among preferences of other topics too (`other`)."""
    preferences, filler = _read(folder, "prefeval_preferences"), _read(folder, "prefeval_filler")
    texts = [
        Text(f"filler-{chat['n']}-{place}", turn["text"], tags=("filler",))
        for chat in filler
        for place, turn in enumerate(chat["turns"])
    ]
    texts += [Text(one["id"], one["preference"], tags=(one["id"], one["topic"])) for one in preferences]
    topics = sorted({one["topic"] for one in preferences})
    questions = []
    for one in preferences:
        elsewhere = tuple(topic for topic in topics if topic != one["topic"])
        answer = frozenset({one["id"]})
        questions.append(Question(one["question"], "own", answer, tags=("filler", one["id"])))
        questions.append(Question(one["question"], "other", answer, tags=("filler", one["id"], *elsewhere)))
    return Scope(texts, questions)


def preferences_as_messages(folder: Path, *, agents: int = 12) -> list[Scope]:
    """Agents that were each told one preference a topic in the middle of unrelated chats."""
    preferences, filler = _read(folder, "prefeval_preferences"), _read(folder, "prefeval_filler")
    by_topic = defaultdict(list)
    for one in preferences:
        by_topic[one["topic"]].append(one)
    scopes = []
    for number in range(agents):
        told = [ones[number] for _, ones in sorted(by_topic.items()) if number < len(ones)]
        texts = [
            Text(f"{chat['n']}-{place}", turn["text"], group=str(chat["n"]), by_user=turn["role"] == "user")
            for chat in filler
            for place, turn in enumerate(chat["turns"])
        ]
        texts += [Text(one["id"], one["preference"], group=f"told-{one['id'].replace('/', '-')}") for one in told]
        scopes.append(Scope(texts, [Question(one["question"], "told", frozenset({one["id"]})) for one in told]))
    return scopes


def products(folder: Path) -> Scope:
    """A catalogue, and what shoppers type. Queries without any fitting product are left out.

    Those of category `best` have products of the highest rating: their evidence.
    """
    labels: dict[str, dict[str, int]] = defaultdict(dict)
    for label in _read(folder, "icecat_labels"):
        labels[label["qid"]][label["id"]] = label["rating"]
    texts = [Text(one["id"], _product(one), kind="DOCUMENT") for one in _read(folder, "icecat_products")]
    questions = []
    for one in _read(folder, "icecat_queries"):
        grades = labels[one["qid"]]
        best = frozenset(product for product, rating in grades.items() if rating == max(_RATINGS))
        if any(grades.values()):
            questions.append(Question(one["query"], "best" if best else "good", best, grades=grades))
    return Scope(texts, questions)


def chinese() -> Scope:
    """Chinese messages, documents, preferences and instructions; a speaker is a conversation."""
    rows = [json.loads(line) for line in CHINESE.read_text(encoding="utf-8").splitlines()]
    texts = [
        Text(
            id=row["id"],
            text=row["text"],
            group=row["speaker"] or "documents",
            said=datetime.fromisoformat(row["date"]).replace(tzinfo=UTC) + timedelta(seconds=place),
            speaker=row["speaker"],
            kind={"message": "FACT"}.get(row["kind"], row["kind"].upper()),
        )
        for place, row in enumerate(rows)
        if row["type"] == "passage"
    ]
    questions = [
        Question(row["question"], row["category"], frozenset(row["evidence"]))
        for row in rows
        if row["type"] == "question"
    ]
    return Scope(texts, questions)


def recall(found: Sequence[str], question: Question, depth: int = 10) -> float:
    """Returns the part of the evidence that is among the first `depth`."""
    return len(question.evidence & set(found[:depth])) / len(question.evidence)


def ndcg(found: Sequence[str], question: Question, depth: int = 10) -> float:
    """Returns the normalised discounted cumulative gain (Järvelin and Kekäläinen 2002), gain 2^rating - 1."""
    best = _gain(sorted(question.grades.values(), reverse=True)[:depth])
    return _gain([question.grades.get(one, 0) for one in found[:depth]]) / best


def new_first(found: Sequence[str], question: Question) -> float:
    """Returns 1 where what is true now comes before what was true, else 0. What was not found comes last."""
    return float(_first(found, question.new) < _first(found, question.old))


def new_found(found: Sequence[str], question: Question, depth: int = 10) -> float:
    """Returns 1 where what is true now is among the first `depth`, else 0."""
    return float(_first(found, question.new) < depth)


def mean(values: Iterable[float]) -> float:
    """Returns the mean; not a number for none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan


def _gain(ratings: Iterable[int]) -> float:
    return sum((2.0**rating - 1) / math.log2(place + 2) for place, rating in enumerate(ratings))


def _first(found: Sequence[str], wanted: frozenset[str]) -> int:
    return next((place for place, one in enumerate(found) if one in wanted), len(found))


def _product(one: Mapping[str, Any]) -> str:
    told = {name: value for name, value in one.get("attrs", {}).items() if value not in (False, None)}
    attributes = [f"{name.replace('_', ' ')}: {value}" for name, value in told.items()]
    return "\n".join([one["title"], one.get("description", ""), *attributes])


def _by_conversation(folder: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _read(folder, name):
        found[row["conv"]].append(row)
    return found


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(_path(folder, name), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _path(folder: Path, name: str) -> Path:
    return folder / "retrieval" / f"{name}.jsonl.gz"
