"""What an answer was made from, and what speaks against serving it again. Pure.

An answer is kept when it is complete, nothing failed on the way, and everything that it rests on is counted by its
basis. In doubt it is not kept, which costs one model call.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from mneme.orchestrator.answers.keys import knowledge_bases
from mneme.orchestrator.effects import Outcome, asked_caller, used_clock, wrote_memory
from mneme.orchestrator.models.port import StopReason
from mneme.semantic_cache.v1 import semantic_cache_pb2 as cache_pb

MOST_PASSAGES = 200
"""Passages that an entry names at most; an answer made from more is served on the very same basis only."""

_UNFIT_STOPS = {
    StopReason.REFUSAL: cache_pb.UNFIT_REFUSED,
    StopReason.MAX_TOKENS: cache_pb.UNFIT_INCOMPLETE,
    StopReason.OTHER: cache_pb.UNFIT_INCOMPLETE,
}

# Every message carries its time, so a model needs no clock to answer these: no revision counts the hours.
_TIME = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|right now|at the moment|currently open"
    r"|this (?:morning|afternoon|evening|night|week|weekend|month|quarter|year)"
    r"|(?:next|last) (?:week|weekend|month|quarter|year|monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
    r"|(?:what|which) (?:time|day|date|month|year|weekday) (?:is it|do we)"
    r"|the (?:time|date)(?=\W*$)|current (?:time|date)"
    r"|how (?:long ago|old (?:is|are|am)|many days (?:until|till|left|ago))"
    r"|(?:days?|weeks?|months?|hours?) (?:ago|left|until|since)|so far|latest|recently|just now)\b"
    r"|今[天日晚早年]|明[天日年]|昨[天日晚]|后天|前天|现在|目前|此刻|刚才|刚刚|最近|最新|几点|几号|星期几|周几|这[周个]|本[周月年]"
    r"|上个?[周月]|下个?[周月]|去年|多久以前|还有多久|还有几天",
    re.IGNORECASE,
)


def rests_on_time(question: str) -> bool:
    """Whether the right answer to a question changes by itself."""
    return _TIME.search(question) is not None


class Admission:
    """Collects over a run what its answer rests on and what speaks against keeping it."""

    def __init__(self, question: str, client_tools: Container[str]) -> None:
        """Args:
        question: What the user asked.
        client_tools: Tools that the caller executes.
        """
        self._client_tools = client_tools
        self._unfit: set[cache_pb.Unfit.ValueType] = set()
        self._passages: dict[str, str] = {}
        self._searched = False
        if rests_on_time(question):
            self._unfit.add(cache_pb.UNFIT_TIME_DEPENDENT)

    def carried_out(self, outcomes: Sequence[Outcome], stop_reason: StopReason) -> None:
        """Takes in a step: what its calls came to, and why the model stopped."""
        for reason, holds in (
            (cache_pb.UNFIT_MEMORY_WRITTEN, wrote_memory(outcomes)),
            (cache_pb.UNFIT_TIME_DEPENDENT, used_clock(outcomes)),
            (cache_pb.UNFIT_OUTSIDE_TOOL, asked_caller(outcomes, self._client_tools)),
            (cache_pb.UNFIT_FAILED, any(not o.result.ok or o.result.by_words_only for o in outcomes)),
        ):
            if holds:
                self._unfit.add(reason)
        if stop_reason in _UNFIT_STOPS:
            self._unfit.add(_UNFIT_STOPS[stop_reason])
        for outcome in outcomes:
            self._searched |= outcome.result.passages is not None
            self._passages.update(outcome.result.passages or {})

    @property
    def unfit(self) -> list[cache_pb.Unfit.ValueType]:
        """What speaks against keeping the answer; empty for nothing."""
        return sorted(self._unfit)

    @property
    def passage_ids(self) -> list[str]:
        """Passages that the model was shown, as far as an entry names them."""
        return list(self._passages)[:MOST_PASSAGES]

    def knowledge(self, basis: cache_pb.Basis) -> list[cache_pb.KnowledgeUse]:
        """What was taken from each knowledge base of the basis by the model's own searches.

        They went by words too, so no score bounds what a newer passage would have had to reach: any may have been
        among the results. Empty where nothing was searched, or too much was found to name it.
        """
        if not self._searched or len(self._passages) > MOST_PASSAGES:
            return []
        return [
            cache_pb.KnowledgeUse(
                knowledge_base_id=id_, passage_ids=[p for p, owner in self._passages.items() if owner == id_]
            )
            for id_ in knowledge_bases(basis)
        ]
