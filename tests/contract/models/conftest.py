"""The providers under test: the real adapters and SDKs, against servers that speak the real protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from mneme.orchestrator.models import bedrock, offline, openai_compatible
from mneme.orchestrator.models.port import ChatModel
from mneme.orchestrator.models.table import DEFAULT_MODEL, OFFLINE_MODEL
from mneme.settings import ModelsSettings
from tests.support.bedrock_server import BedrockServer
from tests.support.openai_server import OpenAIServer
from tests.support.replies import Reply, Script

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

REMOTE = ("bedrock", "openai")


@dataclass
class Provider:
    """An adapter, the model to ask it for, and the script of the server behind it."""

    name: str
    model: str
    chat: ChatModel
    script: Script

    def answers(self, *replies: Reply) -> None:
        """Sets what the server says next. The offline model has no server and says what it will."""
        self.script.replies.extend(replies)


@pytest.fixture(scope="session")
def bedrock_server() -> Iterator[BedrockServer]:
    with BedrockServer() as server:
        assert isinstance(server, BedrockServer)
        yield server


@pytest.fixture(scope="session")
def openai_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        assert isinstance(server, OpenAIServer)
        yield server


@pytest.fixture(scope="session")
def offline_model() -> offline.OfflineModel:
    return offline.OfflineModel()


@pytest.fixture(scope="session")
def bedrock_client(bedrock_server: BedrockServer) -> BedrockRuntimeClient:
    """The adapter's client, built once: the SDK takes half a second for it."""
    settings = ModelsSettings(
        bedrock_region="us-east-1", bedrock_endpoint_url=bedrock_server.url, max_streams=8, request_timeout=30.0
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        return bedrock.build(settings)._client


@pytest.fixture
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    """The provider that the test's parameter names."""
    name = request.param
    if name == "offline":
        yield Provider(name, OFFLINE_MODEL, request.getfixturevalue("offline_model"), Script())
        return
    server = request.getfixturevalue(f"{name}_server")
    server.script = Script()
    if name == "bedrock":
        client = request.getfixturevalue("bedrock_client")
        provider = Provider(name, DEFAULT_MODEL, bedrock.BedrockModel(client, max_streams=8), server.script)
    else:
        settings = ModelsSettings(openai_base_url=f"{server.url}/v1", openai_api_key=SecretStr("test"))
        provider = Provider(name, "deepseek-chat", openai_compatible.build(settings), server.script)
    yield provider
    await provider.chat.close()
