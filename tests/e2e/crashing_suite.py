"""The whole suite in a process that kills itself at the point which a message names: `… [kill <point> <step>]`.

Only the first attempt at a run is killed, so the process that takes the run up again brings it to its end. The model
is scripted: two steps, the first edits memory, the second answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from mneme import registry, settings
from mneme.orchestrator import service
from mneme.orchestrator.current import Current
from mneme.orchestrator.executor import Executor
from mneme.orchestrator.memory import Memory
from mneme.orchestrator.models.port import (
    Finished,
    ModelOutput,
    ModelRequest,
    StopReason,
    StreamEvent,
    ToolArgumentsDelta,
    ToolCallStarted,
    ToolUse,
    Usage,
)
from mneme.orchestrator.store import journal as journal_store
from mneme.orchestrator.turn import Turn

POINTS = (
    ("accepted", 1),
    ("model", 1),
    ("stream", 2),
    ("journal_before", 1),
    ("journal_inside", 1),
    ("journal_after", 1),
    ("call_after", 1),
    ("append_before", 1),
    ("append_after", 1),
    ("checkpoint_inside", 1),
    ("checkpoint_after", 1),
    ("journal_after", 2),
    ("append_after", 2),
    ("finish_inside", 2),
    ("finish_after", 2),
)
"""Where a turn can be killed, and in which of its steps."""

_running: ContextVar[Current] = ContextVar("running")


class Model:
    """Saves what the user said to memory, twice, and then repeats it."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        _reach("model")
        said = [turn.text for turn in request.turns if turn.role == "user"][-1].rpartition("] ")[2]
        made = self._edits(said) if request.turns[-1].role == "user" else self._answer(said)
        for index, call in enumerate(made):
            yield ToolCallStarted(index, call.id, call.name)
            yield ToolArgumentsDelta(index, call.arguments_json[:20])
            _reach("stream")
            yield ToolArgumentsDelta(index, call.arguments_json[20:])
        yield Finished(ModelOutput("", made, (), StopReason.TOOL_USE, Usage(100, 10), "crashing"))

    async def close(self) -> None:
        pass

    def _edits(self, said: str) -> tuple[ToolUse, ...]:
        block = {"label": "human", "content": f"said {said}", "request_heartbeat": True}
        passage = {"content": f"They said {said} once.", "request_heartbeat": True}
        return _call("core_memory_append", block), _call("archival_memory_insert", passage)

    def _answer(self, said: str) -> tuple[ToolUse, ...]:
        return (_call("send_message", {"message": f"you said {said}"}),)


def _call(name: str, arguments: dict[str, Any]) -> ToolUse:
    return ToolUse(f"provider-{name}", name, json.dumps(arguments))


def _reach(point: str) -> None:
    """Dies here when the running message says so."""
    current = _running.get(None)
    if current is None or current.run.attempt > 1:
        return
    wanted = re.search(r"\[kill (\w+) (\d)\]", current.work.event.text)
    step = current.step_count + (not point.startswith(("append", "checkpoint", "finish", "call", "journal_after")))
    if wanted and wanted[1] == point and int(wanted[2]) == step:
        os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, *, before: str = "", after: str = "") -> None:
    """Makes a coroutine function pass points before and after it."""
    inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        _reach(before)
        result = await inner(*args, **kwargs)
        _reach(after)
        return result

    _replace(owner, name, wrapped)


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def _mark_running() -> None:
    inner = Turn.run

    async def run(self: Turn, **kwargs: Any) -> Any:
        _running.set(self._current)
        _reach("accepted")
        return await inner(self, **kwargs)

    _replace(Turn, "run", run)


def main() -> None:
    """Serves until it is killed."""
    _mark_running()
    _around(Current, "commit", before="journal_before", after="journal_after")
    _around(journal_store, "commit", after="journal_inside")
    _around(Executor, "run", after="call_after")
    _around(Memory, "_send", before="append_before", after="append_after")
    _around(Current, "checkpoint", after="checkpoint_after")
    _around(journal_store, "checkpoint", after="checkpoint_inside")
    _around(journal_store, "finish", after="finish_inside")
    _around(Turn, "_finish", after="finish_after")
    _replace(service, "build_model", lambda _: Model())
    asyncio.run(registry.serve(settings.load()))


if __name__ == "__main__":
    main()
