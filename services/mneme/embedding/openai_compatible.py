"""Embedding models behind the OpenAI API: OpenAI, vLLM, Ollama, DeepSeek, a local text-embeddings server."""

from __future__ import annotations

import re
from collections.abc import Sequence

import openai
from openai.types import CreateEmbeddingResponse

from mneme.embedding.fitting import Overlong, Rejected, fit
from mneme.embedding.provider import Embedded, InputType, Model, Result, refused, retry_after, throttled, unavailable
from mneme.embedding.vectors import unit
from mneme.runtime.errors import Error
from mneme.settings import EmbeddingSettings, ModelsSettings

# Others refuse the parameter.
_SIZED = "text-embedding-3"
_TOO_LONG = re.compile(
    r"maximum context length|too long|less than \d+ tokens|exceeds? .*(length|tokens)", re.IGNORECASE
)
_COUNTED = re.compile(r"(?:requested|given:?|resulted in|got)\s*(\d+)", re.IGNORECASE)


class OpenAIProvider:
    """One model of one endpoint."""

    def __init__(self, model: Model, client: openai.AsyncOpenAI) -> None:
        """Args:
        model: What is known of it.
        client: The connection.
        """
        self._model = model
        self._client = client

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order; see the port."""
        return await fit(self._model, texts, self._call, truncate=truncate)

    async def close(self) -> None:
        """Frees the connections."""
        await self._client.close()

    async def _call(self, texts: Sequence[str]) -> list[Embedded]:
        dimensions = self._model.dimensions if self._model.name.startswith(_SIZED) else openai.omit
        try:
            answer = await self._client.embeddings.create(
                model=self._model.name, input=list(texts), encoding_format="float", dimensions=dimensions
            )
        except openai.OpenAIError as error:
            raise self._failure(error) from error
        except ValueError as error:
            raise refused(self._model, "answered with what is no JSON") from error
        try:
            return self._read(answer, len(texts))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise refused(self._model, "answered with what are no embeddings") from error

    def _read(self, answer: CreateEmbeddingResponse, count: int) -> list[Embedded]:
        items = sorted(answer.data, key=lambda item: item.index)
        if len(items) != count:
            raise refused(self._model, f"answered with {len(items)} vectors for {count} texts")
        if [item.index for item in items] != list(range(count)):
            raise refused(self._model, "answered with vectors that do not say which text each is of")
        share, rest = divmod(max(0, answer.usage.prompt_tokens) if answer.usage else 0, count)
        return [self._embedded(item.embedding, share + (index < rest)) for index, item in enumerate(items)]

    def _embedded(self, row: Sequence[float], token_count: int) -> Embedded:
        vector = unit(row, self._model.dimensions)
        if vector is None:
            raise refused(
                self._model, f"answered with {len(row)} numbers that are no vector of {self._model.dimensions}"
            )
        return Embedded(vector, token_count)

    def _failure(self, error: openai.OpenAIError) -> Error | Overlong | Rejected:
        if isinstance(error, openai.RateLimitError):
            return throttled(self._model, retry_after(error.response.headers))
        if not isinstance(error, openai.APIStatusError) or isinstance(error, openai.InternalServerError):
            return unavailable(self._model)
        if error.status_code in (400, 413, 422):
            if not _TOO_LONG.search(error.message):
                # Its message may repeat what it could not read.
                return Rejected(f"status {error.status_code}")
            counted = _COUNTED.search(error.message)
            return Overlong(int(counted.group(1)) if counted else None)
        return refused(self._model, f"status {error.status_code}")


def build(models: ModelsSettings, settings: EmbeddingSettings) -> OpenAIProvider:
    """Returns the provider of the configured model; nothing is called yet."""
    url, key = models.openai_base_url, models.openai_api_key.get_secret_value()
    if models.embedding_base_url:
        url, key = models.embedding_base_url, models.embedding_api_key.get_secret_value()
    if not url and not key:
        raise ValueError(
            "models.embedding_base_url or models.openai_base_url: needed for embedding_provider 'openai' without "
            "models.openai_api_key"
        )
    client = openai.AsyncOpenAI(
        base_url=url or None,
        # Local servers want none, and the client refuses to be made without one.
        api_key=key or "none",
        timeout=settings.provider_timeout,
        max_retries=0,
    )
    model = Model(
        "openai",
        models.embedding_model,
        models.embedding_dimensions,
        settings.max_tokens,
        settings.batch_size,
    )
    return OpenAIProvider(model, client)
