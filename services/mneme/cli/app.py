"""The command `mneme`: one small file a command, and one place where failures become one line with a cure."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from mneme.cli import chat, config, dev, doctor, migrate, serve
from mneme.embedded.errors import EmbeddedError
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error
from mneme.runtime.migrations import MigrationError
from mneme.runtime.server import PortTakenError

app = typer.Typer(
    name="mneme",
    help="Memory for LLM agents that outlives the context window.\n\n"
    "Start with `mneme dev` in one terminal and `mneme chat` in another; neither needs a network.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(dev.dev)
app.command()(chat.chat)
app.command()(doctor.doctor)
app.command()(serve.serve)
app.command()(migrate.migrate)
app.command()(config.config)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mneme {version('mneme')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Memory for LLM agents that outlives the context window.

    Start with `mneme dev` in one terminal and `mneme chat` in another; neither needs a network.
    """


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Error, EmbeddedError, MigrationError, PortTakenError, ValidationError, ValueError, OSError) as failure:
        Console(stderr=True, highlight=False).print(
            f"[bold red]error:[/] {_escaped(_explained(failure))}", soft_wrap=True
        )
        sys.exit(1)


def _explained(failure: Exception) -> str:
    """One or two lines: what is wrong, and what to do."""
    if isinstance(failure, Error):
        cure = (
            errors_pb2.Reason.DESCRIPTOR.values_by_number[failure.reason].GetOptions().Extensions[errors_pb2.info].cure
        )
        return f"{failure.message} ({failure.reason_name})\n{cure}"
    if isinstance(failure, ValidationError):
        return "\n".join(_setting_problem(problem["loc"], problem["msg"]) for problem in failure.errors())
    return str(failure)


def _setting_problem(place: tuple[int | str, ...], message: str) -> str:
    name = "__".join(str(part) for part in place).upper()
    return f"setting MNEME_{name}: {message}"


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
