"""PostgreSQL for every store: one pool a process, tenant transactions in one round trip, typed failures.

A tenant transaction is `BEGIN` and the tenant's name in one message, the store's statements, and `COMMIT`.
Row-level security reads the name (`app.tenant`), which ends with the transaction: the connection's next user
never inherits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, LiteralString

import psycopg
import structlog
from pgvector.psycopg import register_vector_async
from psycopg import conninfo, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from mneme.errors.v1 import errors_pb2
from mneme.runtime import call
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.settings import DatabaseSettings

Connection = psycopg.AsyncConnection[DictRow]
ConnectionInfo = Callable[[], Awaitable[str]]

_BEGIN_ATTEMPTS = 3
_LISTEN_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_SETTLED_POLL_SECONDS = 0.02
_PLAN_ONCE = "; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off"
_READ_ONLY = "25006"
_DISK_FULL = "53100"
_QUERY_CANCELED = "57014"
_RETRYABLE_CLASSES = ("08", "28", "40", "53", "57", "58")

_NO_CONNECTION = (PoolTimeout, PoolClosed, TooManyRequests)

log = structlog.get_logger(__name__)


class Database:
    """One pool of connections to one database."""

    def __init__(
        self,
        settings: DatabaseSettings,
        *,
        name: str,
        metrics: Metrics | None = None,
        connection_info: ConnectionInfo | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        self.name = name
        self._in_use = metrics.pool_in_use.labels(name)
        self._waiting = metrics.pool_waiting.labels(name)
        self._seconds = metrics.transaction_seconds.labels(name)
        self._settings = settings
        self._connection_info = connection_info
        self._busy = 0
        self._drained_at = 0.0
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._conninfo,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": settings.prepare_threshold,
            },
            configure=_register_types,
            name=name,
            min_size=settings.pool_min,
            max_size=settings.pool_max,
            timeout=settings.pool_timeout,
            max_lifetime=settings.max_lifetime,
            open=False,
        )

    @classmethod
    async def open(
        cls,
        settings: DatabaseSettings,
        *,
        name: str,
        metrics: Metrics | None = None,
        connection_info: ConnectionInfo | None = None,
    ) -> Database:
        """Returns a database whose pool fills in the background; `ping` says whether it can be reached.

        Args:
            settings: Where the database is and how long to wait for it.
            name: Who uses it; shown in messages, logs, metrics and `pg_stat_activity`.
            metrics: Where the pool's use and the transactions' times are counted; None for nowhere.
            connection_info: Called for each new connection instead of the URL, for passwords that expire.
        """
        database = cls(settings, name=name, metrics=metrics, connection_info=connection_info)
        await database._pool.open()
        return database

    async def close(self) -> None:
        """Closes all connections; running transactions end first, for at most five seconds."""
        await self._pool.close()

    def tenant(self, tenant: str, *, plan_once: bool = False) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A transaction on the rows of one tenant; commits at exit, rolls back on any exception.

        Args:
            tenant: Whose rows.
            plan_once: Plans a prepared statement for all values at once, and never compiles it: for statements so long
                that planning takes as much time as running, and whose plan the values should not change.

        Raises:
            Error: STORE_UNAVAILABLE, STORE_FULL or DEADLINE_EXCEEDED in place of the driver's exceptions.
                Violated constraints pass through as `psycopg.errors.IntegrityError` for the store to name.
        """
        if not tenant:
            raise ValueError("a tenant transaction needs a tenant")
        planning = _PLAN_ONCE if plan_once else ""
        return self._transaction(f"; SET LOCAL app.tenant = {_literal(tenant)}{planning}")

    def work(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """A transaction without a tenant: it sees work tables, and no row of any content table."""
        return self._transaction("")

    async def ping(self) -> None:
        """Returns when the database answers; raises STORE_UNAVAILABLE otherwise."""
        async with self.work() as tx:
            await tx.execute("SELECT 1")

    async def settled(self) -> None:
        """Returns when every writing transaction has ended that may not see what was committed before this call.

        A deletion commits its tombstone and waits here: then no write that missed the tombstone can come after it.
        """
        horizon = await self._snapshot("pg_snapshot_xmax")
        while await self._snapshot("pg_snapshot_xmin") < horizon:  # noqa: ASYNC110
            await asyncio.sleep(_SETTLED_POLL_SECONDS)

    async def _snapshot(self, bound: LiteralString) -> int:
        """A transaction number: all from xmax on had not begun yet, all below xmin have ended."""
        async with self.work() as tx:
            cursor = await tx.execute(f"SELECT {bound}(pg_current_snapshot())::text::bigint AS number")
            row = await cursor.fetchone()
        assert row is not None
        return int(row["number"])

    async def listen(self, channel: str) -> AsyncGenerator[str]:
        """Yields the payload of each notification, on a connection of its own that reconnects for ever.

        An empty string comes first and after each reconnection: notifications may have been missed.
        Close it with `contextlib.aclosing` when leaving the loop early.
        """
        failures = 0
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    await self._conninfo(direct=True), autocommit=True
                ) as direct:
                    await direct.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    failures = 0
                    yield ""
                    async for notification in direct.notifies():
                        yield notification.payload
            except psycopg.OperationalError as error:
                log.warning("database.listen_lost", database=self.name, channel=channel, error=str(error).strip())
            await asyncio.sleep(_LISTEN_BACKOFF_SECONDS[min(failures, len(_LISTEN_BACKOFF_SECONDS) - 1)])
            failures += 1

    async def _conninfo(self, *, direct: bool = False) -> str:
        settings = self._settings
        url = settings.direct_url if direct and settings.direct_url.get_secret_value() else settings.url
        base = await self._connection_info() if self._connection_info else url.get_secret_value()
        defaults: dict[str, Any] = {
            "application_name": f"mneme {self.name}",
            "connect_timeout": max(2, round(settings.connect_timeout)),
            "target_session_attrs": "read-write",
            # A dead peer is noticed within about ten seconds, also while a statement waits for its answer.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }
        return conninfo.make_conninfo(
            base, **{k: v for k, v in defaults.items() if k not in conninfo.conninfo_to_dict(base)}
        )

    @contextlib.asynccontextmanager
    async def _transaction(self, tenant_clause: str) -> AsyncIterator[Connection]:
        taken_at = time.monotonic()
        try:
            connection = await self._begin(tenant_clause)
            try:
                yield connection
                await _commit(connection)
            except BaseException:
                with contextlib.suppress(psycopg.OperationalError):
                    await connection.rollback()
                raise
            finally:
                await self._give_back(connection)
        except psycopg.Error as error:
            if _is_lost(error):
                await self._drain(taken_at)
            failure = self._translate(error)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._seconds.observe(time.monotonic() - taken_at)

    async def _begin(self, tenant_clause: str) -> Connection:
        """Opens a transaction on a connection of the pool; a dead one is replaced: nothing ran on it yet."""
        begin = f"BEGIN{tenant_clause}; SET LOCAL statement_timeout = {self._statement_timeout_ms()}"
        for attempt in range(1, _BEGIN_ATTEMPTS + 1):
            taken_at = time.monotonic()
            connection = await self._take()
            try:
                await connection.execute(begin.encode())
                return connection
            except BaseException as error:
                await self._give_back(connection)
                if attempt == _BEGIN_ATTEMPTS or not _is_lost(error):
                    raise
                await self._drain(taken_at)
        raise AssertionError("unreachable")

    async def _take(self) -> Connection:
        with self._waiting.track_inprogress():
            connection = await self._pool.getconn()
        self._busy += 1
        self._in_use.inc()
        return connection

    async def _give_back(self, connection: Connection) -> None:
        self._busy -= 1
        self._in_use.dec()
        await self._pool.putconn(connection)

    def _statement_timeout_ms(self) -> int:
        allowed = self._settings.statement_timeout
        left = call.remaining()
        if left is not None:
            allowed = min(allowed, left)
        return max(1, int(allowed * 1000))

    async def _drain(self, taken_at: float) -> None:
        """Replaces all connections, unless that has happened since the failed one was taken."""
        if taken_at >= self._drained_at:
            self._drained_at = time.monotonic()
            log.warning("database.drained", database=self.name)
            await self._pool.drain()

    def _translate(self, error: Exception) -> Error | None:
        """The typed failure for a driver error; None for those that the store or nobody can name."""
        metadata = {"store": "postgresql"}
        if isinstance(error, _NO_CONNECTION):
            return Error(errors_pb2.REASON_STORE_UNAVAILABLE, self._no_connection(error), metadata=metadata)
        state = getattr(error, "sqlstate", None) or ""
        if state == _DISK_FULL:
            return Error(errors_pb2.REASON_STORE_FULL, "the database is out of disk space", metadata=metadata)
        if state == _QUERY_CANCELED:
            seconds = f"{self._statement_timeout_ms() / 1000:.1f}"
            message = f"a statement on the database of {self.name} took longer than it may"
            return Error(errors_pb2.REASON_DEADLINE_EXCEEDED, message, metadata={**metadata, "seconds": seconds})
        if _is_lost(error) or state.startswith(_RETRYABLE_CLASSES):
            message = f"the database of {self.name} does not answer"
            return Error(errors_pb2.REASON_STORE_UNAVAILABLE, message, metadata={**metadata, "sqlstate": state})
        return None

    def _no_connection(self, error: Exception) -> str:
        if isinstance(error, PoolClosed):
            return f"the database pool of {self.name} is closed"
        waited = f"{self._settings.pool_timeout:g} s"
        if self._busy >= self._settings.pool_max:
            return f"all {self._busy} database connections of {self.name} stayed busy for {waited}"
        return f"the database of {self.name} accepted no connection within {waited}"


async def _register_types(connection: Connection) -> None:
    """Lets vectors travel as pgvector's own types; without the extension all other types still work."""
    with contextlib.suppress(psycopg.ProgrammingError):
        await register_vector_async(connection)


async def _commit(connection: Connection) -> None:
    cursor = await connection.execute(b"COMMIT")
    # PostgreSQL answers COMMIT with a quiet ROLLBACK when a statement failed and its error was swallowed.
    if cursor.statusmessage != "COMMIT":
        raise psycopg.errors.InFailedSqlTransaction("a statement failed, and the transaction was rolled back")


def _literal(value: str) -> str:
    return sql.Literal(value).as_string(None)


def _is_lost(error: BaseException) -> bool:
    """Whether the connection, and so probably its neighbours, is of no use: cut, or to a demoted server."""
    if not isinstance(error, psycopg.Error) or isinstance(error, _NO_CONNECTION):
        return False
    state = error.sqlstate or ""
    if not state:
        return isinstance(error, psycopg.OperationalError)
    stale_plan = state == "0A000" and "cached plan" in str(error)
    return stale_plan or state == _READ_ONLY or state.startswith(("08", "57P"))
