"""Language models behind any endpoint that speaks the OpenAI chat protocol: DeepSeek, vLLM, Ollama and others."""

import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AsyncStream,
    RateLimitError,
    Timeout,
)

from mneme.orchestrator.models.failures import overflow, refused, says_too_long, throttled, unavailable
from mneme.orchestrator.models.openai_wire import Answer, chat_arguments
from mneme.orchestrator.models.port import ModelRequest, StreamEvent
from mneme.orchestrator.models.table import ModelInfo, model_info
from mneme.runtime.errors import Error
from mneme.settings import ModelsSettings

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

PROVIDER = "openai"
_NO_KEY = "none"
"""Sent to endpoints that ask for no key; the client refuses to have none."""
_THROTTLED_CODES = frozenset({"rate_limit_exceeded", "too_many_requests"})
"""Codes of an error event inside a stream, which has no status."""
_QUOTA_CODE = "insufficient_quota"
"""Comes with status 429, but waiting does not help."""
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})


def build(settings: ModelsSettings) -> "OpenAIModel":
    """The adapter with its client. Without a base URL the client's own default stands."""
    client = AsyncOpenAI(
        base_url=settings.openai_base_url or None,
        api_key=settings.openai_api_key.get_secret_value() or _NO_KEY,
        timeout=Timeout(settings.request_timeout, connect=settings.connect_timeout),
        max_retries=0,
    )
    return OpenAIModel(client, window_tokens=settings.window_tokens)


class OpenAIModel:
    """A `ChatModel` on a compatible endpoint."""

    def __init__(self, client: AsyncOpenAI, *, window_tokens: int = 0) -> None:
        """Args:
        client: Without retries of its own.
        window_tokens: Window of every model in place of the table's; 0 leaves it.
        """
        self._client = client
        self._window_tokens = window_tokens

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer; see the port."""
        info = model_info(request.model, window_tokens=self._window_tokens)
        answer = Answer(request.model)
        try:
            chunks = await self._open(request, info)
            async with chunks:
                async for chunk in chunks:
                    for event in answer.take(chunk):
                        yield event
        except (APIError, json.JSONDecodeError) as error:
            raise _translated(error, info) from error
        if not answer.complete:
            raise unavailable(PROVIDER, request.model, "the answer was cut off")
        yield answer.finished()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _open(self, request: ModelRequest, info: ModelInfo) -> "AsyncStream[ChatCompletionChunk]":
        create: Any = self._client.chat.completions.create
        return cast("AsyncStream[ChatCompletionChunk]", await create(**chat_arguments(request, info)))


def _translated(error: APIError | json.JSONDecodeError, info: ModelInfo) -> Error:
    """The client's failure as the suite's own."""
    if isinstance(error, json.JSONDecodeError):
        return unavailable(PROVIDER, info.name, "the answer is not valid JSON")
    if error.code in _THROTTLED_CODES or (isinstance(error, RateLimitError) and error.code != _QUOTA_CODE):
        return throttled(PROVIDER, info.name, _retry_after(error))
    if isinstance(error, APIConnectionError):
        return unavailable(PROVIDER, info.name, type(error).__name__)
    if error.code in _OVERFLOW_CODES or says_too_long(error.message):
        return overflow(PROVIDER, info.name, info.window_tokens)
    if isinstance(error, APIStatusError) and error.status_code < 500:
        return refused(PROVIDER, info.name, f"HTTP {error.status_code}: {error.message}")
    return unavailable(PROVIDER, info.name, _name(error))


def _name(error: APIError) -> str:
    return f"HTTP {error.status_code}" if isinstance(error, APIStatusError) else type(error).__name__


def _retry_after(error: APIError) -> timedelta | None:
    if not isinstance(error, APIStatusError):
        return None
    seconds = error.response.headers.get("retry-after", "")
    return timedelta(seconds=min(int(seconds), 3600)) if seconds.isdigit() else None
