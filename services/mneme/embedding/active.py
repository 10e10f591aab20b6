"""Which of the configured spaces is the active one: the database says so, and every process follows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

import structlog

from mneme.embedding.provider import Model
from mneme.embedding.space import RecordedSpace, choose, unknown
from mneme.errors.v1 import errors_pb2
from mneme.runtime import ids
from mneme.runtime.errors import Error, logged

_MISSED_POLLS = 3

log = structlog.get_logger(__name__)


class Spaces(Protocol):
    """The record of spaces and processes; see the store."""

    async def attend(self, process_id: str, models: Sequence[Model], seconds: float) -> RecordedSpace:
        """Returns the recorded space, and notes who serves what."""

    async def leave(self, process_id: str) -> None:
        """Forgets a process."""

    async def switch(self, model: Model) -> None:
        """Records another active space."""


class ActiveSpace:
    """The active space of the deployment, as this process knows it.

    A process that cannot reach the database goes on with the space it knew: vectors carry the name of their space, so
    one of an earlier space is never taken for one of the new.
    """

    def __init__(self, store: Spaces, models: Sequence[Model], poll: float) -> None:
        """Args:
        store: The record.
        models: What the settings name: the active space's model, and the next one's where there is one.
        poll: Seconds between two looks at the record.
        """
        self._store = store
        self._models = tuple(models)
        self._poll = poll
        self._process_id = ids.new("process")
        self._recorded: RecordedSpace | None = None
        self._following: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Looks which space is active, and follows the record from then on.

        Raises:
            Error: REASON_SPACE_MISMATCH; the process must not serve then. A database that does not answer is no
                reason: nothing is embedded before it did.
        """
        try:
            await self.get()
        except Error as error:
            if error.reason != errors_pb2.REASON_STORE_UNAVAILABLE:
                raise
            log.warning("embedding.space_unchecked", why=error.message)
        self._following = asyncio.create_task(self._follow(), name="embedding-space")

    async def stop(self) -> None:
        """Follows no longer, and says so to the others."""
        if self._following is None:
            return
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following
        with contextlib.suppress(Error):  # the others notice by themselves
            await self._store.leave(self._process_id)

    async def get(self) -> Model:
        """Returns the model of the active space.

        Raises:
            Error: REASON_SPACE_MISMATCH when the settings do not name it, REASON_STORE_UNAVAILABLE when that is not
                known yet.
        """
        if self._recorded is None:
            await self._look()
        assert self._recorded is not None
        return choose(self._recorded, self._models)

    def beside(self, active: Model) -> list[Model]:
        """Returns the configured models of other spaces; at most one."""
        return [model for model in self._models if model is not active]

    async def named(self, space_id: str) -> Model:
        """Returns the model of a space; an empty id means the active one.

        Raises:
            Error: REASON_SPACE_MISMATCH for a space that the settings do not name.
        """
        active = await self.get()
        found = [model for model in (active, *self.beside(active)) if space_id in ("", model.space_id)]
        if not found:
            raise unknown(space_id, active, self.beside(active))
        return found[0]

    async def switch(self, space_id: str) -> Model:
        """Makes a configured space the active one; returns its model.

        Raises:
            Error: REASON_SPACE_MISMATCH when this or another running process does not serve it.
        """
        model = await self.named(space_id)
        await self._store.switch(model)
        await self._look()
        return await self.get()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll)
            try:
                await self._look()
            except Error as error:
                log.warning("embedding.space_unknown", **logged(error))

    async def _look(self) -> None:
        async with self._looking:
            recorded = await self._store.attend(self._process_id, self._models, _MISSED_POLLS * self._poll)
            before, self._recorded = self._recorded, recorded
        if before not in (None, recorded):
            log.info("embedding.space_switched", now=recorded.space_id)
