"""`mneme dev`: the whole suite on this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from mneme import dev as suite
from mneme import registry
from mneme.cli.connect import RunningSuite
from mneme.cli.options import Config
from mneme.runtime.server import PortTakenError, Server
from mneme.settings import Settings

console = Console(highlight=False)


def dev(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder that keeps everything. Default: ~/.local/share/mneme; root: /var/lib/mneme."
        ),
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Keep nothing: use a temporary folder.")] = False,
    port: Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="gRPC port; 0: any free.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every call, as the settings say.")] = False,
    config: Config = None,
) -> None:
    """Run all six services with an embedded PostgreSQL and Redis: no Docker, no network.

    Models are the offline ones unless the settings name real ones. Ctrl-C stops everything.

    Examples: `mneme dev` · `mneme dev --ephemeral --port 0` · `mneme dev --data ./state --config mneme.toml`
    """
    overrides: dict[str, Any] = {} if port is None else {"server": {"port": port}}
    if not verbose:
        overrides["telemetry"] = {"log_level": "warning"}
    uvloop.run(_run(data, ephemeral, config, overrides))


async def _run(data: Path | None, ephemeral: bool, config: Path | None, overrides: dict[str, Any]) -> None:
    console.print("starting PostgreSQL and Redis …", style="dim")
    async with suite.prepared(data, ephemeral=ephemeral, config=config, overrides=overrides) as settings:
        notes: list[Path] = []

        def listening(server: Server) -> None:
            notes.append(_note(settings, server).write(_folder(settings)))
            _welcome(settings, server)

        try:
            await registry.serve(settings, listening=listening)
        except PortTakenError as taken:
            wanted = settings.server.port
            if f":{wanted}" not in str(taken):
                raise
            raise PortTakenError(
                f"port {wanted} is taken: stop what listens there, or run `mneme dev --port {_free_port(wanted)}`"
            ) from taken
        finally:
            for note in notes:
                note.unlink(missing_ok=True)
    console.print("stopped", style="dim")


def _note(settings: Settings, server: Server) -> RunningSuite:
    return RunningSuite(
        address=server.address,
        process_id=os.getpid(),
        database_url=settings.database.url.get_secret_value(),
        owner_url=settings.database.owner_url.get_secret_value(),
        redis_url=settings.redis.url.get_secret_value(),
    )


def _folder(settings: Settings) -> Path:
    assert settings.data_dir is not None, "prepared() always sets it"
    return settings.data_dir


def _welcome(settings: Settings, server: Server) -> None:
    folder = _folder(settings)
    table = Table.grid(padding=(0, 2))
    table.add_row("address", f"[bold]{server.address}[/]", style="green")
    table.add_row("data", str(folder))
    table.add_row("credential", str(folder / "token"))
    table.add_row("chat model", settings.models.chat)
    table.add_row("embeddings", f"{settings.models.embedding_model}@{settings.models.embedding_dimensions}")
    console.print("\n[bold]Mneme is running[/]")
    console.print(table)
    console.print('\nIn another terminal: [bold]make chat[/], or [bold].venv/bin/mneme chat "My name is …"[/]')
    console.print("Ctrl-C stops it.\n")


def _free_port(wanted: int) -> int:
    """The next port that can be bound, for a proposal that works."""
    for port in range(wanted + 1, min(wanted + 100, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return 0
