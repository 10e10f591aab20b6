"""Language models on Amazon Bedrock through Converse and ConverseStream.

The SDK blocks, so each running answer takes a thread of a bounded pool, and its events cross to the event loop.
Credentials come from the SDK's default chain (IRSA, Pod Identity, environment, profile). The SDK does not retry: who
runs the turn knows how long it may take.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.eventstream import ParserError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from urllib3.exceptions import HTTPError

from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.models.bedrock_wire import Answer, converse_arguments
from mneme.orchestrator.models.failures import overflow, refused, says_too_long, throttled, unavailable
from mneme.orchestrator.models.port import ModelRequest, StreamEvent
from mneme.orchestrator.models.table import ModelInfo, model_info
from mneme.runtime.errors import Error
from mneme.settings import ModelsSettings

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

PROVIDER = "bedrock"
_REGION_GROUPS = frozenset({"us", "eu", "apac", "jp", "au", "ca", "global", "us-gov"})
_THROTTLED = frozenset({"throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception"})
_UNAVAILABLE = frozenset(
    {
        "internalserverexception",
        "internalfailure",
        "modelerrorexception",
        "modelnotreadyexception",
        "modelstreamerrorexception",
        "modeltimeoutexception",
        "serviceunavailableexception",
        "serviceunavailable",
        "requesttimeout",
    }
)
_FAILURES = (ClientError, BotoCoreError, HTTPError, ParserError, OSError)


def build(settings: ModelsSettings) -> "BedrockModel":
    """The adapter with its client.

    Raises:
        Error: PROVIDER_REFUSED, when no region is configured or the profile does not exist.
    """
    config = Config(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.request_timeout,
        max_pool_connections=settings.max_streams,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
    )
    try:
        session = _session(settings)
        client = session.client("bedrock-runtime", endpoint_url=settings.bedrock_endpoint_url or None, config=config)
    except BotoCoreError as error:
        raise _unusable(error) from error
    return BedrockModel(client, max_streams=settings.max_streams, window_tokens=settings.window_tokens)


class BedrockModel:
    """A `ChatModel` on Bedrock."""

    def __init__(self, client: "BedrockRuntimeClient", *, max_streams: int, window_tokens: int = 0) -> None:
        """Args:
        client: Of the runtime API, without retries of its own.
        max_streams: Answers at once; more wait for a thread.
        window_tokens: Window of every model in place of the table's; 0 leaves it.
        """
        self._client = client
        self._window_tokens = window_tokens
        self._threads = ThreadPoolExecutor(max_streams, thread_name_prefix="bedrock")
        self._running: set[_Reading] = set()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamEvent, None]:
        """Events of one answer; see the port."""
        info = model_info(request.model, window_tokens=self._window_tokens)
        answer = Answer(request.model)
        queue: asyncio.Queue[dict[str, Any] | asyncio.Future[None]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        reading = _Reading(
            self._client,
            converse_arguments(request, info),
            streaming=info.streaming,
            deliver=lambda event: _call_soon(loop, queue.put_nowait, event),
        )
        self._running.add(reading)
        finished = loop.run_in_executor(self._threads, reading.run)
        finished.add_done_callback(queue.put_nowait)
        try:
            while isinstance(item := await queue.get(), dict):
                for event in answer.take(item):
                    yield event
            item.result()
            if not answer.complete:
                raise unavailable(PROVIDER, request.model, "the answer was cut off")
            yield answer.finished()
        except _FAILURES as error:
            raise _translated(error, info) from error
        finally:
            self._running.discard(reading)
            reading.stop()
            finished.cancel()

    async def close(self) -> None:
        """Ends running answers and gives threads and connections back."""
        for reading in tuple(self._running):
            reading.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()


class _Reading:
    """One request in its thread: reads the answer and hands on its events until it ends or is stopped."""

    def __init__(
        self,
        client: "BedrockRuntimeClient",
        arguments: dict[str, Any],
        *,
        streaming: bool,
        deliver: Callable[[dict[str, Any]], None],
    ) -> None:
        self._client = client
        self._arguments = arguments
        self._streaming = streaming
        self._deliver = deliver
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._raw: Any = None

    def run(self) -> None:
        """Reads to the end. Runs in a thread of the pool; raises what the SDK raises."""
        if not self._streaming:
            self._deliver({"converse": self._client.converse(**self._arguments)})
            return
        stream = self._client.converse_stream(**self._arguments)["stream"]
        with contextlib.closing(stream):
            with self._lock:
                # The SDK offers no way to interrupt a read that waits in another thread; its connection does.
                self._raw = getattr(stream, "_raw_stream", None)
                if self._stopped.is_set():
                    return
            for event in stream:
                if self._stopped.is_set():
                    return
                self._deliver(dict(event))

    def stop(self) -> None:
        """Makes the thread return soon, also one that waits for the provider's next bytes. Safe at any time."""
        with self._lock:
            self._stopped.set()
            raw, self._raw = self._raw, None
        if raw is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                raw.shutdown()


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[dict[str, Any]], None], event: dict[str, Any]
) -> None:
    """Runs a function in the loop; does nothing when the loop was closed, as nobody waits any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, event)


def _translated(error: Exception, info: ModelInfo) -> Error:
    """The SDK's failure as the suite's own."""
    if isinstance(error, ClientError):
        return _from_answer(error, info)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return refused(PROVIDER, info.name, "no AWS credentials were found")
    return unavailable(PROVIDER, info.name, type(error).__name__)


def _from_answer(error: ClientError, info: ModelInfo) -> Error:
    """The failure that Bedrock answered with, before or within the stream."""
    code = error.response.get("Error", {}).get("Code", "")
    detail = error.response.get("Error", {}).get("Message", "")
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    if code.lower() in _THROTTLED or status == 429:
        return throttled(PROVIDER, info.name, _retry_after(metadata.get("HTTPHeaders", {})))
    if code.lower() in _UNAVAILABLE or status >= 500:
        return unavailable(PROVIDER, info.name, code or f"HTTP {status}")
    if code.lower() == "validationexception" and says_too_long(detail):
        return overflow(PROVIDER, info.name, info.window_tokens)
    return refused(PROVIDER, info.name, f"{code}: {detail}")


def _retry_after(headers: dict[str, str]) -> timedelta | None:
    seconds = headers.get("retry-after", "")
    return timedelta(seconds=min(int(seconds), 3600)) if seconds.isdigit() else None


def inspect(settings: ModelsSettings, model: str) -> tuple[str, str]:
    """Lifecycle and access of a model, as Bedrock's control plane tells them; blocks, for `mneme doctor`.

    Returns:
        The lifecycle (`ACTIVE`, `LEGACY`) and the account's access (`AUTHORIZED`, `NOT_AUTHORIZED`).

    Raises:
        Error: PROVIDER_REFUSED or PROVIDER_UNAVAILABLE, with what Bedrock said.
    """
    info = model_info(model)
    # An inference profile is its model behind a region group: `us.anthropic.…`.
    base = model.split(".", 1)[1] if model.split(".", 1)[0] in _REGION_GROUPS else model
    try:
        endpoint = settings.bedrock_control_endpoint_url or None
        with contextlib.closing(_session(settings).client("bedrock", endpoint_url=endpoint)) as client:
            details = client.get_foundation_model(modelIdentifier=base)["modelDetails"]
            access = client.get_foundation_model_availability(modelId=base)
    except _FAILURES as error:
        raise _translated(error, info) from error
    return details.get("modelLifecycle", {}).get("status", "ACTIVE"), access["authorizationStatus"]


def _session(settings: ModelsSettings) -> boto3.Session:
    """The default credential chain, in the configured region and profile."""
    return boto3.Session(profile_name=settings.bedrock_profile or None, region_name=settings.bedrock_region or None)


def _unusable(error: BotoCoreError) -> Error:
    cure = "set MNEME_MODELS__BEDROCK_REGION, or region and profile in the AWS configuration"
    return Error(
        errors_pb2.REASON_PROVIDER_REFUSED,
        f"bedrock cannot be used: {str(error).rstrip('.')}; {cure}",
        metadata={"provider": PROVIDER},
    )
