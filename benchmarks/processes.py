"""Starts the suite's processes on given stores, in any grouping, and tells when they serve."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mneme import dev, registry
from mneme.client import Client
from mneme.client.connection import HEALTH_NAMES
from mneme.runtime.dev_credentials import mint_dev_token
from mneme.settings import Settings

TENANT = "bench"
ONE_PROCESS = (registry.NAMES,)
SIX_PROCESSES = tuple((name,) for name in registry.NAMES)
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_ROOT = Path(__file__).parents[1]


@asynccontextmanager
async def fresh_stores(overrides: Mapping[str, Any] | None = None) -> AsyncIterator[Settings]:
    """Fresh embedded stores, which wait for the disk at each commit as in earnest; the settings of a suite on them."""
    with tempfile.TemporaryDirectory(prefix="mneme-bench-") as folder:
        # Where the database runs as another user, that user must get through.
        os.chmod(folder, 0o711)  # noqa: PTH101  (a Path's methods are refused in async functions)
        wanted = {"telemetry": {"log_level": "warning"}, **(overrides or {})}
        async with dev.prepared(Path(folder, "data"), overrides=wanted) as stores:
            yield stores


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the suite."""

    names: tuple[str, ...]
    """The services it hosts."""
    port: int
    metrics_port: int
    pid: int

    @property
    def label(self) -> str:
        """The service it hosts, or `suite` for all of them."""
        return self.names[0] if len(self.names) == 1 else "suite"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The suite's running processes."""

    processes: tuple[Process, ...]
    token: str

    def client(self) -> Client:
        """A client that spreads its calls over all processes of a service."""
        addresses = {name: self._target(name) for name in registry.NAMES}
        return Client.connect(addresses=addresses, token=self.token)

    @property
    def address(self) -> str:
        """`host:port` of the first process."""
        return f"127.0.0.1:{self.processes[0].port}"

    def _target(self, name: str) -> str:
        hosts = [f"127.0.0.1:{process.port}" for process in self.processes if name in process.names]
        return f"ipv4:///{','.join(hosts)}"


@asynccontextmanager
async def deployed(
    stores: Settings, groups: Sequence[tuple[str, ...]], *, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Deployment]:
    """One process a group of services, all of them serving inside the block, with the stub model.

    Args:
        stores: Settings of running and migrated stores, with their data folder.
        groups: Names of services, a group a process; a service may be in several.
        extra: Environment variables above all others.

    Raises:
        RuntimeError: A process ended or did not get ready; its log is in the text.
    """
    assert stores.data_dir is not None
    ports = iter(free_ports(2 * len(groups)))
    plan = [(group, next(ports), next(ports)) for group in groups]
    peers = {f"MNEME_PEERS__{name.upper()}": f"127.0.0.1:{port}" for group, port, _ in plan for name in group}
    with ExitStack() as stack:
        started = []
        for group, port, metrics_port in plan:
            own = {"MNEME_SERVER__PORT": str(port), "MNEME_SERVER__METRICS_PORT": str(metrics_port)}
            environment = _environment(stores) | (peers if len(groups) > 1 else {}) | own | dict(extra or {})
            log = stores.data_dir / f"{group[0]}-{port}.log"
            child = _start(["benchmarks.host", *group], environment, log, stack)
            started.append((Process(group, port, metrics_port, child.pid), child, log))
        for process, child, log in started:
            await asyncio.to_thread(_until_serving, process, child, log)
        try:
            yield Deployment(tuple(process for process, _, _ in started), mint_dev_token(stores.data_dir, TENANT))
        except Exception as failure:
            for process, _, log in started:
                failure.add_note(f"{process.label} logged: {_tail(log)}")
            raise


@asynccontextmanager
async def echoing(count: int, folder: Path) -> AsyncIterator[tuple[Process, ...]]:
    """Bare echo servers, each in a process of its own."""
    with ExitStack() as stack:
        ports = free_ports(count)
        children = [
            _start(["benchmarks.echo", str(port)], os.environ, folder / f"echo-{port}.log", stack) for port in ports
        ]
        yield tuple(Process(("echo",), port, 0, child.pid) for port, child in zip(ports, children, strict=True))


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at the moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _environment(stores: Settings) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MNEME_")}
    return inherited | {
        "MNEME_DATABASE__URL": stores.database.url.get_secret_value(),
        "MNEME_DATABASE__POOL_MAX": "8",
        "MNEME_REDIS__URL": stores.redis.url.get_secret_value(),
        "MNEME_AUTH__JWKS": stores.auth.jwks,
        "MNEME_AUTH__SUITE_KEYS_FILE": str(stores.auth.suite_keys_file),
        "MNEME_MODELS__EMBEDDING_PROVIDER": stores.models.embedding_provider,
        "MNEME_MODELS__EMBEDDING_MODEL": stores.models.embedding_model,
        "MNEME_MODELS__EMBEDDING_DIMENSIONS": str(stores.models.embedding_dimensions),
        "MNEME_MODELS__OPENAI_BASE_URL": stores.models.openai_base_url,
        # Larger than any conversation here: no warning, eviction or summary is part of a plain turn.
        "MNEME_MODELS__WINDOW_TOKENS": "128000",
        # Rare, as each check is a transaction that would be counted with the turns'.
        "MNEME_SERVER__READY_INTERVAL": "5",
        "MNEME_SERVER__DRAIN_WAIT": "0",
        "MNEME_SERVER__STOP_GRACE": "2",
        "MNEME_TELEMETRY__LOG_LEVEL": "warning",
    }


def _start(module: list[str], environment: Mapping[str, str], log: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    output = stack.enter_context(log.open("wb"))
    search = {"PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "services")))}
    child = subprocess.Popen(
        [sys.executable, "-m", *module],
        env={**environment, **search},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    stack.callback(_stop, child)
    return child


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _until_serving(process: Process, child: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when all services of a process answer SERVING."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = [health_pb2.HealthCheckRequest(service=HEALTH_NAMES[name]) for name in process.names]
    with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        while waiting and time.monotonic() < deadline and child.poll() is None:
            waiting = [request for request in waiting if not _serving(health, request)]
            time.sleep(0.05)
    if waiting:
        raise RuntimeError(f"{process.label} does not serve (exit code {child.poll()}):\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _serving(health: health_pb2_grpc.HealthStub, request: health_pb2.HealthCheckRequest) -> bool:
    try:
        answer = health.Check(request, timeout=1, wait_for_ready=True)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
