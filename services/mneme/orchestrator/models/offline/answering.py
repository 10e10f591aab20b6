"""Which remembered lines to quote for a question."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mneme.orchestrator.models.offline.facts import fact, updates
from mneme.orchestrator.models.offline.grammar import spoken
from mneme.orchestrator.models.offline.ranking import Scored, rank
from mneme.orchestrator.models.offline.relations import attribute
from mneme.orchestrator.models.offline.replies import Quote
from mneme.orchestrator.models.offline.understanding import understand
from mneme.orchestrator.models.offline.vectors import WordVectors
from mneme.orchestrator.models.offline.view import Block, Hit, View, hits
from mneme.orchestrator.models.offline.words import pattern, same_text, terms

MAX_QUOTES = 3
MAX_UNSURE = 5
"""Lines quoted where the best one is not much better than the others."""
MAX_KNOWN = 8
"""Facts quoted when none stands out."""
_STRONG = 0.4
"""From here on the best line is trusted: only lines that come near it stand beside it."""
_WEAK = 0.15
"""Below this no line stands out."""
_HINT = 0.05
"""Evidence from which on a line may be meant."""
_NEAR = 0.5
"""A line is quoted beside the best one where its score is at least this part of the best."""
_NEAR_OF_OTHER = 0.8
"""The same for a line that shares no word with the question while the best one does, or has another attribute."""
_NEAR_OF_MANY = 0.25
"""The same where the question asks for several things."""
_QUOTE_CHARS = 300
_PERSONAL = pattern(r"\b(?:i|i'm|me|my|mine|we|us|our|i've)\b", "[我咱]")
_ADVICE = pattern(
    r"\b(?:should|recommend|suggest|suitable|careful|watch out|consider)\b",
    "应该|该|需要|要|注意|留意|当心|小心|适合|推荐|选|可以|给",
)
"""Questions for advice concern the user, also where they do not say so; so does how the model should behave."""
_MANY = pattern(
    r"\b(?:what|which|how many|any|all)(?: \w+)? (?!this\b|does\b|is\b|was\b|has\b)\w+[^s\W]s\b",
    r"\b(?:everything|list|all)\b",
    "哪些|哪几|都有|所有|全部",
)
_TO_MODEL = pattern(r"\b(?:you|your)\b", "[你您]")
_PAST = pattern(
    r"\b(?:before|previous(?:ly)?|used to|former(?:ly)?|earlier|originally|last time|first|history)\b",
    r"\bdid (?:i|we|you) (?:say|tell|talk|discuss)\b",
    "以前|之前|过去|原来|曾经|上次|最初|先前|说过|聊过",
)
_MODEL_SAID = pattern(
    r"\byou (?:say|said|suggest\w*|recommend\w*|tell|told|answer\w*)\b", "[你您](?:说|推荐|建议|回答)"
)


class Fit(StrEnum):
    """How well quotes answer a question."""

    SURE = "sure"
    LIKELY = "likely"
    KNOWN = "known"
    """Nothing stands out: the quotes are what may be meant, or simply what is known about the user."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Answer:
    """Lines that answer a question, best first."""

    fit: Fit = Fit.NONE
    quotes: tuple[Quote, ...] = ()


def answer(question: str, view: View, vectors: WordVectors) -> Answer:
    """The best lines of core memory, the window, its summary and the searches made; empty when nothing
    fits.
    """
    candidates = _candidates(question, view)
    ranked = rank(question, [quote.text for quote in candidates], vectors)
    personal = any(about.search(question) for about in (_PERSONAL, _ADVICE, _TO_MODEL))
    if ranked and _stands_out(ranked[0], personal):
        sure = ranked[0].score >= _STRONG
        part = _NEAR_OF_MANY if _MANY.search(question) else _NEAR
        kept = [
            item for item in ranked if _stands_beside(item, ranked[0], part) or (not sure and item.score >= _WEAK / 2)
        ]
        quotes = _distinct((candidates[item.index] for item in kept), MAX_QUOTES if sure else MAX_UNSURE)
        return Answer(Fit.SURE if sure else Fit.LIKELY, tuple(quotes))
    known = [item for item in ranked if candidates[item.index].source == "memory"]
    hinted = [item for item in known if item.evidence >= _HINT]
    chosen = known[:MAX_KNOWN] if personal else hinted[:MAX_QUOTES]
    if chosen:
        ordered = sorted(chosen, key=lambda item: item.index)
        return Answer(Fit.KNOWN, tuple(candidates[item.index] for item in ordered))
    return Answer()


def _stands_out(best: Scored, personal: bool) -> bool:
    """True where the best line is worth quoting; about something other than the user only for what it
    says.
    """
    return best.score >= _WEAK if personal else best.evidence >= _WEAK


def _stands_beside(item: Scored, best: Scored, part: float) -> bool:
    """True where a line is worth quoting beside the best one, and is not plainly about something else."""
    if (best.words and not item.words and not item.asked) or (
        best.attribute and item.attribute not in {"", best.attribute}
    ):
        part = max(part, _NEAR_OF_OTHER)
    return item.score >= best.score * part


def memory_lines(blocks: Iterable[Block]) -> list[tuple[Block, str]]:
    """The lines about the user in core memory: of every block but the agent's own persona."""
    return [(block, line) for block in blocks if block.label != "persona" for line in block.lines]


def _candidates(question: str, view: View) -> list[Quote]:
    blocks = [block for block in view.blocks if block.label == "persona"] if _TO_MODEL.search(question) else []
    quotes = [Quote(line, "memory", block.label) for block, line in memory_lines(view.blocks)]
    quotes += [Quote(line, "memory", block.label) for block in blocks for line in block.lines]
    other = [Quote(line, "summary") for line in view.summary]
    other += [Quote(_cut(text), "archive") for text in view.passages]
    for message in view.earlier:
        other += [Quote(said, "window") for said in understand(message).statements]
    for call in view.called("conversation_search", "conversation_search_date", "archival_memory_search"):
        for hit in hits(call):
            other += _from_hit(hit, question)
    return quotes + _current(quotes, other, question)


def _from_hit(hit: Hit, question: str) -> list[Quote]:
    if hit.source == "archive":
        return [Quote(_cut(hit.text), "archive", hit.date)]
    if hit.role == "assistant":
        return [Quote(_cut(hit.text), "conversation", hit.date)] if _MODEL_SAID.search(question) else []
    return [Quote(_cut(said), "conversation", hit.date) for said in understand(hit.text).statements]


def _current(memory: Sequence[Quote], other: Sequence[Quote], question: str) -> list[Quote]:
    """The lines from elsewhere that core memory does not hold already, in these words or in a newer
    version.
    """
    past = bool(_PAST.search(question))
    known = {attribute(quote.text) for quote in memory} - {""}
    news = [fact(spoken(quote.text)) for quote in memory]
    kept: list[Quote] = []
    for quote in sorted(other, key=lambda one: one.detail, reverse=True):
        about = attribute(quote.text)
        if not past and (about in known or any(updates(new, quote.text) for new in news)):
            continue
        if any(_repeats(quote, one) for one in (*memory, *kept)):
            continue
        if about:
            known.add(about)
        kept.append(quote)
    return kept


def _distinct(quotes: Iterable[Quote], limit: int) -> list[Quote]:
    kept: list[Quote] = []
    for quote in quotes:
        if len(kept) < limit and not any(_repeats(quote, one) for one in kept):
            kept.append(quote)
    return kept


def _repeats(quote: Quote, other: Quote) -> bool:
    """True where a line says nothing that the other one does not say in nearly the same words."""
    if same_text(quote.text, other.text):
        return True
    said = terms(quote.text)
    return bool(said) and len(said & terms(other.text)) >= 0.8 * len(said)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _QUOTE_CHARS else flat[: _QUOTE_CHARS - 1] + "…"
