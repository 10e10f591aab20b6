"""The offline model behind the port: deterministic, without network, honest about being no language model."""

import json
from collections.abc import AsyncGenerator
from uuid import NAMESPACE_OID, uuid5

from mneme.orchestrator.models.offline.lexicon import concepts
from mneme.orchestrator.models.offline.policy import Decision, decide
from mneme.orchestrator.models.offline.summary import summarise
from mneme.orchestrator.models.offline.vectors import WordVectors
from mneme.orchestrator.models.offline.view import look
from mneme.orchestrator.models.port import (
    Finished,
    ModelOutput,
    ModelRequest,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    ToolUse,
    Usage,
)
from mneme.orchestrator.models.tokens import count_tokens
from mneme.orchestrator.tools import HEARTBEAT, TOOLS
from mneme.settings import ModelsSettings

_CHUNK_CHARS = 24
_SILENT = frozenset({"send_message", "pause_heartbeats"})
"""Tools after which the model waits."""


class OfflineModel:
    """A `ChatModel` made of rules. It drives the tool loop as a language model would."""

    def __init__(self) -> None:
        self._vectors = WordVectors()
        concepts("")

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer, in pieces as a language model's would come."""
        output = self._output(request)
        for piece in _pieces(output.text):
            yield TextDelta(piece)
        for index, call in enumerate(output.tool_calls):
            yield ToolCallStarted(index, call.id, call.name)
            for piece in _pieces(call.arguments_json):
                yield ToolArgumentsDelta(index, piece)
        yield Finished(output)

    async def close(self) -> None:
        """Nothing to give back."""

    def _output(self, request: ModelRequest) -> ModelOutput:
        decision = self._decision(request)
        calls = tuple(_call(request, index, *planned) for index, planned in enumerate(decision.calls))
        written = count_tokens(decision.thought) + sum(count_tokens(call.arguments_json) for call in calls)
        return ModelOutput(
            text=decision.thought,
            tool_calls=calls,
            reasoning=(),
            stop_reason=StopReason.TOOL_USE if calls else StopReason.END_TURN,
            usage=Usage(input_tokens=_prompt_tokens(request), output_tokens=written),
            model=request.model,
        )

    def _decision(self, request: ModelRequest) -> Decision:
        if not request.tools:
            text = "\n".join(turn.text for turn in request.turns if turn.text)
            return Decision(summarise(text, request.max_tokens))
        return decide(look(request), self._vectors)


def _call(request: ModelRequest, index: int, name: str, arguments: dict[str, object]) -> ToolUse:
    if name in TOOLS and name not in _SILENT and HEARTBEAT in TOOLS[name].parameters["properties"]:
        arguments = {**arguments, HEARTBEAT: True}
    text = json.dumps(arguments, ensure_ascii=False)
    return ToolUse(f"call-{uuid5(NAMESPACE_OID, f'{len(request.turns)}/{index}/{name}/{text}').hex}", name, text)


def _prompt_tokens(request: ModelRequest) -> int:
    texts = [part.text for part in request.system]
    for turn in request.turns:
        texts.append(turn.text)
        texts += [call.arguments_json for call in turn.tool_calls]
        texts += [outcome.content for outcome in turn.outcomes]
    return sum(map(count_tokens, texts))


def _pieces(text: str) -> list[str]:
    return [text[at : at + _CHUNK_CHARS] for at in range(0, len(text), _CHUNK_CHARS)]


def build(settings: ModelsSettings) -> OfflineModel:
    """The model; it has no settings."""
    del settings
    return OfflineModel()
