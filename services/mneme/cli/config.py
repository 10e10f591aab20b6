"""`mneme config`: the effective settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mneme import settings
from mneme.cli.options import Config


def config(
    section: Annotated[str, typer.Argument(help="Only this section, `server`.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    file: Config = None,
) -> None:
    """Show the settings in force, with secrets masked, each under the variable that sets it.

    Examples: `mneme config` · `mneme config models --json` · `MNEME_SERVER__PORT=7700 mneme config server`
    """
    tree = settings.masked(settings.load(file))
    if section:
        if section not in tree:
            raise ValueError(f"unknown section {section}; the sections are {', '.join(sorted(tree))}")
        tree = {section: tree[section]}
    if as_json:
        typer.echo(json.dumps(tree, indent=2, ensure_ascii=False))
        return
    for name, value in _flat(tree, "MNEME"):
        typer.echo(f"{name}={value}")


def _flat(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}_{key.upper()}" if prefix == "MNEME" else f"{prefix}__{key.upper()}"
        if isinstance(value, Mapping):
            rows += _flat(value, name)
        else:
            rows.append((name, "" if value is None else str(value)))
    return rows
