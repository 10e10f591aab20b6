"""`mneme migrate`: brings the schemas to their newest revision."""

from __future__ import annotations

from typing import Annotated

import typer

from mneme import registry, settings
from mneme.cli.options import Config
from mneme.runtime import migrations


def migrate(
    service: Annotated[
        list[str] | None, typer.Option("--service", "-s", help="Only this service's schema; repeat for several.")
    ] = None,
    config: Config = None,
) -> None:
    """Create or upgrade the database schemas, roles and row-level security.

    Safe to repeat, and safe when two run at once. Needs MNEME_DATABASE__OWNER_URL: a role that may create roles and
    schemas. `mneme dev` does this by itself.
    """
    owner_url = settings.load(config).database.owner_url.get_secret_value()
    if not owner_url:
        raise ValueError("no owner: set MNEME_DATABASE__OWNER_URL to a role that may create roles and schemas")
    names = [row.name for row in registry.select(service or [])]
    for applied in migrations.migrate(owner_url, names):
        state = "up to date" if applied.before == applied.after else f"{applied.before or 'empty'} -> {applied.after}"
        typer.echo(f"{applied.schema}: {state}")
