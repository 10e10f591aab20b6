"""Turns in the shape that every provider accepts: strictly paired calls, no notices, no neighbours of one role."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mneme.orchestrator.models.port import ToolOutcome, ToolUse, Turn

NOT_RUN = "Failed: this call was not run."
HIDDEN_START = "(The beginning of the conversation is not shown.)"
GO_ON = "(Go on.)"


def shaped(turns: Sequence[Turn], *, with_tools: bool) -> list[Turn]:
    """The turns as user, assistant and tool turns only, starting and ending with something to answer.

    Notices become user turns; neighbouring user turns and neighbouring assistant turns become one. Each assistant turn
    with calls is followed by one tool turn with an outcome for each call, in order; results without a call become text.

    Args:
        with_tools: False where the request offers no tools: providers then refuse calls, which become text.
    """
    plain = turns if with_tools else [_without_calls(turn) for turn in turns]
    merged = _merged(_as_user(turn) for turn in plain)
    paired = _paired(merged)
    if not paired or paired[0].role == "assistant":
        paired.insert(0, Turn("user", HIDDEN_START))
    if paired[-1].role == "assistant":
        paired.append(Turn("user", GO_ON))
    return paired


def arguments_object(call: ToolUse) -> dict[str, Any]:
    """A call's arguments as an object; ones that are none stay readable to the model that wrote them."""
    try:
        value = json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"not_json": call.arguments_json}


def _as_user(turn: Turn) -> Turn:
    return Turn("user", turn.text) if turn.role == "system" else turn


def _without_calls(turn: Turn) -> Turn:
    if turn.role == "tool":
        return Turn("user", "\n".join(outcome.content for outcome in turn.outcomes))
    calls = [f"[called {call.name} with {call.arguments_json}]" for call in turn.tool_calls]
    return replace(turn, text="\n".join(filter(None, (turn.text, *calls))), tool_calls=())


def _merged(turns: Iterable[Turn]) -> list[Turn]:
    """The turns without empty ones, neighbours of one role joined."""
    kept: list[Turn] = []
    for turn in turns:
        if not (turn.text.strip() or turn.tool_calls or turn.outcomes):
            continue
        last = kept[-1] if kept else None
        if last is None or last.role != turn.role or last.tool_calls:
            kept.append(turn)
            continue
        kept[-1] = Turn(
            turn.role,
            "\n\n".join(filter(None, (last.text, turn.text))),
            tool_calls=turn.tool_calls,
            outcomes=last.outcomes + turn.outcomes,
            reasoning=last.reasoning + turn.reasoning,
        )
    return kept


def _paired(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with one outcome behind each call."""
    kept: list[Turn] = []
    open_calls: tuple[ToolUse, ...] = ()
    for turn in turns:
        if turn.role == "tool":
            outcomes, strays = _matched(open_calls, turn.outcomes)
            open_calls = ()
            kept += [Turn("tool", outcomes=outcomes)] if outcomes else []
            kept += [Turn("user", stray.content) for stray in strays]
            continue
        kept += _unanswered(open_calls)
        open_calls = turn.tool_calls
        kept.append(turn)
    return _merged([*kept, *_unanswered(open_calls)])


def _matched(
    calls: Sequence[ToolUse], outcomes: Sequence[ToolOutcome]
) -> tuple[tuple[ToolOutcome, ...], list[ToolOutcome]]:
    """An outcome for each call, in the calls' order, and the outcomes that belong to none."""
    by_id = {outcome.tool_call_id: outcome for outcome in outcomes}
    matched = tuple(by_id.pop(call.id, ToolOutcome(call.id, ok=False, content=NOT_RUN)) for call in calls)
    return matched, list(by_id.values())


def _unanswered(calls: Sequence[ToolUse]) -> list[Turn]:
    outcomes, _ = _matched(calls, ())
    return [Turn("tool", outcomes=outcomes)] if outcomes else []
