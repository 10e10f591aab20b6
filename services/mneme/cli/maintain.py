"""`mneme maintain`: gives large scopes their own index."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from mneme import maintenance, settings
from mneme.cli.options import Config
from mneme.runtime import telemetry


def maintain(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until stopped, as MNEME_MAINTENANCE__INTERVAL says.")
    ] = False,
    config: Config = None,
) -> None:
    """Build, refresh and drop the vector indexes of large agents and knowledge bases.

    Safe to repeat, and safe when several run at once. Needs MNEME_DATABASE__OWNER_URL: the role that owns the schemas.
    `mneme dev` does this by itself. Without it every search stays right, and grows slower with the scope.
    """
    wanted = settings.load(config)
    telemetry.setup_logs(wanted.telemetry)
    if watch:
        uvloop.run(maintenance.watch(wanted))
        return
    done = uvloop.run(maintenance.once(wanted))
    typer.echo(
        f"promoted {done.promoted} scopes, folded {done.folded} rows, retired {done.retired} and dropped "
        f"{done.dropped} indexes, postponed {done.postponed}"
    )
    if done.elsewhere:
        typer.echo("another job is at work: its schemas were left to it")
