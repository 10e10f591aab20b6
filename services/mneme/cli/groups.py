"""Groups of commands that call the suite: each command is an async function that gets an open client first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_type_hints

import typer
import uvloop

from mneme.cli import connect

Command = Callable[..., Awaitable[None]]

_TARGET: tuple[tuple[str, Any, Any], ...] = (
    ("address", connect.Address, ""),
    ("token_file", connect.TokenFile, None),
    ("data", connect.DataDir, None),
)
"""Options that every command has, after its own."""


class Group:
    """A group of commands, `mneme <name> …`."""

    def __init__(self, name: str, text: str) -> None:
        """Args:
        name: Of the group.
        text: Its help; the first line is shown in the list of groups.
        """
        self.app = typer.Typer(
            name=name,
            help=text,
            no_args_is_help=True,
            rich_markup_mode="markdown",
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def command(self, name: str) -> Callable[[Command], Command]:
        """Registers `async def function(client, …)` under a name; its other parameters are the command's."""

        def register(function: Command) -> Command:
            self.app.command(name)(_runs(function))
            return function

        return register


def _runs(function: Command) -> Callable[..., None]:
    """The blocking form of a command, which opens the client that its options name."""

    @functools.wraps(function)
    def run(*, address: str, token_file: Path | None, data: Path | None, **arguments: Any) -> None:
        async def call() -> None:
            async with connect.client(address, token_file, data) as client:
                await function(client, **arguments)

        uvloop.run(call())

    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]
    ]
    target = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in _TARGET
    ]
    run.__signature__ = inspect.Signature([*own, *target])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *target)}
    del run.__wrapped__
    return run
