"""The gRPC server of a process: binds its port, hosts components, tells their health, and drains."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mneme.runtime import validation
from mneme.runtime.auth import Authenticator
from mneme.runtime.component import Component
from mneme.runtime.health import Health
from mneme.runtime.interceptors import Chain, layers
from mneme.runtime.metrics import Metrics
from mneme.settings import ServerSettings

log = structlog.stdlib.get_logger("mneme.runtime.server")


class PortTakenError(OSError):
    """The port cannot be bound, most often because another process has it."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A component and how it is called."""

    name: str
    """Name of the service, `recall`."""
    proto_service: str
    """Full name of its proto service, `mneme.recall.v1.RecallService`."""
    component: Component
    """The service itself."""


class Server:
    """A bound port. Components are added by `start`, as they need its address to be built."""

    def __init__(self, settings: ServerSettings, *, metrics: Metrics, authenticator: Authenticator) -> None:
        """Binds the port; call it inside the event loop.

        Raises:
            PortTakenError: The port cannot be bound.
            OSError: A TLS file cannot be read.
        """
        self._settings = settings
        self._metrics = metrics
        chain = Chain(layers(settings, metrics=metrics, authenticator=authenticator))
        self._grpc = grpc.aio.server(interceptors=[chain], options=_options(settings))
        self.port = self._bind()
        """Port it listens on."""
        self._hosted: tuple[Hosted, ...] = ()
        self._started: list[Hosted] = []
        self._health = Health()
        self._watching: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """`host:port` at which other processes reach this one."""
        if self._settings.advertised_address:
            return self._settings.advertised_address
        host = self._settings.host.strip("[]")
        if host in ("0.0.0.0", "::", ""):  # noqa: S104  (compared, not bound)
            host = "127.0.0.1"
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self, hosted: Sequence[Hosted]) -> None:
        """Registers the components, listens, starts them in order, and watches from then on if they are ready."""
        self._hosted = tuple(hosted)
        names = tuple(one.proto_service for one in self._hosted)
        self._health = Health(names)
        for one in self._hosted:
            validation.prepare(one.proto_service)
            one.component.register(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)  # type: ignore[no-untyped-call]
        if self._settings.reflection:
            listed = (*names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
            pool = descriptor_pool.Default()
            reflection.enable_server_reflection(listed, self._grpc, pool)  # type: ignore[no-untyped-call]
        await self._grpc.start()
        for one in self._hosted:
            self._started.append(one)
            await one.component.start()
        self._health.set("", serving=True)
        self._watching = asyncio.create_task(self._watch(), name="readiness")
        log.info("listening", address=self.address, services=[one.name for one in self._hosted])

    async def wait_until_serving(self) -> None:
        """Returns when every hosted service is SERVING."""
        await self._health.wait_until_serving()

    def is_serving(self, proto_service: str = "") -> bool:
        """Returns whether a service, or the process, is announced as SERVING."""
        return self._health.serving(proto_service)

    async def stop(self) -> None:
        """Stops without failing a call of clients that check health, by these steps.

        1. Health says NOT_SERVING, and clients get `drain_wait` to move to other replicas.
        2. Components take no new work and hand over what runs, while calls are still answered.
        3. The server refuses new calls; running ones get `stop_grace` to finish.
        4. Components free what they hold, in the reverse order of their start.
        """
        settings = self._settings
        log.info("draining", services=[one.name for one in self._hosted])
        await self._stop_watching()
        self._health.drain()
        await asyncio.sleep(settings.drain_wait)
        await asyncio.gather(*(self._step(one, "drain") for one in self._started))
        self._health.close()
        await self._grpc.stop(settings.stop_grace)
        await self._release()

    async def kill(self) -> None:
        """Stops at once: running calls are cancelled."""
        await self._stop_watching()
        self._health.drain()
        self._health.close()
        await self._grpc.stop(None)
        await self._release()

    async def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _release(self) -> None:
        while self._started:
            await self._step(self._started.pop(), "stop")
        log.info("stopped")

    async def _step(self, one: Hosted, step: str) -> None:
        """Runs one step of one component; one that fails does not keep the others from ending well."""
        run = _within(self._settings.drain_timeout, getattr(one.component, step))
        outcome: BaseException | None = (await asyncio.gather(run, return_exceptions=True))[0]
        if outcome is not None:
            log.error("component_step_failed", service=one.name, step=step, exc_info=outcome)

    def _bind(self) -> int:
        settings = self._settings
        address = f"{settings.host}:{settings.port}"
        try:
            if settings.tls_certificate is None or settings.tls_key is None:
                port = self._grpc.add_insecure_port(address)
            else:
                pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
                port = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as failure:
            raise PortTakenError(f"cannot listen on {address}: {failure}") from failure
        if port == 0:
            raise PortTakenError(f"cannot listen on {address}")
        return port

    async def _watch(self) -> None:
        """Asks components if they are ready: one pass makes a service SERVING, some failures in a row end it."""
        failures = dict.fromkeys((one.name for one in self._hosted), self._settings.ready_failures)
        loop = asyncio.get_running_loop()
        while True:
            await self._ask_all(failures)
            due = loop.time() + self._settings.ready_interval
            await asyncio.sleep(self._settings.ready_interval)
            self._metrics.loop_lag_seconds.set(max(0.0, loop.time() - due))

    async def _ask_all(self, failures: dict[str, int]) -> None:
        asked = [_within(self._settings.ready_timeout, one.component.ready) for one in self._hosted]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for one, answer in zip(self._hosted, answers, strict=True):
            failures[one.name] = failures[one.name] + 1 if isinstance(answer, BaseException) else 0
            was = self._health.serving(one.proto_service)
            now = failures[one.name] == 0 or (was and failures[one.name] < self._settings.ready_failures)
            if was and not now:
                log.error("not_ready", service=one.name, error=repr(answer))
            elif now and not was:
                log.info("ready", service=one.name)
            self._health.set(one.proto_service, serving=now)
            self._metrics.ready.labels(one.name).set(self._health.serving(one.proto_service))


async def _within(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(seconds):
        await step()


async def serve(server: Server, hosted: Sequence[Hosted]) -> None:
    """Runs the server until SIGTERM or SIGINT, then stops it; a second signal stops it at once.

    Raises:
        Exception: Whatever a component's start raises, after everything was stopped again.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await server.start(hosted)
        await first.wait()
        await _stop(server, second)
    except BaseException:
        await server.kill()
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _stop(server: Server, hurry: asyncio.Event) -> None:
    stopping = asyncio.create_task(server.stop())
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if stopping.done():
        await stopping
        return
    log.warning("stopping_at_once")
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await server.kill()


def _options(settings: ServerSettings) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_receive_message_length", settings.max_receive_bytes * 4),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.keepalive_min_interval * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace * 1000)),
    ]
