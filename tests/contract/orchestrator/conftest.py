"""A suite whose agents are run by a scripted model."""

from __future__ import annotations

import pytest

from mneme.orchestrator import service
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, open_talk
from tests.support.suite import Serve, Suite


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """The model of every agent."""
    scripted = ScriptedModel()
    monkeypatch.setattr(service, "build_model", lambda _: scripted)
    return scripted


@pytest.fixture
async def scripted_suite(model: ScriptedModel, serve: Serve) -> Suite:
    """All six services."""
    return await serve()


@pytest.fixture
async def talk(scripted_suite: Suite) -> Talk:
    """A conversation with a new agent."""
    return await open_talk(scripted_suite)
