"""Embedding models on Bedrock through InvokeModel: Titan Text Embeddings V2, and Cohere Embed.

Calls run in a bounded pool of threads, as the SDK blocks. Credentials come from its default chain.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
from botocore import exceptions

from mneme.embedding.fitting import Overlong, Rejected, fit
from mneme.embedding.provider import (
    Embedded,
    InputType,
    Model,
    Provider,
    Result,
    TooLong,
    refused,
    retry_after,
    throttled,
    unavailable,
)
from mneme.embedding.vectors import unit
from mneme.runtime.errors import Error
from mneme.settings import EmbeddingSettings, ModelsSettings

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

_TITAN_CHARS = 50_000
_TITAN_DIMENSIONS = (1024, 512, 256)
_COHERE_BATCH = 96
_COHERE_V3_CHARS = 2048
_COHERE_V4_DIMENSIONS = (1536, 1024, 512, 256)

_THROTTLED = {"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"}
_UNAVAILABLE = {
    "InternalServerException",
    "ModelNotReadyException",
    "ModelTimeoutException",
    "ServiceUnavailableException",
}
_TOO_LONG = re.compile(r"too many (input )?tokens|too long|maxLength|maximum (context|input) length", re.IGNORECASE)
_COUNTED = re.compile(r"(?:request input token count|got|actual):?\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Answer:
    body: dict[str, Any]
    token_count: int


class _Bedrock:
    """One model behind InvokeModel."""

    def __init__(self, model: Model, client: BedrockRuntimeClient, concurrency: int) -> None:
        self.model = model
        self._client = client
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="bedrock-embed")

    async def invoke(self, body: dict[str, Any]) -> _Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._invoke, json.dumps(body))

    def vectors(self, rows: Sequence[Sequence[float]], answer: _Answer, expected: int) -> list[Embedded]:
        """The rows of an answer, with its tokens spread over them."""
        if len(rows) != expected:
            raise refused(self.model, f"answered with {len(rows)} vectors for {expected} texts")
        share, rest = divmod(answer.token_count, len(rows))
        made: list[Embedded] = []
        for index, row in enumerate(rows):
            vector = unit(row, self.model.dimensions)
            if vector is None:
                raise refused(self.model, f"answered with {len(row)} numbers, not {self.model.dimensions}")
            made.append(Embedded(vector, share + (index < rest)))
        return made

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _invoke(self, body: str) -> _Answer:
        try:
            response = self._client.invoke_model(
                modelId=self.model.name, body=body, accept="application/json", contentType="application/json"
            )
            content = json.loads(response["body"].read())
        except exceptions.ClientError as error:
            raise self._failure(error) from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise refused(self.model, "no AWS credentials were found") from error
        except (exceptions.BotoCoreError, OSError, ValueError) as error:
            raise unavailable(self.model) from error
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        counted = headers.get("x-amzn-bedrock-input-token-count", content.get("inputTextTokenCount", 0))
        return _Answer(content, int(counted))

    def _failure(self, error: exceptions.ClientError) -> Error | Overlong | Rejected:
        code = error.response["Error"].get("Code", "")
        message = error.response["Error"].get("Message", "")
        answer = error.response["ResponseMetadata"]
        status = answer["HTTPStatusCode"]
        if code in _THROTTLED or status == 429:
            return throttled(self.model, retry_after(answer["HTTPHeaders"]))
        if code in _UNAVAILABLE or status >= 500:
            return unavailable(self.model)
        if code == "ValidationException" and _TOO_LONG.search(message):
            counted = _COUNTED.search(message)
            return Overlong(int(counted.group(1)) if counted and "token" in message.lower() else None)
        if code == "ValidationException":
            return Rejected(f"{code}: {message}"[:200])
        return refused(self.model, f"{code}: {message}"[:200])


class TitanProvider:
    """Titan Text Embeddings V2: one text a call, the same vector for questions and documents."""

    def __init__(self, bedrock: _Bedrock) -> None:
        self._bedrock = bedrock

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._bedrock.model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order; see the port."""
        return list(await asyncio.gather(*(self._embed_one(text, truncate=truncate) for text in texts)))

    async def close(self) -> None:
        """Ends running calls and frees the connections."""
        await self._bedrock.close()

    async def _embed_one(self, text: str, *, truncate: bool) -> Result:
        whole = text[:_TITAN_CHARS]
        if len(text) > _TITAN_CHARS and not truncate:
            return TooLong(_TITAN_CHARS, "characters", len(text))
        (found,) = await fit(self.model, [whole], self._call, truncate=truncate)
        if isinstance(found, Embedded) and len(whole) < len(text):
            return Embedded(found.vector, found.token_count, truncated=True)
        return found

    async def _call(self, texts: Sequence[str]) -> list[Embedded]:
        (text,) = texts
        body = {"inputText": text, "dimensions": self.model.dimensions, "normalize": True}
        answer = await self._bedrock.invoke(body)
        return self._bedrock.vectors([answer.body.get("embedding", [])], answer, 1)


class CohereProvider:
    """Cohere Embed: up to 96 texts a call, questions and documents embedded differently."""

    def __init__(self, bedrock: _Bedrock, *, chars: int | None, sized: bool) -> None:
        """Args:
        bedrock: The model.
        chars: Most characters of one text; None for no such limit.
        sized: Whether the model can be asked for a number of dimensions.
        """
        self._bedrock = bedrock
        self._chars = chars
        self._sized = sized

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._bedrock.model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order; see the port."""

        async def call(batch: Sequence[str]) -> list[Embedded]:
            body: dict[str, Any] = {
                "texts": list(batch),
                "input_type": f"search_{input_type}",
                "truncate": "NONE",
                "embedding_types": ["float"],
            }
            if self._sized:
                body["output_dimension"] = self.model.dimensions
            answer = await self._bedrock.invoke(body)
            return self._bedrock.vectors(_rows(answer.body), answer, len(batch))

        if self._chars is None:
            return await fit(self.model, texts, call, truncate=truncate)
        return await self._within(self._chars, texts, call, truncate=truncate)

    async def close(self) -> None:
        """Ends running calls and frees the connections."""
        await self._bedrock.close()

    async def _within(self, chars: int, texts: Sequence[str], call: Any, *, truncate: bool) -> list[Result]:
        """Keeps texts above the limit of characters out of the call, or cuts them first."""
        long = [len(text) > chars for text in texts]
        sent = [text[:chars] for text, over in zip(texts, long, strict=True) if truncate or not over]
        found = iter(await fit(self.model, sent, call, truncate=truncate) if sent else [])
        results: list[Result] = []
        for text, over in zip(texts, long, strict=True):
            result = next(found) if truncate or not over else TooLong(chars, "characters", len(text))
            if over and isinstance(result, Embedded):
                result = Embedded(result.vector, result.token_count, truncated=True)
            results.append(result)
        return results


def _rows(body: dict[str, Any]) -> list[list[float]]:
    found = body.get("embeddings", [])
    rows: list[list[float]] = found.get("float", []) if isinstance(found, dict) else found
    return rows


def build(models: ModelsSettings, settings: EmbeddingSettings) -> Provider:
    """Returns the provider of the configured model; nothing is called yet."""
    name, dimensions = models.embedding_model, models.embedding_dimensions
    if "titan-embed-text-v2" in name:
        _check(name, dimensions, _TITAN_DIMENSIONS)
        titan = Model("bedrock", name, dimensions, 8192, 1, dollars_per_million=0.02)
        return TitanProvider(_connect(titan, models, settings))
    if "cohere.embed-v4" in name:
        _check(name, dimensions, _COHERE_V4_DIMENSIONS)
        cohere = Model("bedrock", name, dimensions, 128_000, _COHERE_BATCH, asymmetric=True, dollars_per_million=0.12)
        return CohereProvider(_connect(cohere, models, settings), chars=None, sized=True)
    if "cohere.embed" in name:
        _check(name, dimensions, (1024,))
        cohere = Model("bedrock", name, dimensions, 512, _COHERE_BATCH, asymmetric=True, dollars_per_million=0.1)
        return CohereProvider(_connect(cohere, models, settings), chars=_COHERE_V3_CHARS, sized=False)
    raise ValueError(f"models.embedding_model: '{name}' is no embedding model of Bedrock that is known here")


def _check(name: str, dimensions: int, offered: Sequence[int]) -> None:
    if dimensions not in offered:
        sizes = ", ".join(map(str, offered))
        raise ValueError(f"models.embedding_dimensions: {name} offers {sizes}, not {dimensions}")


def _connect(model: Model, models: ModelsSettings, settings: EmbeddingSettings) -> _Bedrock:
    config = botocore.config.Config(
        connect_timeout=settings.provider_timeout,
        read_timeout=settings.provider_timeout,
        max_pool_connections=settings.provider_concurrency,
        retries={"total_max_attempts": 1},
    )
    # A session of its own: the default one is shared with, and configured by, everything else in the process.
    client = boto3.Session(region_name=models.bedrock_region or None).client(
        "bedrock-runtime",
        endpoint_url=models.bedrock_endpoint_url or None,
        config=config,
    )
    return _Bedrock(model, client, settings.provider_concurrency)
