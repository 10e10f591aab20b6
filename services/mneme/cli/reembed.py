"""`mneme reembed`: changes the deployment to another embedding model while it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from mneme import reembedding, settings
from mneme.cli import connect
from mneme.cli.options import Config
from mneme.embedded.folder import default_data_dir
from mneme.reembedding import NothingToDoError, Progress, Reembedding
from mneme.runtime import telemetry
from mneme.runtime.dev_credentials import ensure_dev_credentials
from mneme.settings import Settings

console = Console(highlight=False)

_SHOWN_EVERY = 2.0


def reembed(
    back: Annotated[bool, typer.Option("--back", help="Return to the earlier space; possible until --finish.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Remove the vectors and indexes of the space that is no longer active.")
    ] = False,
    address: connect.Address = "",
    data: connect.DataDir = None,
    config: Config = None,
) -> None:
    """Embed all passages and messages with the model of models.next_embedding_*, then switch to it.

    The suite goes on serving, and answers from the earlier space until the switch. The command may be killed and
    repeated at any time: it goes on where it was. Afterwards `--back` returns to the earlier space, and `--finish`
    removes what is left of it for good. Needs MNEME_DATABASE__OWNER_URL and the suite's keys, like the services, with
    the settings that they have; beside a running `mneme dev` it finds both.

    Examples: `mneme reembed` · `mneme reembed --back` · `mneme reembed --finish`
    """
    if back and finish:
        raise ValueError("--back and --finish exclude each other")
    wanted, found = _prepared(address, data, config)
    telemetry.setup_logs(wanted.telemetry)
    uvloop.run(_run(wanted, found, back=back, finish=finish))


def _prepared(address: str, data: Path | None, config: Path | None) -> tuple[Settings, str]:
    """Settings as the services have them, and where these are: said, or found beside a running `mneme dev`."""
    wanted = settings.load(config)
    found = connect.find(data)
    if wanted.database.owner_url.get_secret_value():
        address = address or (found.address if found else "")
        if not (address or wanted.peers.embedding or wanted.peers.default_address):
            raise ValueError("no suite: name one with --address, or set MNEME_PEERS__DEFAULT_ADDRESS")
        return wanted, address
    if found is None:
        raise ValueError(
            "no owner: set MNEME_DATABASE__OWNER_URL to the role that owns the schemas, or start `mneme dev`"
        )
    keys = ensure_dev_credentials(data or default_data_dir()).suite_keys_path
    overrides = {"database": {"owner_url": found.owner_url}, "auth": {"suite_keys_file": str(keys)}}
    return settings.load(config, overrides), address or found.address


async def _run(wanted: Settings, address: str, *, back: bool, finish: bool) -> None:
    configured, following = space_ids(wanted)
    if not following and not finish:
        raise NothingToDoError(
            "no next space: set models.next_embedding_provider, _model and _dimensions, for all processes"
        )
    async with reembedding.opened(wanted, address) as work:
        if finish:
            await _finish(work)
        else:
            await change(work, configured if back else following)


async def change(work: Reembedding, target: str) -> None:
    """Embeds everything in a space and makes it the active one.

    Raises:
        NothingToDoError: The deployment does not serve that space.
        Error: The embedding service refuses.
    """
    active = await work.require(target)
    if active == target:
        await work.follow(target)
        _say(f"'{target}' is the active space. --back returns; --finish removes what is left of the other.")
        return
    counted = await work.count(target)
    work.progress.rows, work.progress.done = counted.rows, counted.rows - counted.lacking
    _say(f"from '{active}' to '{target}': {counted.lacking:,} of {counted.rows:,} rows are to be embedded")
    async with _shown(work):
        while await work.fill(target):
            await work.index(target)
        await work.index(target)
    await work.switch(target)
    _say(f"switched to '{target}'. --back returns to '{active}'; --finish removes what is left of it.")
    if work.progress.unembeddable:
        _say(f"{work.progress.unembeddable:,} texts mean nothing to its model and are found by their words")


async def _finish(work: Reembedding) -> None:
    active, _ = await work.spaces()
    console.print(f"keeping '{active}' alone …", style="dim")
    rows = await work.finish(active)
    _say(
        f"done: {rows:,} rows held two vectors. Now name '{active}' in models.embedding_*, empty "
        "models.next_embedding_provider, and restart the processes: until then writes still get both."
    )


@asynccontextmanager
async def _shown(work: Reembedding) -> AsyncIterator[None]:
    """Says every now and then how far the work is."""
    task = asyncio.create_task(_show(work), name="progress")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _show(work: Reembedding) -> None:
    began, first = time.monotonic(), work.progress.done
    while True:
        await asyncio.sleep(_SHOWN_EVERY)
        console.print(progress_line(work.progress, work.progress.done - first, time.monotonic() - began), style="dim")


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)


def progress_line(progress: Progress, embedded: int, seconds: float) -> str:
    """Returns one line: rows done of all, rows a second, time left.

    Args:
        progress: How far the work is.
        embedded: Rows that this command embedded.
        seconds: Time it took for them.
    """
    rows = max(progress.rows, progress.done)
    if progress.waiting:
        return f"{progress.done:,} of {rows:,} rows; waiting: {progress.waiting}"
    if progress.done == rows:
        return f"{progress.done:,} of {rows:,} rows; building indexes"
    rate = embedded / seconds
    left = f", {timedelta(seconds=round((rows - progress.done) / rate))} left" if rate else ""
    return f"{progress.done:,} of {rows:,} rows, {rate:,.0f} a second{left}"


def space_ids(wanted: Settings) -> tuple[str, str]:
    """Returns the ids of the space in models.embedding_* and of the one in models.next_embedding_*, or empty."""
    models = wanted.models
    following = f"{models.next_embedding_model}@{models.next_embedding_dimensions}"
    configured = f"{models.embedding_model}@{models.embedding_dimensions}"
    return configured, following if models.next_embedding_provider else ""
