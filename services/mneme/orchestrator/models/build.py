"""Chooses the provider of each model, and never another one in silence."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import import_module
from typing import cast

from mneme.orchestrator.models.port import ChatModel, ModelRequest, StreamEvent
from mneme.orchestrator.models.table import Provider, model_info, profile
from mneme.settings import ModelsSettings

_MODULES = {
    Provider.OFFLINE: "mneme.orchestrator.models.offline",
    Provider.BEDROCK: "mneme.orchestrator.models.bedrock",
    Provider.OPENAI: "mneme.orchestrator.models.openai_compatible",
}
"""Each has `build(settings) -> ChatModel`. A provider's SDK is loaded only where the provider is used."""


def build_model(settings: ModelsSettings) -> ChatModel:
    """A model that passes each request to the provider of the model it names.

    The providers of the configured models are built at once, so that a missing package or a wrong setting shows at
    the start; others with the first request that needs them.
    """
    router = ModelRouter(settings)
    for name in (settings.chat, settings.small):
        router.prepare(profile(name).model)
    return router


class ModelRouter:
    """A `ChatModel` over all providers."""

    def __init__(self, settings: ModelsSettings) -> None:
        self._settings = settings
        self._models: dict[Provider, ChatModel] = {}
        self._building = asyncio.Lock()

    def provider_of(self, model: str) -> Provider:
        """Who serves a model: the table's word, else the settings'."""
        known = model_info(model).provider
        if known:
            return known
        if self._settings.chat_provider:
            return Provider(self._settings.chat_provider)
        return Provider.OPENAI if self._settings.openai_base_url else Provider.BEDROCK

    def prepare(self, model: str) -> ChatModel:
        """The provider's adapter for a model, built if need be, which may take half a second."""
        provider = self.provider_of(model)
        if provider not in self._models:
            self._models[provider] = cast("ChatModel", import_module(_MODULES[provider]).build(self._settings))
        return self._models[provider]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer; see the port."""
        model = self._models.get(self.provider_of(request.model))
        if model is None:
            async with self._building:
                model = await asyncio.to_thread(self.prepare, request.model)
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Closes every provider built so far."""
        for model in self._models.values():
            await model.close()
