"""The command `mneme`: one small file a command, and one place where failures become one line with a cure."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, OperatorError

GROUPS = ("agents", "conversations", "blocks", "recall", "archival", "kb", "events", "runs", "users", "ops", "cache")
"""Groups of commands that call the suite. Each is the `group` of a module of its name."""

COMMANDS = ("dev", "chat", *GROUPS, "doctor", "serve", "migrate", "maintain", "reembed", "config")
"""In the order of the help. What is no group is a function of its name in a module of its name. A module is imported
when it is called: a command that only calls the suite must not wait for the libraries of a server."""


class _Commands(TyperGroup):
    """The commands by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"mneme.cli.{cmd_name}")
        if cmd_name in GROUPS:
            return typer.main.get_command(module.group.app)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
        single.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(
    name="mneme",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mneme {version('mneme')}")
        raise typer.Exit


@app.callback(invoke_without_command=False)
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
    except (Error, OperatorError, ValueError, OSError) as failure:
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
    problems = getattr(failure, "errors", None)
    if problems is not None:
        # pydantic's ValidationError, a ValueError that only settings raise.
        return "\n".join(_setting_problem(problem["loc"], problem["msg"]) for problem in problems())
    return str(failure)


def _setting_problem(place: tuple[int | str, ...], message: str) -> str:
    name = "__".join(str(part) for part in place).upper()
    return f"setting MNEME_{name}: {message}"


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
