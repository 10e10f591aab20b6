"""What is known of each model, and which provider serves it."""

from __future__ import annotations

import pytest

from mneme.orchestrator.models.build import ModelRouter
from mneme.orchestrator.models.port import ModelRequest, Usage
from mneme.orchestrator.models.table import (
    DEFAULT_MODEL,
    OFFLINE_MODEL,
    PROFILES,
    SEED_MODEL,
    SMALL_MODEL,
    TABLE,
    UNKNOWN,
    Provider,
    accepted_sampling,
    model_info,
    profile,
)
from mneme.orchestrator.models.tokens import count_tokens
from mneme.settings import ModelsSettings


def request(model: str) -> ModelRequest:
    return ModelRequest(model, (), (), temperature=0.1, top_p=0.9)


def test_the_seed_profile_is_the_published_configuration() -> None:
    seed = PROFILES["seed"]
    assert (seed.model, seed.temperature, seed.max_tokens, seed.top_p) == (SEED_MODEL, 0.1, 4_000, 0.9)
    assert model_info(SEED_MODEL).lifecycle


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (SEED_MODEL, {"temperature": 0.1, "top_p": 0.9}),
        (DEFAULT_MODEL, {"temperature": 0.1}),
        (SMALL_MODEL, {"temperature": 0.1}),
        ("deepseek-chat", {"temperature": 0.1, "top_p": 0.9}),
        (OFFLINE_MODEL, {}),
        ("never-heard-of", {"temperature": 0.1}),
    ],
)
def test_refused_sampling_parameters_are_left_out(model: str, sent: dict[str, float]) -> None:
    assert accepted_sampling(request(model), model_info(model)) == sent


def test_where_one_parameter_is_accepted_the_given_one_is_sent() -> None:
    only_top_p = ModelRequest(DEFAULT_MODEL, (), (), top_p=0.9)
    assert accepted_sampling(only_top_p, model_info(DEFAULT_MODEL)) == {"top_p": 0.9}


def test_an_unknown_model_has_the_documented_default_under_its_name() -> None:
    info = model_info("never-heard-of")
    assert (info.name, info.window_tokens) == ("never-heard-of", UNKNOWN.window_tokens)
    assert model_info("never-heard-of", window_tokens=99).window_tokens == 99
    assert model_info(DEFAULT_MODEL, window_tokens=99).window_tokens == 99


@pytest.mark.parametrize("info", TABLE.values(), ids=lambda info: info.name)
def test_rows_make_sense(info: object) -> None:
    assert isinstance(info, type(UNKNOWN))
    assert 0 < info.max_output_tokens < info.window_tokens
    assert info.provider is not None


def test_a_profile_or_a_plain_model_name() -> None:
    assert profile("default").model == DEFAULT_MODEL
    assert profile(SMALL_MODEL).model == SMALL_MODEL
    assert profile("offline").max_tokens <= model_info(OFFLINE_MODEL).max_output_tokens


def test_cost_counts_each_kind_of_token_at_its_price() -> None:
    million = 1_000_000
    usage = Usage(million, million, million, million)
    assert model_info(DEFAULT_MODEL).cost(usage) == pytest.approx(3.0 + 15.0 + 0.3 + 3.75)
    assert model_info(OFFLINE_MODEL).cost(usage) == 0


@pytest.mark.parametrize(
    ("settings", "model", "provider"),
    [
        (ModelsSettings(), OFFLINE_MODEL, Provider.OFFLINE),
        (ModelsSettings(), DEFAULT_MODEL, Provider.BEDROCK),
        (ModelsSettings(), "deepseek-chat", Provider.OPENAI),
        (ModelsSettings(), "never-heard-of", Provider.BEDROCK),
        (ModelsSettings(openai_base_url="http://localhost:1/v1"), "never-heard-of", Provider.OPENAI),
        (
            ModelsSettings(openai_base_url="http://localhost:1/v1", chat_provider="bedrock"),
            "never-heard-of",
            Provider.BEDROCK,
        ),
    ],
)
def test_the_model_decides_the_provider(settings: ModelsSettings, model: str, provider: Provider) -> None:
    assert ModelRouter(settings).provider_of(model) is provider


def test_token_counts() -> None:
    assert count_tokens("") == 0
    assert count_tokens("The quick brown fox jumps over the lazy dog.") in range(9, 14)
    assert count_tokens("我住在一座靠海的小城市，每天早上去散步。") in range(12, 32)
    long = "memory " * 5_000
    assert count_tokens(long) == pytest.approx(5_000, rel=0.1)
