"""What the offline model does next: remember, search, answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from mneme.orchestrator.models.offline.answering import Fit, answer, memory_lines
from mneme.orchestrator.models.offline.days import asked_days
from mneme.orchestrator.models.offline.lexicon import synonyms
from mneme.orchestrator.models.offline.ranking import rank
from mneme.orchestrator.models.offline.remembering import PlannedCall, facts, outcome, plan
from mneme.orchestrator.models.offline.replies import Phrases, Quote, phrases, quoted
from mneme.orchestrator.models.offline.topics import Topic
from mneme.orchestrator.models.offline.understanding import Understanding, understand
from mneme.orchestrator.models.offline.vectors import WordVectors
from mneme.orchestrator.models.offline.view import Call, View, hits
from mneme.orchestrator.models.offline.words import is_chinese, query_text

_SEARCHES = ("conversation_search", "archival_memory_search")
_SEARCH_LIMIT = 10
_NEEDS_CONTEXT = "needs_context"
"""Tool that is offered where the answer is for all users."""
_FORGET_SCORE = 0.25


@dataclass(frozen=True, slots=True)
class Decision:
    """A private thought and the calls to make, in order."""

    thought: str
    calls: tuple[PlannedCall, ...] = ()


def decide(view: View, vectors: WordVectors) -> Decision:
    """The next step for what the model sees; a decision without calls ends the chain."""
    if view.pressure:
        rescued = plan(view, facts([said for message in view.earlier for said in understand(message).statements]))
        if rescued:
            return Decision("The window fills up: what the user stated goes to memory.", tuple(rescued))
    if any(call.name == "send_message" for call in view.calls):
        return Decision("Answered.")
    if not view.message:
        return _on_event(view)
    understood = understand(view.message)
    if _NEEDS_CONTEXT in view.tools:
        return _for_everybody(view, understood, vectors)
    calls = _preparation(view, understood, vectors)
    if calls:
        return Decision(_thought(calls), tuple(calls))
    return Decision("Ready to answer.", (("send_message", {"message": _reply(view, understood, vectors)}),))


def _for_everybody(view: View, understood: Understanding, vectors: WordVectors) -> Decision:
    """Quotes what all users may see where that is an answer for sure, and hands the question on otherwise."""
    answers = [answer(question, view, vectors) for question in understood.questions]
    asks_more = understood.statements or understood.forget or understood.topics
    if asks_more or not answers or any(one.fit is not Fit.SURE for one in answers):
        return Decision("More must be known for this.", ((_NEEDS_CONTEXT, {"reason": "knowledge"}),))
    quotes = dict.fromkeys(quote for one in answers for quote in one.quotes)
    said = phrases(is_chinese(view.message))
    message = f"{said.found}\n{quoted(said, list(quotes))}"
    return Decision("Ready to answer everybody.", (("send_message", {"message": message}),))


def _on_event(view: View) -> Decision:
    """A timed event is passed on to the user; other events need no answer."""
    if view.timed and view.event and "send_message" in view.tools:
        return Decision("A timed event is due.", (("send_message", {"message": view.event}),))
    return Decision("Nothing to do for this event.")


def _thought(calls: Sequence[PlannedCall]) -> str:
    return "Next: " + ", ".join(dict.fromkeys(name for name, _ in calls)) + "."


def _preparation(view: View, understood: Understanding, vectors: WordVectors) -> list[PlannedCall]:
    """What has to happen before the answer: writes, removals, the clock, searches. Empty when all is done."""
    calls = plan(view, facts(understood.statements))
    if understood.forget and not view.called("core_memory_remove"):
        calls += _removals(view, understood.forget, vectors)
    if Topic.TIME in understood.topics and not view.called("get_current_time"):
        calls.append(("get_current_time", {}))
    if understood.questions:
        calls += _searches(view, understood.questions, vectors)
    return [call for call in calls if call[0] in view.tools]


def _searches(view: View, questions: Sequence[str], vectors: WordVectors) -> list[PlannedCall]:
    """A search for the questions' own words, then one for words of the same meaning if that brought nothing sure."""
    days = asked_days(" ".join(questions), view.today)
    if days and "conversation_search_date" in view.tools:
        span = {"start_date": days.first.isoformat(), "end_date": days.last.isoformat(), "limit": _SEARCH_LIMIT}
        return [] if view.called("conversation_search_date") else [("conversation_search_date", span)]
    made = len(view.called("conversation_search"))
    query = ""
    if made == 0:
        query = query_text(" ".join(questions))
    elif made == 1:
        unsure = [question for question in questions if answer(question, view, vectors).fit is not Fit.SURE]
        query = " ".join(synonyms(" ".join(unsure)))
    return [(name, {"query": query, "limit": _SEARCH_LIMIT}) for name in _SEARCHES] if query else []


def _removals(view: View, wishes: Sequence[str], vectors: WordVectors) -> list[PlannedCall]:
    """A removal for the line that each wish means, where one clearly does."""
    lines = [(block, line) for block, line in memory_lines(view.blocks) if not block.read_only]
    calls: list[PlannedCall] = []
    for wish in wishes:
        ranked = rank(wish, [line for _, line in lines], vectors)
        if ranked and ranked[0].score >= _FORGET_SCORE:
            block, line = lines[ranked[0].index]
            calls.append(("core_memory_remove", {"label": block.label, "content": line}))
    return calls


def _reply(view: View, understood: Understanding, vectors: WordVectors) -> str:
    said = phrases(is_chinese(view.message))
    paragraphs = [
        *([said.identity] if Topic.IDENTITY in understood.topics else []),
        *([said.abilities] if understood.topics & {Topic.ABILITIES, Topic.TASK} else []),
        *_on_facts(view, understood, said),
        *_on_forgetting(view, understood, said),
        *[said.time.format(time=call.result) for call in view.called("get_current_time") if call.ok],
        *_on_questions(view, understood, said, vectors),
    ]
    if not paragraphs:
        kind = understood.small_talk
        paragraphs.append(said.small_talk[kind] if kind else said.fallback)
    if view.first and Topic.IDENTITY not in understood.topics:
        paragraphs.append(said.introduction)
    return "\n".join(paragraphs)


def _on_facts(view: View, understood: Understanding, said: Phrases) -> list[str]:
    result = outcome(view, facts(understood.statements))
    return [
        *([said.saved.format(lines=" ".join(result.saved))] if result.saved else []),
        *[said.updated.format(old=old, new=new) for old, new in result.updated],
        *([said.archived.format(lines=" ".join(result.archived))] if result.archived else []),
        *([said.known.format(lines=" ".join(result.known))] if result.known else []),
        *([said.unsaved.format(problem=result.problem)] if result.problem else []),
    ]


def _on_forgetting(view: View, understood: Understanding, said: Phrases) -> list[str]:
    if not understood.forget:
        return []
    removed = [str(call.arguments.get("content", "")) for call in view.called("core_memory_remove") if call.ok]
    if removed:
        return [said.removed.format(lines=" ".join(removed))]
    return [said.not_removed.format(what=what) for what in understood.forget]


def _on_questions(view: View, understood: Understanding, said: Phrases, vectors: WordVectors) -> list[str]:
    if not understood.questions:
        return []
    if listed := view.called("conversation_search_date"):
        return [_listing(listed[-1], said)]
    answers = [answer(question, view, vectors) for question in understood.questions]
    fitting = [quote for one in answers for quote in one.quotes if one.fit in {Fit.SURE, Fit.LIKELY}]
    known = [quote for one in answers for quote in one.quotes if one.fit is Fit.KNOWN]
    paragraphs = [said.nothing]
    if fitting or known:
        heading = said.found if fitting else said.all_known
        paragraphs = [f"{heading}\n{quoted(said, list(dict.fromkeys(fitting or known)))}"]
    failed = _failed_search(view)
    return [*paragraphs, *([said.limited.format(problem=failed.result)] if failed else [])]


def _listing(call: Call, said: Phrases) -> str:
    """What was said on the days asked about, in order."""
    quotes = [Quote(f"{hit.role}: {hit.text}", "conversation", hit.date) for hit in hits(call)]
    return f"{said.found}\n{quoted(said, quotes)}" if quotes else said.nothing


def _failed_search(view: View) -> Call | None:
    searches = view.called(*_SEARCHES)
    return next((call for call in searches if not call.ok), None)
