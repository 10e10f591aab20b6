"""What is known of each model: one row a model, and a stated default for the others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from mneme.orchestrator.models.port import ModelRequest, Usage


class Sampling(StrEnum):
    """Which sampling parameters a model accepts."""

    BOTH = "both"
    ONE = "one"
    """temperature or top_p, not both: temperature wins."""
    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    NONE = "none"


class Provider(StrEnum):
    """Who serves a model."""

    OFFLINE = "offline"
    BEDROCK = "bedrock"
    OPENAI = "openai"
    """Any endpoint that speaks the protocol."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model's limits, abilities and price. Prices are US dollars per million tokens."""

    name: str
    window_tokens: int
    """Prompt and answer together."""
    max_output_tokens: int
    provider: Provider | None = None
    """Who serves it; None leaves it to the settings."""
    sampling: Sampling = Sampling.TEMPERATURE
    tools: bool = True
    streaming: bool = True
    """False for a model that streams nothing, or no tool calls."""
    reasoning: bool = False
    cache_points: bool = False
    input_price: float = 0.0
    output_price: float = 0.0
    cache_read_price: float = 0.0
    cache_write_price: float = 0.0
    lifecycle: str = ""
    """What an operator should know about the model's availability."""

    def cost(self, usage: Usage) -> float:
        """US dollars of one request."""
        return (
            usage.input_tokens * self.input_price
            + usage.output_tokens * self.output_price
            + usage.cache_read_tokens * self.cache_read_price
            + usage.cache_write_tokens * self.cache_write_price
        ) / 1_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A published configuration: a model and how it is asked."""

    model: str
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None


SEED_MODEL = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
DEFAULT_MODEL = "us.anthropic.claude-sonnet-4-6"
SMALL_MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
OFFLINE_MODEL = "offline"

UNKNOWN = ModelInfo(name="", window_tokens=32_768, max_output_tokens=4_096)
"""Stands for a model without a row: a window that every model in use offers, temperature only, no price.
`models.window_tokens` of the settings overrides the window."""

_ROWS = (
    ModelInfo(
        SEED_MODEL,
        window_tokens=200_000,
        max_output_tokens=64_000,
        provider=Provider.BEDROCK,
        sampling=Sampling.BOTH,
        reasoning=True,
        cache_points=True,
        input_price=3.0,
        output_price=15.0,
        cache_read_price=0.3,
        cache_write_price=3.75,
        lifecycle="end of life on Bedrock in spring 2026; requests are refused. Set the model to " + DEFAULT_MODEL,
    ),
    ModelInfo(
        DEFAULT_MODEL,
        window_tokens=200_000,
        max_output_tokens=64_000,
        provider=Provider.BEDROCK,
        sampling=Sampling.ONE,
        reasoning=True,
        cache_points=True,
        input_price=3.0,
        output_price=15.0,
        cache_read_price=0.3,
        cache_write_price=3.75,
    ),
    ModelInfo(
        SMALL_MODEL,
        window_tokens=200_000,
        max_output_tokens=64_000,
        provider=Provider.BEDROCK,
        sampling=Sampling.ONE,
        reasoning=True,
        cache_points=True,
        input_price=1.0,
        output_price=5.0,
        cache_read_price=0.1,
        cache_write_price=1.25,
    ),
    ModelInfo(
        "deepseek-chat",
        window_tokens=128_000,
        max_output_tokens=8_192,
        provider=Provider.OPENAI,
        sampling=Sampling.BOTH,
        input_price=0.28,
        output_price=0.42,
        cache_read_price=0.028,
        lifecycle="the provider moves this name to newer models without notice",
    ),
    ModelInfo(
        OFFLINE_MODEL,
        window_tokens=8_192,
        max_output_tokens=2_048,
        provider=Provider.OFFLINE,
        sampling=Sampling.NONE,
        lifecycle="rules, not a language model; for trials and tests without a network",
    ),
)

TABLE: Mapping[str, ModelInfo] = MappingProxyType({row.name: row for row in _ROWS})

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "default": Profile(DEFAULT_MODEL, max_tokens=4_096, temperature=0.1),
        "seed": Profile(SEED_MODEL, max_tokens=4_000, temperature=0.1, top_p=0.9),
        "offline": Profile(OFFLINE_MODEL, max_tokens=2_048),
    }
)


def profile(name: str) -> Profile:
    """The published configuration of that name, or a plain one for the model of that name."""
    if name in PROFILES:
        return PROFILES[name]
    return Profile(name, max_tokens=min(4_096, model_info(name).max_output_tokens), temperature=0.1)


def model_info(name: str, *, window_tokens: int = 0) -> ModelInfo:
    """The model's row, or the documented default under its name.

    Args:
        name: The model's id at its provider.
        window_tokens: Overrides the window where positive.
    """
    row = TABLE.get(name) or replace(UNKNOWN, name=name)
    return replace(row, window_tokens=window_tokens) if window_tokens > 0 else row


def accepted_sampling(request: ModelRequest, info: ModelInfo) -> dict[str, float]:
    """The request's sampling parameters that the model accepts: `temperature`, `top_p`, both or neither."""
    asked = {"temperature": request.temperature, "top_p": request.top_p}
    given = {name: value for name, value in asked.items() if value is not None}
    match info.sampling:
        case Sampling.BOTH:
            return given
        case Sampling.ONE:
            return dict(list(given.items())[:1])
        case Sampling.NONE:
            return {}
    return {name: value for name, value in given.items() if name == info.sampling.value}
