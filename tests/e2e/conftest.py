"""Every test here runs twice: against the suite in one process, and against six processes of one service each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mneme.client import Client
from mneme.embedded import Embedded
from mneme.runtime.dev_credentials import ensure_dev_credentials
from mneme.runtime.migrations import APP_ROLE
from tests.support.deployment import ONE_PROCESS, SIX_PROCESSES, Deployment, deployed, environment

GROUPS = {"one-process": ONE_PROCESS, "six-processes": SIX_PROCESSES}


@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in GROUPS])
def deployment(
    request: pytest.FixtureRequest,
    stores: Embedded,
    new_database: Callable[[str | None], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The suite's processes, on a database of their own; tests keep apart by tenant."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    ensure_dev_credentials(folder)
    database_url = new_database("mneme").replace("://mneme@", f"://{APP_ROLE}@")
    number = 62 if request.param == "one-process" else 63
    redis_url = stores.redis_url.replace("?db=0", f"?db={number}")
    with deployed(GROUPS[request.param], environment(database_url, redis_url, folder), folder) as running:
        yield running


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(deployment: Deployment, tenant: str) -> AsyncIterator[Client]:
    """A client of the test's own tenant."""
    async with deployment.client(tenant) as client:
        yield client
