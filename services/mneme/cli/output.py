"""How commands show what the suite answers: tables and panels for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with the contract's field names.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most rows to show.")]

console = Console(highlight=False)

_LEAST_WIDTH = 20
"""Narrower columns are not folded."""
_NO_WIDTH = 10_000

Columns = Mapping[str, Callable[[Any], object]]
"""Headings, and what stands under each of a message."""


def as_dict(message: Message) -> dict[str, Any]:
    """A message with the contract's field names."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def json_line(message: Message) -> str:
    """A message as one line of JSON."""
    return json.dumps(as_dict(message), ensure_ascii=False)


def show(message: Message, *, as_json: bool) -> None:
    """Prints one message: its set fields, a line each, or JSON."""
    if as_json:
        typer.echo(json.dumps(as_dict(message), indent=2, ensure_ascii=False))
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in as_dict(message).items():
        grid.add_row(name, Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    console.print(grid)


def table(messages: Sequence[Message], columns: Columns, *, as_json: bool, empty: str) -> None:
    """Prints messages as a table, or as a JSON array.

    Args:
        messages: What to show.
        columns: Headings with the cells under them.
        as_json: JSON instead, with all fields.
        empty: What to say of none.
    """
    if as_json:
        typer.echo(json.dumps([as_dict(one) for one in messages], indent=2, ensure_ascii=False))
        return
    if not messages:
        console.print(f"[dim]{empty}[/]")
        return
    rows(columns, ([cell(one) for cell in columns.values()] for one in messages))


def rows(headings: Iterable[str], cells: Iterable[Sequence[object]]) -> None:
    """Prints a table. Ids are never cut; where they leave no room, each row stands below the other, a line a cell."""
    names = list(headings)
    texts = [[str(cell) for cell in row] for row in cells]
    widest = [max(len(name), *(len(row[column]) for row in texts)) for column, name in enumerate(names)]
    least = sum(width if name == "id" else min(width, _LEAST_WIDTH) for name, width in zip(names, widest, strict=True))
    if console.is_terminal and least + 3 * len(names) > console.width:
        for row in texts:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for name, cell in zip(names, row, strict=True):
                grid.add_row(name, Text(cell))
            console.print(grid, end="\n\n")
        return
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name, width in zip(names, widest, strict=True):
        shown.add_column(name, overflow="fold", no_wrap=name == "id" or width <= _LEAST_WIDTH)
    for row in texts:
        shown.add_row(*map(Text, row))
    # A pipe has no width: nothing is folded for it.
    (console if console.is_terminal else Console(width=_NO_WIDTH)).print(shown)


def done(text: str, message: Message | None = None, *, as_json: bool = False) -> None:
    """Prints that something was done, or what it gave as JSON."""
    if as_json:
        typer.echo(json.dumps(as_dict(message) if message is not None else {}, indent=2, ensure_ascii=False))
    else:
        console.print(Text.assemble(("✓ ", "green"), text))


def sure(question: str, *, yes: bool) -> None:
    """Asks before what cannot be taken back.

    Raises:
        typer.Abort: The answer is no, or nobody can be asked.
    """
    if not yes:
        typer.confirm(question, abort=True)


def moment(stamp: Timestamp) -> str:
    """A time in the local zone; empty for none."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def stamp_of(text: str, name: str) -> Timestamp:
    """A time that somebody typed, local unless it says otherwise.

    Raises:
        ValueError: It is none.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}: '{text}' is no time; write 2026-03-01 or 2026-03-01T18:30") from None
    stamp = Timestamp()
    stamp.FromDatetime(parsed.astimezone(UTC))
    return stamp


def name_of(enum: Any, number: int) -> str:
    """A value of an enumeration as people write it: `running` for RUN_STATE_RUNNING."""
    text: str = enum.Name(number)
    prefixes = [value.rsplit("_UNSPECIFIED", 1)[0] for value in list(enum.keys()) if value.endswith("_UNSPECIFIED")]
    return text.removeprefix(f"{prefixes[0]}_").lower() if prefixes else text.lower()


def value_of(enum: Any, text: str, name: str) -> Any:
    """The value of an enumeration that somebody typed.

    Raises:
        ValueError: There is none of that name; the text names those there are.
    """
    known = {name_of(enum, number): number for number in enum.values()}
    if text.lower() not in known:
        choices = ", ".join(sorted(choice for choice in known if choice != "unspecified"))
        raise ValueError(f"{name}: '{text}' is unknown; one of {choices}")
    return known[text.lower()]


def short(text: str, width: int = 120) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
