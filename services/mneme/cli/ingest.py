"""Reads files for an ingest, and shows how far it has come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from google.protobuf import json_format
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mneme.archival.v1 import archival_pb2 as pb
from mneme.cli import output
from mneme.client import Client, new_request_id

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".text")
LINES_SUFFIX = ".jsonl"
_SECTION_CHARS = 200_000
"""A larger document is sent in sections of about this size; the server cuts each at its sentences."""


class Files:
    """The files of an ingest, and how much of them has been read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Finds the files.

        Raises:
            ValueError: A path does not exist, or nothing in it can be read.
        """
        self.found = list(_found(paths))
        if not self.found:
            kinds = ", ".join((*TEXT_SUFFIXES, LINES_SUFFIX))
            raise ValueError(f"nothing to ingest in {', '.join(map(str, paths))}: files end in {kinds}")
        self.size = sum(path.stat().st_size for path, _ in self.found)
        self.read = 0

    def items(self, tags: Sequence[str]) -> Iterator[pb.PassageItem]:
        """Yields the passages, a file after the other; texts are cut by the server.

        Raises:
            ValueError: A file is not UTF-8, or a line of a .jsonl file is no passage; the text names file and line.
        """
        for path, name in self.found:
            before = self.read
            made = self._lines(path, tags) if path.suffix == LINES_SUFFIX else self._document(path, name, tags)
            yield from made
            self.read = before + path.stat().st_size

    def _document(self, path: Path, name: str, tags: Sequence[str]) -> Iterator[pb.PassageItem]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
        sections = list(_sections(text))
        start = 0
        for section in sections:
            passage = pb.Passage(text=section, kind=pb.PASSAGE_KIND_DOCUMENT, tags=tags)
            passage.document.document_id = name
            passage.document.start_char = start
            start += len(section)
            if section.strip():
                yield pb.PassageItem(passage=passage, chunking=pb.Chunking(), replace_document=len(sections) == 1)
            self.read += len(section.encode())

    def _lines(self, path: Path, tags: Sequence[str]) -> Iterator[pb.PassageItem]:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                self.read += len(raw)
                if not raw.strip():
                    continue
                try:
                    passage = json_format.ParseDict(_fields(json.loads(raw)), pb.Passage())
                except (ValueError, json_format.ParseError) as error:
                    raise ValueError(f"{path}:{number}: {error}") from None
                passage.tags.extend(tags)
                yield pb.PassageItem(passage=passage)


async def ingest(
    client: Client, owner: pb.PassageOwner, paths: Sequence[Path], tags: Sequence[str], resume: str, *, as_json: bool
) -> None:
    """Stores files as passages and says what became of them; exits with 1 where something was refused."""
    files, request_id = Files(paths), resume or new_request_id()
    hidden = as_json or not output.console.is_terminal
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        disable=hidden,
        console=output.console,
    ) as progress:
        task = progress.add_task("ingest", total=files.size)

        def moved(so_far: pb.IngestPassagesResponse) -> None:
            progress.update(task, completed=files.read, description=f"{so_far.passage_count:,} passages")

        if not as_json:
            output.console.print(f"[dim]if it is cut, go on with --resume {request_id}[/]", soft_wrap=True)
        done = await client.ingest(owner, files.items(tags), request_id=request_id, resume=bool(resume), progress=moved)
        progress.update(task, completed=files.size)
    _report(done, as_json)


def _report(done: pb.IngestPassagesResponse, as_json: bool) -> None:
    if as_json:
        output.show(done, as_json=True)
    else:
        for one in done.errors:
            output.console.print(f"[red]item {one.index}:[/] {one.error.message}", markup=True)
        known = f", {done.duplicate_count:,} known already" if done.duplicate_count else ""
        refused = f", {done.error_count:,} refused" if done.error_count else ""
        output.done(f"{done.passage_count:,} passages stored{known}{refused}")
    if done.error_count:
        raise typer.Exit(1)


def _found(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and file.suffix.lower() in (*TEXT_SUFFIXES, LINES_SUFFIX):
                    yield file, file.relative_to(path).as_posix()
        elif path.is_file():
            yield path, path.name
        else:
            raise ValueError(f"{path}: no such file or folder")


def _sections(text: str) -> Iterator[str]:
    """Yields a text in sections that end at a paragraph where there is one; joined they are the text."""
    start = 0
    while len(text) - start > _SECTION_CHARS:
        end = text.rfind("\n\n", start + 1, start + _SECTION_CHARS)
        end = end + 2 if end > start else start + _SECTION_CHARS
        yield text[start:end]
        start = end
    yield text[start:]


def _fields(line: Any) -> dict[str, Any]:
    if isinstance(line, str):
        return {"text": line}
    if isinstance(line, dict):
        return line
    raise ValueError("a line is a text or an object with a `text`")
