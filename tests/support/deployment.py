"""The suite as its users meet it: real processes, reached over sockets, hosted in one process or in six."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mneme import registry
from mneme.client import Client
from mneme.client.connection import HEALTH_NAMES
from mneme.runtime.dev_credentials import mint_dev_token

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True)
class Deployment:
    """Where each service is, and who may call it."""

    addresses: Mapping[str, str]
    credentials: Path
    """Folder of the development credentials that every process trusts."""
    processes: Sequence[subprocess.Popen[bytes]] = field(default_factory=tuple)
    logs: Sequence[Path] = field(default_factory=tuple)

    def token(self, tenant: str, user: str = "", lifetime: float = 3600) -> str:
        """A user credential."""
        return mint_dev_token(self.credentials, tenant, user, lifetime=lifetime)

    def client(self, tenant: str, user: str = "", token: str = "") -> Client:
        """A client that calls as a tenant's user."""
        return Client.connect(addresses=self.addresses, token=token or self.token(tenant, user))


def environment(database_url: str, redis_url: str, credentials: Path) -> dict[str, str]:
    """Settings of a process on given stores, quick to start and to stop."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MNEME_")}
    return inherited | {
        "MNEME_DATABASE__URL": database_url,
        "MNEME_DATABASE__POOL_MAX": "6",
        "MNEME_REDIS__URL": redis_url,
        # Patient with a busy machine; tests of slowness set their own limits.
        "MNEME_REDIS__COMMAND_TIMEOUT": "2",
        "MNEME_REDIS__CONNECT_TIMEOUT": "2",
        "MNEME_ORCHESTRATOR__CACHE_TIMEOUT": "2",
        "MNEME_AUTH__JWKS": str(credentials / "jwks.json"),
        "MNEME_AUTH__SUITE_KEYS_FILE": str(credentials / "suite.key"),
        "MNEME_SERVER__DRAIN_WAIT": "0",
        "MNEME_SERVER__STOP_GRACE": "2",
        "MNEME_SERVER__READY_INTERVAL": "0.1",
        "MNEME_TELEMETRY__LOG_LEVEL": "warning",
    }


@contextmanager
def deployed(groups: Sequence[Sequence[str]], settings: Mapping[str, str], folder: Path) -> Iterator[Deployment]:
    """One process a group of services, all ready inside the block and ended by SIGTERM after it.

    Raises:
        RuntimeError: A process ended or did not get ready; its log is in the text.
    """
    ports = free_ports(len(groups))
    addresses = {name: f"127.0.0.1:{port}" for group, port in zip(groups, ports, strict=True) for name in group}
    peers = {f"MNEME_PEERS__{name.upper()}": address for name, address in addresses.items()} if len(groups) > 1 else {}
    with ExitStack() as stack:
        processes, logs = [], []
        for group, port in zip(groups, ports, strict=True):
            log = folder / f"{group[0]}-{port}.log"
            output = stack.enter_context(log.open("wb"))
            logs.append(log)
            processes.append(start(group, dict(settings) | peers | {"MNEME_SERVER__PORT": str(port)}, output))
            stack.callback(stop, processes[-1])
        for (name, address), index in zip(
            addresses.items(), (i for i, group in enumerate(groups) for _ in group), strict=True
        ):
            wait_until_serving(name, address, processes[index], logs[index])
        yield Deployment(addresses, Path(settings["MNEME_AUTH__JWKS"]).parent, tuple(processes), tuple(logs))


def start(names: Sequence[str], settings: Mapping[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that serves the named services."""
    flags = [flag for name in names for flag in ("--service", name)]
    command = [sys.executable, "-m", "mneme", "serve", *flags]
    return subprocess.Popen(command, env=dict(settings), stdout=output, stderr=output, stdin=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process in order, and by force when it hangs, which fails the test."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def wait_until_serving(name: str, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when a service's health is SERVING.

    Raises:
        RuntimeError: The process ended, or did not get ready in time.
    """
    request = health_pb2.HealthCheckRequest(service=HEALTH_NAMES[name])
    deadline = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answer = health.Check(request, timeout=1, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            process_poll_interval()
    raise RuntimeError(f"{name} at {address} is not ready (exit code {process.poll()}):\n{log.read_text()[-4000:]}")


def process_poll_interval() -> None:
    """Lets the other process use the processor between two looks at it."""
    time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on at the moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


ONE_PROCESS = (registry.NAMES,)
SIX_PROCESSES = tuple((name,) for name in registry.NAMES)
