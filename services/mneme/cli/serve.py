"""`mneme serve`: services on stores that the settings name."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from mneme import registry, settings
from mneme.cli.options import Config


def serve(
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service", "-s", help=f"Service to host; repeat for several. One of {', '.join(registry.NAMES)}."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Serve some or all services, as in production: stores, keys and models come from the settings.

    Without --service all six run in this process. Migrate first: a service is not ready before its schema is.

    Examples: `mneme serve` · `mneme serve --service recall --service archival --config /etc/mneme.toml`
    """
    names = service or []
    registry.select(names)
    effective = settings.load(config)
    if not effective.database.url.get_secret_value():
        raise ValueError("no database: set MNEME_DATABASE__URL, or run `mneme dev`, which brings its own")
    uvloop.run(registry.serve(effective, names))
