"""Finds the suite and the credential a command uses: flags, then environment, then the running `mneme dev`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from mneme.client import Client
from mneme.embedded.folder import default_data_dir

Address = Annotated[
    str,
    typer.Option(
        "--address", "-a", envvar="MNEME_ADDRESS", help="host:port of the suite. Default: the running `mneme dev`."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar="MNEME_TOKEN_FILE", help="File with the credential. Default: the running `mneme dev`'s."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder of `mneme dev`. Default: the same that `mneme dev` uses."),
]


@dataclass(frozen=True, slots=True)
class RunningSuite:
    """What `mneme dev` writes into its data folder for the other commands."""

    address: str
    process_id: int
    database_url: str
    owner_url: str
    redis_url: str

    def write(self, data_dir: Path) -> Path:
        """Makes it findable; returns the file, which must be removed at the end."""
        path = _file(data_dir)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        return path


def find(data_dir: Path | None) -> RunningSuite | None:
    """The suite that `mneme dev` runs on a data folder; None when none does."""
    try:
        found = RunningSuite(**json.loads(_file(data_dir or default_data_dir()).read_text(encoding="utf-8")))
        os.kill(found.process_id, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        # Another user's process: it runs, and its socket or port says whether we may use it.
        return found
    return found


def client(address: str, token_file: Path | None, data_dir: Path | None) -> Client:
    """A client of the suite that the flags, the environment or a running `mneme dev` name.

    Raises:
        ValueError: None of them names one, or there is no credential; the text says what to do.
    """
    suite = None if address else find(data_dir)
    if not address and suite is None:
        raise ValueError("no suite is running: start `mneme dev` in another terminal, or name one with --address")
    token = token_file or os.environ.get("MNEME_TOKEN") or (data_dir or default_data_dir()) / "token"
    if isinstance(token, Path) and not token.exists():
        raise ValueError(f"no credential in {token}: name a file with --token-file, or set MNEME_TOKEN")
    return Client.connect(address or (suite.address if suite else ""), token=token)


def _file(data_dir: Path) -> Path:
    return data_dir / "suite.json"
