"""Whether the configured models can be used: known, within their lifecycle, accessible. For `mneme doctor`."""

import asyncio
from dataclasses import dataclass

from mneme.orchestrator.models import bedrock
from mneme.orchestrator.models.build import ModelRouter
from mneme.orchestrator.models.table import DEFAULT_MODEL, Provider, model_info, profile
from mneme.runtime.errors import Error
from mneme.settings import ModelsSettings, without_credentials


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one configured model."""

    model: str
    usable: bool
    detail: str
    cure: str = ""


async def examine(settings: ModelsSettings) -> list[Report]:
    """A report for each model that the settings name, in the order chat, small, embedding."""
    router = ModelRouter(settings)
    names = list(dict.fromkeys(profile(name).model for name in (settings.chat, settings.small)))
    reports = [await _examine(settings, name, router.provider_of(name)) for name in names]
    embedding = settings.embedding_model
    if settings.embedding_provider == "wordllama":
        return [*reports, Report(embedding, usable=True, detail="inside the package, for embeddings")]
    provider = Provider.BEDROCK if settings.embedding_provider == "bedrock" else Provider.OPENAI
    return [*reports, await _examine(settings, embedding, provider)]


async def _examine(settings: ModelsSettings, model: str, provider: Provider) -> Report:
    if provider is Provider.OFFLINE:
        return Report(model, usable=True, detail="inside the package: rules, no language model")
    if provider is Provider.OPENAI:
        if settings.openai_base_url:
            where = without_credentials(settings.openai_base_url)
            return Report(model, usable=True, detail=f"at {where}, not tried", cure="try it with one message")
        return Report(model, usable=False, detail="no endpoint", cure="set MNEME_MODELS__OPENAI_BASE_URL")
    note = model_info(model).lifecycle
    if note:
        return Report(model, usable=False, detail=note.split(";", 1)[0], cure=f"set MNEME_MODELS__CHAT={DEFAULT_MODEL}")
    return await _ask_bedrock(settings, model)


async def _ask_bedrock(settings: ModelsSettings, model: str) -> Report:
    try:
        lifecycle, access = await asyncio.to_thread(bedrock.inspect, settings, model)
    except Error as error:
        cure = "check region and credentials, and request access to the model in the Bedrock console"
        return Report(model, usable=False, detail=error.message, cure=cure)
    if access != "AUTHORIZED":
        cure = "request access to the model in the Bedrock console"
        return Report(model, usable=False, detail=f"access is {access}", cure=cure)
    if lifecycle != "ACTIVE":
        return Report(
            model, usable=True, detail=f"lifecycle {lifecycle}: its end is announced", cure="plan a successor"
        )
    return Report(model, usable=True, detail="active, access granted")
