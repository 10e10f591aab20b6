"""`mneme users`: all that is kept of one user."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from mneme.cli import ops, output
from mneme.cli.groups import Group
from mneme.client import Client, new_request_id
from mneme.orchestrator.v1 import orchestrator_pb2 as pb

group = Group(
    "users",
    """Users: export or forget all that the suite keeps of one.

    Examples: `mneme users export ann --to ann.jsonl` · `mneme users forget ann`
    """,
)

UserId = Annotated[str, typer.Argument(help="User id, as your application gave it.", show_default=False)]


@group.command("export")
async def export(
    client: Client,
    user: UserId,
    to: Annotated[Path | None, typer.Option("--to", dir_okay=False, help="File. Default: standard output.")] = None,
) -> None:
    """Write all data of a user as JSON lines: `{"kind": …, "record": …}`; the last line counts the records."""
    if to is None:
        await _write(client, user, typer.get_binary_stream("stdout"))
        return
    partial = to.with_name(f"{to.name}.partial")
    with partial.open("wb") as file:
        pieces = await _write(client, user, file)
    partial.replace(to)
    output.done(f"{pieces - 1:,} records in {to}")


@group.command("forget")
async def forget(client: Client, user: UserId, yes: output.Yes = False, as_json: output.AsJson = False) -> None:
    """Remove all data of a user in every service, for good, and show what was removed and what a recount found."""
    output.sure(f"Forget '{user}' for good? The id cannot be used again.", yes=yes)
    request = pb.ForgetUserRequest(request_id=new_request_id(), user_id=user)
    ops.report((await client.agents.ForgetUser(request)).operation, as_json=as_json)


async def _write(client: Client, user: str, file: BinaryIO) -> int:
    """Writes the pieces of an export; returns how many there are.

    Raises:
        ValueError: The export was cut, or a piece does not follow from the one before.
    """
    digest, last = "", pb.ExportPiece()
    async for response in client.agents.ExportUser(pb.ExportUserRequest(user_id=user)):
        piece = response.piece
        digest = hashlib.sha256(f"{digest}{piece.kind}\n".encode() + piece.record_json).hexdigest()
        if piece.chain_sha256 != digest:
            raise ValueError(f"piece {piece.number} of the export is damaged: begin anew")
        file.write(b'{"kind": "%b", "record": %b}\n' % (piece.kind.encode(), piece.record_json))
        last = piece
    if last.kind != "end":
        raise ValueError(f"the export was cut after piece {last.number}: begin anew")
    return last.number
