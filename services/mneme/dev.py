"""The whole suite on one laptop: embedded stores, development credentials, migrated schemas, six services, one port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mneme import maintenance, registry, settings
from mneme.embedded import Embedded
from mneme.runtime import migrations, telemetry
from mneme.runtime.dev_credentials import ensure_dev_credentials
from mneme.runtime.server import Server


@asynccontextmanager
async def prepared(
    data_dir: Path | None = None,
    *,
    ephemeral: bool = False,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> AsyncIterator[settings.Settings]:
    """Settings of a suite whose stores run, inside the block, hold all schemas, and are maintained.

    A store whose URL is set is used as it is, and the embedded one beside it stays empty.

    Args:
        data_dir: Folder of stores and credentials; None for the default one.
        ephemeral: Uses a temporary folder that is removed at the end.
        config: TOML file with settings.
        overrides: Values above all other sources, nested by section.

    Raises:
        EmbeddedError: The folder is taken or unusable, or a store does not start.
        MigrationError: A schema cannot be brought to its newest revision.
    """
    wanted = settings.load(config, dict(overrides or {}))
    telemetry.setup_logs(wanted.telemetry)
    async with Embedded.start(data_dir or wanted.data_dir, ephemeral=ephemeral) as stores:
        credentials = ensure_dev_credentials(stores.data_dir)
        found = {
            "database": {"url": stores.database_url, "owner_url": stores.owner_url},
            "redis": {"url": stores.redis_url},
            "auth": {"jwks": str(credentials.jwks_path), "suite_keys_file": str(credentials.suite_keys_path)},
        }
        named = {"database": wanted.database.url, "redis": wanted.redis.url, "auth": wanted.auth.jwks}
        missing = {section: values for section, values in found.items() if not _is_set(named[section])}
        effective = settings.load(config, _merged({**missing, "data_dir": stores.data_dir}, overrides or {}))
        owner_url = effective.database.owner_url.get_secret_value()
        if owner_url:
            await asyncio.to_thread(migrations.migrate, owner_url)
        async with _watching(stores), maintenance.running(effective):
            yield effective


@asynccontextmanager
async def suite(
    data_dir: Path | None = None, *, ephemeral: bool = False, overrides: Mapping[str, Any] | None = None
) -> AsyncIterator[Server]:
    """All six services, serving inside the block; for tests, examples and notebooks.

    Raises:
        EmbeddedError: The folder is taken or unusable, or a store does not start.
        PortTakenError: The port cannot be bound.
    """
    async with (
        prepared(data_dir, ephemeral=ephemeral, overrides=overrides) as effective,
        registry.running(effective) as server,
    ):
        yield server


@asynccontextmanager
async def _watching(stores: Embedded) -> AsyncIterator[None]:
    """Ends the block with an EmbeddedError when a store ends by itself; the block's own errors pass as they are."""
    block = asyncio.current_task()
    assert block is not None, "this runs in a task"
    watching = asyncio.create_task(stores.watch(), name="watch-stores")
    watching.add_done_callback(lambda done: None if done.cancelled() else block.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if watching.done() and not watching.cancelled():
            block.uncancel()
            await watching
        raise
    finally:
        watching.cancel()


def _is_set(value: Any) -> bool:
    return bool(value.get_secret_value() if hasattr(value, "get_secret_value") else value)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a value, `above` wins."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result
