"""A language model that answers at once, so that what is left of a turn's time is the suite's own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from mneme.orchestrator.answers.public import NEEDS_CONTEXT
from mneme.orchestrator.models.port import (
    ChatModel,
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
from mneme.settings import ModelsSettings

ANSWER = "Yes, I remember that you told me so last week, and I shall think of it when we plan the dinner on Friday."
"""About 25 tokens, as a short answer has."""
_PIECE_CHARS = 12
"""A piece is about three tokens, as providers send them."""


class StubModel:
    """Answers every request with one call of send_message, in pieces, without waiting for anything.

    An answer for all users repeats the question, so that whoever is served it can tell what it was made for.
    """

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer; see the port."""
        shared = any(tool.name == NEEDS_CONTEXT for tool in request.tools)
        arguments = json.dumps({"message": request.turns[-1].text if shared else ANSWER})
        call = ToolUse("call-1", "send_message", arguments)
        yield ToolCallStarted(0, call.id, call.name)
        for start in range(0, len(arguments), _PIECE_CHARS):
            yield ToolArgumentsDelta(0, arguments[start : start + _PIECE_CHARS])
        yield Finished(ModelOutput("", (call,), (), StopReason.TOOL_USE, Usage(), request.model))

    async def close(self) -> None:
        """Holds nothing."""


def build(_settings: ModelsSettings) -> ChatModel:
    """Stands in for `mneme.orchestrator.models.build.build_model`."""
    return StubModel()
