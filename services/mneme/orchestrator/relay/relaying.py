"""Watching a run of another replica: its own stream, passed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc.aio
import structlog

from mneme.orchestrator.records import Run
from mneme.orchestrator.store import mailbox
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime import call
from mneme.runtime.db import Database
from mneme.runtime.peers import Peers

log = structlog.stdlib.get_logger("mneme.orchestrator.relay")


class Relay:
    """Reaches the replica that works on a run."""

    def __init__(self, database: Database, peers: Peers, *, own_address: str) -> None:
        self._database = database
        self._peers = peers
        self._own_address = own_address

    async def events(self, run: Run, after: int, *, tokens: bool) -> AsyncGenerator[pb.RunEvent, None]:
        """All events of a run after a sequence, as the replica that works on it shows them.

        Ends early when that replica goes away, and at once when there is none: what is stored can then be read. A
        relayed call is not relayed again, so two replicas never pass a watcher to each other.
        """
        if call.current().principal.service:
            return
        async with self._database.work() as tx:
            address = await mailbox.address_of(tx, run)
        if address in ("", self._own_address):
            return
        request = pb.WatchRunRequest(
            run_id=run.run_id, after_sequence=after, stream_tokens=tokens, include_inner_events=True
        )
        stream = self._peers.orchestrator_at(address).WatchRun(request)
        try:
            async for response in stream:
                yield response.event
        except grpc.aio.AioRpcError as error:
            log.info("relay_cut", address=address, code=error.code().name)
        finally:
            stream.cancel()
