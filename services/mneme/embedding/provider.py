"""The port that every embedding model stands behind: texts in, one outcome a text out.

Failures are `mneme.runtime.errors.Error` with one of the reasons PROVIDER_THROTTLED (with `retry_after` where the
provider told), PROVIDER_UNAVAILABLE or PROVIDER_REFUSED; anything else is a defect of the adapter. Which provider is
used is a setting; its module is loaded only then, so a deployment does not pay for the libraries of the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, cast

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

if TYPE_CHECKING:
    from mneme.embedding.vectors import Vector
    from mneme.settings import EmbeddingSettings, ModelsSettings

_MODULES = {
    "wordllama": "mneme.embedding.local",
    "bedrock": "mneme.embedding.bedrock",
    "openai": "mneme.embedding.openai_compatible",
    "onnx": "mneme.embedding.onnx",
}


class InputType(StrEnum):
    """What a text is embedded for."""

    DOCUMENT = "document"
    """A text to be stored and found."""
    QUERY = "query"
    """A question that shall find documents."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model before it is asked."""

    provider: str
    """Provider's name in the settings."""
    name: str
    """Model's name at the provider."""
    dimensions: int
    """Components of each vector."""
    max_tokens: int
    """Most tokens of one text."""
    batch_size: int
    """Most texts of one call; at least 1."""
    asymmetric: bool = False
    """True when a question and a document of the same words get different vectors."""
    local: bool = False
    """True for a model in this process: it costs nothing, and asks for one call at a time."""
    dollars_per_million: float = 0.0
    """Price of a million tokens in US dollars; 0 where it is not known, or nothing is paid."""

    @property
    def space_id(self) -> str:
        """Id of the space its vectors live in."""
        return f"{self.name}@{self.dimensions}"


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text that became a vector."""

    vector: Vector
    """float32[dimensions], of Euclidean length 1."""
    token_count: int = 0
    """Tokens that the provider billed."""
    truncated: bool = False
    """True when only the beginning of the text was embedded."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A text that is longer than the model takes, and was not to be cut."""

    limit: int
    """Most that the model takes, in `unit`."""
    unit: str = "tokens"
    """`tokens` or `characters`."""
    size: int | None = None
    """Its size in `unit`; None where the provider does not tell."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """A text that the model takes no offence at for its length, yet refuses, such as one without any word."""

    why: str
    """What the provider said; never quotes the text."""


Result = Embedded | TooLong | Unfit
"""Outcome of one text."""


class Provider(Protocol):
    """A model that embeds. Safe to use by many tasks at once; how many calls run, and when one is repeated, is not its
    concern."""

    @property
    def model(self) -> Model:
        """The model behind it."""

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order.

        Args:
            texts: Not empty, at most `model.batch_size`, none of them empty.
            input_type: What they are embedded for.
            truncate: Cuts a text that is too long instead of refusing it.

        Raises:
            Error: The provider throttles, does not answer, or refuses the call for good.
        """

    async def close(self) -> None:
        """Ends running calls and frees what it holds."""


class _Module(Protocol):
    def build(self, models: ModelsSettings, settings: EmbeddingSettings, /) -> Provider: ...


def build(models: ModelsSettings, settings: EmbeddingSettings) -> Provider:
    """Returns the provider that the settings name.

    Raises:
        ValueError: The settings contradict what is known of the model; the text names the setting.
    """
    try:
        module = cast("_Module", importlib.import_module(_MODULES[models.embedding_provider]))
    except ModuleNotFoundError as missing:
        problem = f"'{models.embedding_provider}' needs the Python package {missing.name}, an extra of mneme"
        raise ValueError(f"models.embedding_provider: {problem}") from missing
    return module.build(models, settings)


def next_space(models: ModelsSettings) -> ModelsSettings | None:
    """Returns the settings with the next space in place of the active one; None where they name none."""
    if not models.next_embedding_provider:
        return None
    names = ("provider", "model", "dimensions", "base_url", "api_key")
    return models.model_copy(update={f"embedding_{name}": getattr(models, f"next_embedding_{name}") for name in names})


def throttled(model: Model, seconds: float | None = None) -> Error:
    """Returns the error for a provider that asks to slow down, with when to try again where that is known."""
    return Error(
        errors_pb2.REASON_PROVIDER_THROTTLED,
        f"{model.provider} throttles model {model.name}",
        metadata=_names(model),
        retry_after=None if seconds is None else timedelta(seconds=seconds),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds of a Retry-After header; None without one, or with a date, which providers do not send."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def unavailable(model: Model) -> Error:
    """Returns the error for a provider that does not answer, or answers with a failure of its own."""
    message = f"{model.provider} does not answer for model {model.name}"
    return Error(errors_pb2.REASON_PROVIDER_UNAVAILABLE, message, metadata=_names(model))


def refused(model: Model, why: str) -> Error:
    """Returns the error for a call that will never succeed; `why` never quotes the text."""
    message = f"{model.provider}: model {model.name}: {why}"
    return Error(errors_pb2.REASON_PROVIDER_REFUSED, message, metadata=_names(model))


def _names(model: Model) -> dict[str, str]:
    return {"provider": model.provider, "model": model.name}
