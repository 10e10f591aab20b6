"""The orchestrator over gRPC: agents, conversations, and the turns in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc.aio

from mneme.orchestrator.agents import AgentMethods
from mneme.orchestrator.answers.process import Answers
from mneme.orchestrator.base import Base, Context, Parts
from mneme.orchestrator.conversations import ConversationMethods
from mneme.orchestrator.current import Deps
from mneme.orchestrator.executor import Executor
from mneme.orchestrator.models.build import build_model
from mneme.orchestrator.models.port import ChatModel
from mneme.orchestrator.models.tokens import count_tokens
from mneme.orchestrator.operations import Operations
from mneme.orchestrator.relay.relaying import Relay
from mneme.orchestrator.relay.watch import Hub, Watcher
from mneme.orchestrator.runs import RunMethods
from mneme.orchestrator.schedules import ScheduleMethods
from mneme.orchestrator.store.tables import SCHEMA
from mneme.orchestrator.timers import Timers
from mneme.orchestrator.users import UserMethods
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from mneme.orchestrator.waiting import WaitingMethods
from mneme.orchestrator.worker import Worker
from mneme.runtime import migrations
from mneme.runtime.component import Component, Runtime
from mneme.runtime.errors import not_implemented


def build(runtime: Runtime, model: ChatModel | None = None) -> Component:
    """The orchestrator.

    Args:
        runtime: What it runs on.
        model: Answers in place of the configured providers; for tests.
    """
    return Orchestrator(runtime, model or build_model(runtime.settings.models))


class Orchestrator:
    """The service and its worker."""

    def __init__(self, runtime: Runtime, model: ChatModel) -> None:
        self._database = runtime.database
        self._model = model
        self._answers = Answers(runtime, model, count_tokens)
        deps = Deps(
            settings=runtime.settings,
            database=runtime.database,
            peers=runtime.peers,
            executor=Executor(runtime.peers, count_tokens),
            model=model,
            hub=Hub(),
            metrics=runtime.metrics,
            count_tokens=count_tokens,
            answers=self._answers,
        )
        self._worker = Worker(
            deps,
            worker_id=runtime.worker_id,
            address=runtime.address,
            alone=runtime.data_dir is not None,
        )
        self._operations = Operations(runtime.database, runtime.peers, runtime.settings.orchestrator)
        self._worker.add_chore(Timers(runtime.database, self._worker).fire)
        self._worker.add_chore(self._operations.work_due)
        watcher = Watcher(runtime.database, Relay(runtime.database, runtime.peers, own_address=runtime.address))
        self._servicer = AgentServicer(Parts(deps, self._worker, watcher, self._operations))

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer."""
        pb_grpc.add_AgentServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Begins to work the mailbox."""
        await self._worker.start()
        self._answers.start()

    async def drain(self) -> None:
        """Finishes running turns or hands them over."""
        await self._worker.drain()
        await self._answers.stop()

    async def stop(self) -> None:
        """Ends all work."""
        await self._worker.stop()
        await self._answers.stop()
        await self._operations.stop()
        await self._model.close()

    async def ready(self) -> None:
        """Returns when the database answers and the schema is there."""
        async with self._database.work() as tx:
            await migrations.check_schema(tx, SCHEMA)


class AgentServicer(
    AgentMethods,
    ConversationMethods,
    RunMethods,
    ScheduleMethods,
    UserMethods,
    WaitingMethods,
    pb_grpc.AgentServiceServicer,
):
    """All methods of the contract; those of later versions answer NOT_IMPLEMENTED."""

    def __init__(self, parts: Parts) -> None:
        Base.__init__(self, parts)

    def ExportAgent(
        self, request: pb.ExportAgentRequest, context: Context
    ) -> AsyncGenerator[pb.ExportAgentResponse, None]:
        """Is not built yet."""
        return _not_built("ExportAgent")

    async def ImportAgent(
        self, request_iterator: AsyncIterator[pb.ImportAgentRequest], context: Context
    ) -> pb.ImportAgentResponse:
        """Is not built yet."""
        raise not_implemented("ImportAgent")

    async def ReplayStep(self, request: pb.ReplayStepRequest, context: Context) -> pb.ReplayStepResponse:
        """Is not built yet."""
        raise not_implemented("ReplayStep")


async def _not_built(method: str) -> AsyncGenerator[Any, None]:
    """A stream that fails at its first step; `yield` makes it one."""
    if method:
        raise not_implemented(method)
    yield
