"""A real PostgreSQL and Redis for each test process, and a fresh database and Redis number for each test."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from pydantic import SecretStr

from mneme.embedded import Embedded
from mneme.runtime import migrations
from mneme.runtime.db import Database
from mneme.runtime.redis import Cache
from mneme.settings import DatabaseSettings, RedisSettings

_TEMPLATE = "mneme"
_REDIS_NUMBERS = 63

_counter = itertools.count(1)


def in_database(url: str, name: str) -> str:
    """The same connection URL with another database."""
    return url.replace(f"/{_TEMPLATE}?", f"/{name}?")


@pytest.fixture(scope="session")
def stores() -> Iterator[Embedded]:
    """Running stores whose database `mneme` is migrated; tests clone it and never connect to it."""
    with asyncio.Runner() as runner:
        embedded = Embedded.start(ephemeral=True)
        running = runner.run(embedded.__aenter__())
        try:
            migrations.migrate(running.owner_url)
            yield running
        finally:
            runner.run(embedded.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def new_database(stores: Embedded) -> Iterator[Callable[[str | None], str]]:
    """Makes a database, as a clone of a template or empty (None), and returns the owner's URL."""
    # Copying files is the faster way in memory (15 ms to 40), and the slower one on some disks (400 ms to 50).
    strategy = "file_copy" if stores.data_dir.is_relative_to("/dev/shm") else "wal_log"
    made: list[str] = []
    with psycopg.connect(in_database(stores.owner_url, "postgres"), autocommit=True) as admin:

        def make(template: str | None = _TEMPLATE) -> str:
            name = f"test_{next(_counter)}"
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template1'} STRATEGY {strategy}")
            made.append(name)
            return in_database(stores.owner_url, name)

        yield make
        for name in made:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def owner_url(stores: Embedded, new_database: Callable[[str | None], str]) -> Iterator[str]:
    """The role that owns the schemas, in a fresh migrated database."""
    url = new_database(_TEMPLATE)
    yield url
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(in_database(stores.owner_url, "postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database_url(owner_url: str) -> str:
    """The application role, in a fresh migrated database."""
    return owner_url.replace("://mneme@", f"://{migrations.APP_ROLE}@")


@pytest.fixture
def redis_url(stores: Embedded) -> str:
    """An empty numbered database of Redis."""
    url = stores.redis_url.replace("?db=0", f"?db={next(_counter) % _REDIS_NUMBERS + 1}")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def data_path() -> Iterator[Path]:
    """A short path for a data folder, which the database's own user can reach under root; pytest's own is private."""
    with tempfile.TemporaryDirectory(prefix="mneme test ") as base:
        Path(base).chmod(0o711)
        yield Path(base) / "data"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open pool of the application role on a fresh migrated database."""
    settings = DatabaseSettings(url=SecretStr(database_url), pool_min=0, pool_max=4, pool_timeout=5.0)
    database = await Database.open(settings, name="test")
    yield database
    await database.close()


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    """A cache on an empty numbered database of Redis, patient enough for a busy machine."""
    cache = Cache(RedisSettings(url=SecretStr(redis_url), command_timeout=5.0, connect_timeout=5.0))
    yield cache
    await cache.close()
