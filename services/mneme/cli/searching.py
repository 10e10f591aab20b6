"""What the searches of archival and recall have in common on the command line."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from mneme.archival.v1 import archival_pb2
from mneme.cli import output
from mneme.common.v1 import common_pb2

Mode = Annotated[str, typer.Option("--mode", help="hybrid, semantic (by meaning) or lexical (by words).")]
Hits = Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="Most results.")]


def parts_of(parts: common_pb2.ScoreParts) -> str:
    """The parts of a score that are known, such as `cosine 0.41 · bm25 7.20`."""
    fields = ((field.name, value) for field, value in parts.ListFields() if isinstance(value, float))
    return " · ".join(f"{name} {value:.2f}" for name, value in fields)


def show_passages(found: archival_pb2.SearchPassagesResponse, *, as_json: bool) -> None:
    """Prints the passages that a search found, best first."""
    if as_json:
        output.show(found, as_json=True)
        return
    if found.degraded:
        output.console.print("[yellow]by words only: the embedding service does not answer[/]")
    if not found.results:
        output.console.print("[dim]nothing found[/]")
        return
    for number, one in enumerate(found.results, 1):
        passage = one.passage
        source = passage.document.document_id
        head = Text.assemble(
            (f"{number}. {one.score:.3f}", "bold"),
            (f"  {parts_of(one.parts)}  ", "dim"),
            (f"{source} {passage.passage_id}".strip(), "cyan"),
        )
        output.console.print(head, soft_wrap=True)
        output.console.print(Text(f"   {output.short(passage.text, 300)}"), soft_wrap=True)
    output.console.print(f"[dim]shown {len(found.results)} of {found.total_count}[/]")
