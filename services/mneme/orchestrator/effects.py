"""Carries out what the journal says: runs a step's calls, each once, and turns their outcomes into messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from mneme.orchestrator import events, journal
from mneme.orchestrator.current import Current
from mneme.orchestrator.executor import ToolContext, ToolResult
from mneme.orchestrator.models.port import ModelOutput, ToolUse
from mneme.orchestrator.tools import InvalidCall, ParsedCall
from mneme.orchestrator.window import Window
from mneme.runtime import call as running
from mneme.runtime.call import Call, Principal

_LEAST_FREE_TOKENS = 200
_WRITES = frozenset(
    {
        "core_memory_append",
        "core_memory_replace",
        "core_memory_remove",
        "archival_memory_insert",
        "archival_memory_delete",
    }
)
"""Tools that change memory."""
_CLOCK = frozenset({"get_current_time", "pause_heartbeats"})
"""Tools whose outcome hangs on the time."""
_SERVICES = {"core_memory": "core_memory", "conversation": "recall", "archival_memory": "archival"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one call."""

    call: ToolUse
    result: ToolResult
    heartbeat: bool


class Effects:
    """Runs calls on behalf of one run."""

    def __init__(self, current: Current) -> None:
        self._current = current

    async def perform(
        self, step_id: str, output: ModelOutput, window: Window, *, free_tokens: int, sources: Sequence[str]
    ) -> list[Outcome]:
        """The outcomes of a step's calls, in order, with their events.

        A step whose messages are in the window already was carried out before a crash: what failed then is not
        tried again, and what succeeded is repeated only to learn what it had changed, which its derived id makes
        harmless.

        Args:
            free_tokens: Room for all results together.
            sources: Messages that the calls rest on.
        """
        earlier = {message.tool_call_id: message for message in window.messages if message.role == "tool"}
        outcomes = []
        for index, call in enumerate(output.tool_calls):
            parsed = self._current.checked(call)
            context = ToolContext(
                agent_id=self._current.run.agent_id,
                conversation_id=self._current.fence.conversation_id,
                user_id=self._current.run.user_id,
                step_id=step_id,
                index=index,
                window_start_sequence=window.messages[0].sequence if window.messages else window.next_sequence,
                free_tokens=max(_LEAST_FREE_TOKENS, free_tokens),
                source_message_ids=tuple(sources),
            )
            began = time.monotonic()
            known = earlier.get(call.id)
            if known is not None and (not known.tool_ok or call.name not in _WRITES):
                result = _known(known.text, ok=known.tool_ok, call=parsed)
            else:
                result = await self._run(parsed, context, output.model)
            self._show(step_id, call, result, timedelta(seconds=time.monotonic() - began))
            outcomes.append(Outcome(call, result, isinstance(parsed, ParsedCall) and parsed.heartbeat))
            free_tokens -= self._current.deps.count_tokens(result.text)
        return outcomes

    async def _run(self, parsed: ParsedCall | InvalidCall, context: ToolContext, model: str) -> ToolResult:
        if isinstance(parsed, InvalidCall):
            return ToolResult(ok=False, text=f"Failed: {parsed.problem}")
        principal = running.current().principal
        acting = Principal(principal.tenant, f"model:{model}", principal.user, principal.service, principal.scopes)
        with running.enter(Call(acting, running.current().deadline)):
            return await self._current.patiently(
                service_of(parsed.name),
                lambda: self._current.deps.executor.run(parsed, context),
                cancellable=False,
            )

    def _show(self, step_id: str, call: ToolUse, result: ToolResult, duration: timedelta) -> None:
        current = self._current
        current.deps.metrics.tool_calls.labels(
            call.name if call.name in current.profile.tools else "unknown", "ok" if result.ok else "failed"
        ).inc()
        current.log.add(events.tool_result(call, result, duration))
        for edit in result.edits:
            current.log.add(events.memory_edit(edit))
        if result.user_message is not None:
            current.log.add(events.assistant_message(journal.assistant_id(step_id), result.user_message))
        if result.degraded:
            current.log.add(events.degraded(result.degraded, f"{call.name} failed"))
        if result.pause_minutes is not None:
            current.pause = timedelta(minutes=result.pause_minutes)


def service_of(tool: str) -> str:
    """The service that a tool asks; the orchestrator itself for the others."""
    return next((service for prefix, service in _SERVICES.items() if tool.startswith(prefix)), "orchestrator")


def wrote_memory(outcomes: Sequence[Outcome]) -> bool:
    """True when a call changed memory, or tried to."""
    return any(outcome.call.name in _WRITES for outcome in outcomes)


def used_clock(outcomes: Sequence[Outcome]) -> bool:
    """True when an outcome hangs on the time."""
    return any(outcome.call.name in _CLOCK for outcome in outcomes)


def _known(text: str, *, ok: bool, call: ParsedCall | InvalidCall) -> ToolResult:
    said = (
        call.arguments["message"] if ok and isinstance(call, ParsedCall) and call.name == journal.SEND_MESSAGE else None
    )
    return ToolResult(ok=ok, text=text, user_message=said)
