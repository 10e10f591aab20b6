"""Calls from one service to another: token, deadline, trace, retries, health, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mneme.errors.v1 import errors_pb2
from mneme.recall.v1 import recall_pb2
from mneme.runtime import call, peers, telemetry
from mneme.runtime.auth import Authenticator, ServiceTokens, SuiteKeys
from mneme.runtime.call import Call, Principal
from mneme.runtime.dev_credentials import DevCredentials
from mneme.runtime.errors import Error, from_rpc_error
from mneme.runtime.interceptors import translate
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import Channels, Peers
from mneme.runtime.server import Hosted, Server
from mneme.settings import AuthSettings, PeersSettings, ServerSettings
from tests.contract.runtime.echo import Echo
from tests.contract.runtime.test_chain import until

SERVICE = peers.PROTO_SERVICES["recall"]
ANN = Principal(tenant="acme", actor="model:offline", user="ann")
WINDOW = recall_pb2.GetWindowRequest(agent_id="agent-1", conversation_id="conversation-1")


class Recall(Echo):
    """A recall service that tells who called."""

    def __init__(self, *failures: Error) -> None:
        """Args:
        failures: What the first calls raise.
        """
        super().__init__()
        self.failures = list(failures)
        self.calls: list[Call] = []
        self.left: list[float | None] = []

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer."""
        handler = grpc.unary_unary_rpc_method_handler(
            self.get_window,
            recall_pb2.GetWindowRequest.FromString,
            recall_pb2.GetWindowResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"GetWindow": handler}),))

    async def get_window(self, _request: Any, _context: Any) -> Any:
        """Notes the call, then fails or answers with the trace."""
        self.calls.append(call.current())
        self.left.append(call.remaining())
        if self.failures:
            raise self.failures.pop(0)
        return recall_pb2.GetWindowResponse(summary=call.trace_id())


class Suite:
    """Runs recall replicas and gives the orchestrator's peers."""

    def __init__(self, credentials: DevCredentials) -> None:
        telemetry.tracing()
        self._auth = AuthSettings(jwks=str(credentials.jwks_path), suite_keys_file=credentials.suite_keys_path)
        self._keys = SuiteKeys.load(self._auth)
        self._stack = AsyncExitStack()

    async def serve(self, component: Recall, **settings: Any) -> Server:
        """Starts a replica."""
        chosen = ServerSettings(**{"port": 0, "drain_wait": 0, "ready_interval": 0.02, **settings})
        authenticator = Authenticator(self._auth, self._keys)
        server = Server(chosen, metrics=Metrics(), authenticator=authenticator)
        await server.start([Hosted("recall", SERVICE, component)])
        self._stack.push_async_callback(server.kill)
        await asyncio.wait_for(server.wait_until_serving(), 5)
        return server

    def peers(self, service: str = "orchestrator", *, own: str = "127.0.0.1:1", **settings: Any) -> Peers:
        """Returns a service's stubs."""
        tokens = ServiceTokens(self._keys, self._auth)
        channels = Channels(PeersSettings(**settings), tokens, own_address=own, metrics=Metrics())
        self._stack.push_async_callback(channels.close)
        return Peers(channels, service)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Suite]:
        """Stops everything at the end."""
        async with self._stack:
            yield self


@pytest.fixture
async def suite(credentials: DevCredentials) -> AsyncIterator[Suite]:
    """Starts and stops replicas and channels."""
    async with Suite(credentials).open() as one:
        yield one


def in_call(seconds: float = 60, principal: Principal = ANN) -> Any:
    return call.enter(Call(principal, asyncio.get_running_loop().time() + seconds))


@pytest.mark.parametrize("mode", ["own address", "default address", "own setting"])
async def test_a_peer_learns_who_acts_through_whom(suite: Suite, mode: str) -> None:
    recall = Recall()
    address = (await suite.serve(recall)).address
    stubs = {
        "own address": lambda: suite.peers(own=address),
        "default address": lambda: suite.peers(default_address=address),
        "own setting": lambda: suite.peers(default_address="127.0.0.1:1", recall=address),
    }[mode]()
    with in_call():
        await stubs.recall.GetWindow(WINDOW)
    assert recall.calls[0].principal == Principal("acme", "model:offline", "ann", service="orchestrator")
    assert recall.calls[0].method == f"{SERVICE}/GetWindow"


async def test_the_shortest_deadline_wins(suite: Suite) -> None:
    recall = Recall()
    stubs = suite.peers(own=(await suite.serve(recall)).address, timeout=30)
    for own, asked, expected in ((60, None, 30), (5, None, 5), (5, 90, 5), (60, 3, 3), (60, 45, 45)):
        with in_call(own):
            await stubs.recall.GetWindow(WINDOW, timeout=asked)
        left = recall.left.pop()
        assert left is not None
        assert expected - 2 < left < expected + 0.5


async def test_no_call_is_made_for_nobody(suite: Suite) -> None:
    with pytest.raises(LookupError):
        await suite.peers().recall.GetWindow(WINDOW)


async def test_a_service_the_contract_does_not_list_is_refused(suite: Suite) -> None:
    recall = Recall()
    stubs = suite.peers("embedding", own=(await suite.serve(recall)).address)
    with in_call(), pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.recall.GetWindow(WINDOW)
    assert from_rpc_error(raised.value).reason_name == "CALLER_NOT_ALLOWED"
    assert not recall.calls


async def test_unavailable_is_retried_and_nothing_else(suite: Suite) -> None:
    down = Error(errors_pb2.REASON_STORE_UNAVAILABLE, "the database does not answer")
    busy = Error(errors_pb2.REASON_TOO_MANY_CALLS, "256 calls are running")
    recall = Recall(down, down, busy)
    stubs = suite.peers(own=(await suite.serve(recall)).address)
    with in_call(), pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.recall.GetWindow(WINDOW)
    assert len(recall.calls) == 3
    assert from_rpc_error(raised.value).reason_name == "TOO_MANY_CALLS"


async def test_an_uncaught_failure_of_a_peer_keeps_its_reason(suite: Suite) -> None:
    recall = Recall(Error(errors_pb2.REASON_NOT_FOUND, "agent-1 does not exist", metadata={"resource": "agent-1"}))
    stubs = suite.peers(own=(await suite.serve(recall)).address)
    with in_call(), pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.recall.GetWindow(WINDOW)
    error = translate(raised.value)
    assert (error.reason_name, error.message, error.metadata) == (
        "NOT_FOUND",
        "agent-1 does not exist",
        {"resource": "agent-1"},
    )


async def test_a_peer_that_is_not_there_is_unavailable(suite: Suite) -> None:
    with in_call(), pytest.raises(grpc.aio.AioRpcError) as raised:
        await suite.peers(max_attempts=1).recall.GetWindow(WINDOW)
    assert translate(raised.value).reason_name == "PEER_UNAVAILABLE"


async def test_a_replica_that_is_not_ready_gets_no_calls(suite: Suite) -> None:
    good, bad = Recall(), Recall()
    one, two = await suite.serve(good), await suite.serve(bad, ready_failures=1)
    stubs = suite.peers(default_address=f"ipv4:{one.address},{two.address}")
    with in_call():
        async with asyncio.timeout(10):
            while not (good.calls and bad.calls):
                await stubs.recall.GetWindow(WINDOW)
        bad.failing = True
        await until(lambda: not two.is_serving(SERVICE))
        async with asyncio.timeout(10):
            seen = -1
            while seen != len(bad.calls):
                seen = len(bad.calls)
                for _ in range(4):
                    await stubs.recall.GetWindow(WINDOW)


async def test_the_trace_goes_through(suite: Suite, spans: InMemorySpanExporter) -> None:
    recall = Recall(Error(errors_pb2.REASON_NOT_FOUND, "agent-1 does not exist"))
    stubs = suite.peers(own=(await suite.serve(recall)).address)
    with in_call(), telemetry.span("turn") as turn:
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.recall.GetWindow(WINDOW)
        answer = await stubs.recall.GetWindow(WINDOW)
        assert answer.summary == call.trace_id()
    await until(lambda: len(spans.get_finished_spans()) == 5)
    finished = spans.get_finished_spans()
    client = [span for span in finished if span.kind is SpanKind.CLIENT]
    server = [span for span in finished if span.kind is SpanKind.SERVER]
    assert {span.context.trace_id for span in finished if span.context} == {turn.get_span_context().trace_id}
    assert sorted(span.status.status_code.name for span in client) == ["ERROR", "UNSET"]
    assert sorted(span.status.status_code.name for span in server) == ["ERROR", "UNSET"]
    assert StatusCode.ERROR in {span.status.status_code for span in server}


def certificate(folder: Path) -> tuple[Path, Path]:
    """Writes a certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(made.public_bytes(pem))
    (folder / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "tls.crt", folder / "tls.key"


async def test_tls_between_services(suite: Suite, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    recall = Recall()
    server = await suite.serve(recall, tls_certificate=chain, tls_key=key)
    target = f"localhost:{server.port}"
    with in_call():
        await suite.peers(default_address=target, tls_ca=chain).recall.GetWindow(WINDOW)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await suite.peers(default_address=target, max_attempts=1).recall.GetWindow(WINDOW)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(recall.calls) == 1


async def test_channels_are_shared_and_replicas_can_be_dialled(suite: Suite, tmp_path: Path) -> None:
    stubs = suite.peers(default_address="127.0.0.1:1")
    assert stubs.recall is stubs.recall
    assert stubs.orchestrator_at("127.0.0.1:2") is not stubs.orchestrator_at("127.0.0.1:2")
    channels = stubs._channels
    assert channels.to("recall") is channels.to("recall")
    assert channels.to("recall") is not channels.to("archival")
    assert channels.at("127.0.0.1:2") is channels.at("127.0.0.1:2")
