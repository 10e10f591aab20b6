"""A server's life: port, health, readiness, drain, signals."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from mneme.runtime import peers
from mneme.runtime.auth import Authenticator, SuiteKeys
from mneme.runtime.dev_credentials import DevCredentials, mint_dev_token
from mneme.runtime.metrics import Metrics, MetricsPage
from mneme.runtime.server import Hosted, PortTakenError, Server, serve
from mneme.settings import AuthSettings, ServerSettings
from tests.contract.runtime import echo
from tests.contract.runtime.conftest import Launch, Running
from tests.contract.runtime.test_chain import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def make(credentials: DevCredentials, **settings: Any) -> Server:
    auth = AuthSettings(jwks=str(credentials.jwks_path), suite_keys_file=credentials.suite_keys_path)
    chosen = ServerSettings(**{"port": 0, "drain_wait": 0, "ready_interval": 0.02, **settings})
    return Server(chosen, metrics=Metrics(), authenticator=Authenticator(auth, SuiteKeys.load(auth)))


def watch(running: Running, service: str) -> Any:
    method = running.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return method(health_pb2.HealthCheckRequest(service=service))


async def test_a_taken_port_is_an_error(running: Running, credentials: DevCredentials) -> None:
    with pytest.raises(PortTakenError, match=str(running.server.port)):
        make(credentials, port=running.server.port)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "127.0.0.1"}, "127.0.0.1:{}"),
        ({"host": "0.0.0.0"}, "127.0.0.1:{}"),
        ({"advertised_address": "10.0.0.7:7600"}, "10.0.0.7:7600"),
    ],
)
async def test_the_address_can_be_dialled(credentials: DevCredentials, settings: dict[str, Any], expected: str) -> None:
    server = make(credentials, **settings)
    assert server.address == expected.format(server.port)
    await server.kill()


async def test_health_follows_the_component_with_hysteresis(launch: Launch) -> None:
    async with launch(ready_failures=3) as running:
        await asyncio.wait_for(running.server.wait_until_serving(), 5)
        states = watch(running, echo.SERVICE)
        process = watch(running, "")
        assert (await states.read()).status == SERVING
        running.echo.failing = True
        assert (await states.read()).status == NOT_SERVING
        running.echo.failing = False
        assert (await states.read()).status == SERVING
        assert (await process.read()).status == SERVING
        states.cancel()
        process.cancel()


async def test_stop_ends_health_watchers_and_runs_each_step_once(launch: Launch) -> None:
    async with launch(stop_grace=30) as running:
        await asyncio.wait_for(running.server.wait_until_serving(), 5)
        states = watch(running, echo.SERVICE)
        assert (await states.read()).status == SERVING
        await asyncio.wait_for(running.server.stop(), 5)
        assert (await states.read()).status == NOT_SERVING
        assert running.echo.steps == ["start", "drain", "stop"]


async def test_running_calls_finish_within_the_grace(launch: Launch) -> None:
    async with launch(stop_grace=10) as running:
        call = asyncio.ensure_future(running.start("Say", echo.request(text="late", play="hold")))
        await asyncio.wait_for(running.echo.held.wait(), 5)
        stopping = asyncio.create_task(running.server.stop())
        await until(lambda: "drain" in running.echo.steps)
        running.echo.release.set()
        assert (await call).text == "late"
        await stopping


async def test_signals_drain_and_a_second_one_hurries(credentials: DevCredentials) -> None:
    for signals in (1, 2):
        server = make(credentials, stop_grace=30)
        component = echo.Echo()
        life = asyncio.create_task(serve(server, [Hosted("echo", echo.SERVICE, component)]))
        await asyncio.wait_for(server.wait_until_serving(), 5)
        async with grpc.aio.insecure_channel(server.address) as channel:
            say: Any = channel.unary_unary(f"/{echo.SERVICE}/Say")
            token = mint_dev_token(credentials.token_path.parent)
            asked = echo.request(play="hold" if signals == 2 else "").SerializeToString()
            running = asyncio.ensure_future(say(asked, metadata=(("authorization", f"Bearer {token}"),)))
            if signals == 2:
                await asyncio.wait_for(component.held.wait(), 5)
            else:
                await running
            os.kill(os.getpid(), signal.SIGTERM)
            if signals == 2:
                await until(lambda one=component: "drain" in one.steps)
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(life, 10)
            await asyncio.gather(running, return_exceptions=True)
        assert component.steps == ["start", "drain", "stop"]


class Broken(echo.Echo):
    """A component that does not start."""

    async def start(self) -> None:
        """Raises."""
        await super().start()
        raise RuntimeError("no store")


async def test_a_component_that_does_not_start_stops_the_others(credentials: DevCredentials) -> None:
    server = make(credentials)
    good, broken = echo.Echo(), Broken()
    hosted = [Hosted("echo", echo.SERVICE, good), Hosted("broken", echo.SERVICE, broken)]
    with pytest.raises(RuntimeError, match="no store"):
        await asyncio.wait_for(serve(server, hosted), 10)
    assert good.steps == ["start", "stop"]
    assert broken.steps == ["start", "stop"]


async def test_stops_lose_no_call_of_clients_that_check_health(launch: Launch) -> None:
    """Three replicas, two of them stopped one after the other under load: the drain order is what makes this pass."""
    done, stops = 0, 0
    gentle = {"drain_wait": 0.3, "stop_grace": 5}
    async with launch() as first, launch(**gentle) as second, launch(**gentle) as leaving:
        target = f"ipv4:{first.server.address},{second.server.address},{leaving.server.address}"
        options = [("grpc.service_config", peers.service_config(1, echo.SERVICE))]
        for one in (first, second, leaving):
            await asyncio.wait_for(one.server.wait_until_serving(), 5)
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            client = Running(first.server, first.echo, first.metrics, channel, first.data_dir, first.auth)
            metadata = (("authorization", f"Bearer {client.token()}"),)
            say: Any = channel.unary_unary(f"/{echo.SERVICE}/Say")
            await say(b"", metadata=metadata, wait_for_ready=True)

            async def load() -> None:
                nonlocal done
                while not stops:
                    await say(b"", metadata=metadata, timeout=10)
                    done += 1

            workers = [asyncio.create_task(load()) for _ in range(8)]
            await until(lambda: done > 100)
            for replica in (leaving, second):
                await replica.server.stop()
                before = done
                await until(lambda: done > before + 100)  # noqa: B023  (it is awaited in the loop)
            stops = 1
            await asyncio.gather(*workers)
        assert leaving.echo.steps[-1] == "stop"


async def test_the_metrics_page_speaks_openmetrics() -> None:
    metrics = Metrics()
    metrics.rpc_seconds.labels("a/B", "OK").observe(0.002, {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"})
    page = MetricsPage.open(metrics, host="127.0.0.1", port=0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n")
        text = (await asyncio.wait_for(reader.read(), 5)).decode()
        writer.close()
        await writer.wait_closed()
    finally:
        page.close()
    assert 'mneme_rpc_server_duration_seconds_bucket{code="OK",le="0.0025",method="a/B"} 1.0 # {trace_id=' in text
