"""What a service is to its server, and what it gets to run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc.aio

from mneme.runtime.db import Database
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import Peers
from mneme.runtime.redis import Cache
from mneme.settings import Settings


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a service is built from."""

    settings: Settings
    """All settings; a service reads its own section."""
    database: Database
    """Connections to PostgreSQL under the application role."""
    cache: Cache
    """Connections to Redis."""
    peers: Peers
    """Stubs of the other services, which call in this service's name."""
    metrics: Metrics
    """The catalogue of instruments."""
    worker_id: str
    """Names this process, new at each start."""
    data_dir: Path | None
    """Folder of the embedded stores; None in production."""
    address: str
    """`host:port` at which other replicas reach this process."""


class Component(Protocol):
    """One service inside a server."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds its servicers to the server, before it listens."""

    async def start(self) -> None:
        """Starts background work; the server listens already."""

    async def drain(self) -> None:
        """Takes no new work and lets running work finish or hands it over; the server still answers calls."""

    async def stop(self) -> None:
        """Ends background work and frees what it holds; the server no longer answers."""

    async def ready(self) -> None:
        """Returns when its own stores answer, and raises when one does not. Never asks a peer."""
