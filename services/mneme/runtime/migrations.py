"""Database schemas: one alembic history a service, applied under a lock, with roles and row-level security.

A service keeps its history in `<service>/migrations/versions/`; each revision imports the helpers below.
Tables get their grants from default privileges, so a migration states only what differs.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import alembic.util
import psycopg
import structlog
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from psycopg import errors, sql
from sqlalchemy import NullPool, create_engine, exc, text
from sqlalchemy.engine import Connection

import mneme
from mneme.errors.v1 import errors_pb2
from mneme.runtime import db
from mneme.runtime.errors import Error, OperatorError

SCHEMAS = ("orchestrator", "core_memory", "recall", "archival", "embedding", "semantic_cache")
APP_ROLE = "mneme_app"
VERSION_TABLE = "alembic_version"

_LOCK_KEY = 0x6D6E656D65  # "mneme"
_LOCK_POLL_SECONDS = 0.1

log = structlog.get_logger(__name__)


class MigrationError(OperatorError):
    """A migration that could not run; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one schema went through."""

    schema: str
    before: str | None
    after: str | None


def migrate(
    owner_url: str,
    schemas: Sequence[str] = SCHEMAS,
    *,
    app_password: str = "",
    lock_timeout_seconds: float = 10.0,
) -> list[Applied]:
    """Brings schemas to their newest revision; safe to repeat, and safe when two run at once.

    Args:
        owner_url: Of the role that owns the schemas; it needs CREATEROLE and CREATE on the database.
        schemas: Which ones; those without a history yet get only their schema and role.
        app_password: Set on the login role of the servers; empty leaves it as it is.
        lock_timeout_seconds: How long a statement may wait for a lock that running transactions hold.

    Raises:
        MigrationError: The database cannot be reached, the owner lacks a right, or a table stayed locked.
    """
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url), poolclass=NullPool)
    doing = "preparing the database"
    try:
        with engine.connect() as connection, _only_one(connection):
            connection.execute(text(f"SET lock_timeout = {int(lock_timeout_seconds * 1000)}"))
            _prepare_database(connection, app_password)
            connection.commit()
            result = []
            for schema in schemas:
                doing = f"migrating schema {schema}"
                result.append(_migrate_schema(connection, schema))
            return result
    except exc.DBAPIError as error:
        raise _explain(doing, error.orig) from error
    except psycopg.Error as error:
        raise _explain(doing, error) from error
    finally:
        engine.dispose()


def head(schema: str) -> str | None:
    """The newest revision that this code knows of a schema; None without a history."""
    script = _script(schema)
    return script.get_current_head() if script else None


async def applied(connection: db.Connection, schema: str) -> str | None:
    """The revision a schema has in the database; None when it was never migrated."""
    exists = await connection.execute("SELECT to_regclass(%(table)s) AS found", {"table": f"{schema}.{VERSION_TABLE}"})
    row = await exists.fetchone()
    if row is None or row["found"] is None:
        return None
    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(schema, VERSION_TABLE))
    version = await (await connection.execute(query)).fetchone()
    return str(version["version_num"]) if version else None


async def check_schema(connection: db.Connection, schema: str) -> None:
    """Returns when a schema is at this code's revision or a newer one; an unknown revision is a newer one.

    Raises:
        Error: STORE_UNAVAILABLE, naming both revisions, when the schema is behind.
    """
    own, known = _revisions(schema)
    current = await applied(connection, schema)
    if own is None or current == own:
        return
    if current is None or current in known:
        message = f"schema {schema} is at revision {current or 'none'} and needs {own}: run `mneme migrate`"
        raise Error(errors_pb2.REASON_STORE_UNAVAILABLE, message, metadata={"store": "postgresql", "schema": schema})


@functools.cache
def _revisions(schema: str) -> tuple[str | None, frozenset[str]]:
    """The newest revision and all others of this code. Kept: readiness asks every second, and reading them is slow."""
    script = _script(schema)
    if script is None:
        return None, frozenset()
    return script.get_current_head(), frozenset(revision.revision for revision in script.walk_revisions())


def role(schema: str) -> str:
    """The role (without login) that holds the rights on one schema."""
    return f"mneme_{schema}"


def grant_to_app(op: Operations | ModuleType, schema: str) -> None:
    """Grants reading and writing of all tables of a schema, present and future, to the schema's role."""
    inside, group = f"IN SCHEMA {_quoted(schema)}", _quoted(role(schema))
    rights = "SELECT, INSERT, UPDATE, DELETE"
    for statement in (
        f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {group}",
        f"GRANT {rights} ON ALL TABLES {inside} TO {group}",
        f"GRANT USAGE ON ALL SEQUENCES {inside} TO {group}",
        f"ALTER DEFAULT PRIVILEGES {inside} GRANT {rights} ON TABLES TO {group}",
        f"ALTER DEFAULT PRIVILEGES {inside} GRANT USAGE ON SEQUENCES TO {group}",
    ):
        op.execute(statement)


def enable_row_level_security(op: Operations | ModuleType, table: str) -> None:
    """Hides the rows of other tenants, from the table's owner too.

    Args:
        op: Alembic's operations.
        table: With its schema, "recall.messages"; it has a column `tenant_id`.
    """
    name = ".".join(_quoted(part) for part in table.split("."))
    # The setting stands bare, not in a sub-select: only so the planner uses the index that begins with it.
    mine = "tenant_id = current_setting('app.tenant', true)"
    op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_isolation ON {name} USING ({mine}) WITH CHECK ({mine})")


def create_request_table(op: Operations | ModuleType, schema: str) -> None:
    """Creates `<schema>.request`, where `runtime.idempotency` keeps the first response to each request_id."""
    name = f"{_quoted(schema)}.request"
    op.execute(
        f"""
        CREATE TABLE {name} (
            tenant_id text NOT NULL,
            request_id text NOT NULL,
            method text NOT NULL,
            request_sha256 bytea NOT NULL,
            response bytea NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT request_pkey PRIMARY KEY (tenant_id, request_id)
        )
        """
    )
    op.execute(f"CREATE INDEX request_create_time ON {name} (tenant_id, create_time)")
    enable_row_level_security(op, f"{schema}.request")


@contextlib.contextmanager
def _only_one(connection: Connection) -> Iterator[None]:
    """Holds the migration lock. Polled, as a blocking wait holds a snapshot and stalls index builds."""
    taken = text("SELECT pg_try_advisory_lock(:key)")
    waiting = False
    while not connection.execute(taken, {"key": _LOCK_KEY}).scalar_one():
        connection.rollback()
        if not waiting:
            log.info("migrations.waiting", why="another migration of this database is running")
            waiting = True
        time.sleep(_LOCK_POLL_SECONDS)
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
        connection.commit()


def _prepare_database(connection: Connection, app_password: str) -> None:
    has_vector = connection.execute(text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")).first()
    if not has_vector:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    _create_role(connection, APP_ROLE, "LOGIN NOSUPERUSER NOBYPASSRLS")
    over = connection.execute(
        text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = :name"), {"name": APP_ROLE}
    ).scalar_one()
    if over:
        message = f"role {APP_ROLE} is a superuser or bypasses row-level security: take that right from it first"
        raise MigrationError(message)
    if app_password:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        # Hashed on this side, so that the password itself never reaches the server's log.
        hashed = raw.pgconn.encrypt_password(app_password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
        connection.exec_driver_sql(f"ALTER ROLE {APP_ROLE} PASSWORD {sql.Literal(hashed).as_string(None)}")


def _create_role(connection: Connection, name: str, attributes: str) -> None:
    if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}).first():
        return
    # Roles belong to the whole cluster, and the lock only to this database: another may create it just now.
    connection.exec_driver_sql(
        f"DO $$ BEGIN CREATE ROLE {_quoted(name)} {attributes}; "
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    )


def _migrate_schema(connection: Connection, schema: str) -> Applied:
    if schema not in SCHEMAS:
        raise MigrationError(f"there is no schema {schema}; there are {', '.join(SCHEMAS)}")
    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
    _create_role(connection, role(schema), "NOLOGIN")
    member = text("SELECT pg_has_role(:member, :role, 'MEMBER')")
    if not connection.execute(member, {"member": APP_ROLE, "role": role(schema)}).scalar_one():
        connection.exec_driver_sql(f"GRANT {_quoted(role(schema))} TO {APP_ROLE}")
    script = _script(schema)
    before = MigrationContext.configure(connection, opts=_options(schema)).get_current_revision()
    if before is None:
        grant_to_app(Operations(MigrationContext.configure(connection)), schema)
    connection.commit()
    if script is None:
        return Applied(schema, None, None)
    after = script.get_current_head()
    if before == after:
        return Applied(schema, before, after)
    if before is not None and not _knows(script, before):
        log.warning("migrations.newer_schema", schema=schema, applied=before, known=after)
        return Applied(schema, before, before)
    _upgrade(connection, script, schema)
    log.info("migrations.applied", schema=schema, before=before, after=after)
    return Applied(schema, before, after)


def _upgrade(connection: Connection, script: ScriptDirectory, schema: str) -> None:
    def steps(revision: str, _: MigrationContext) -> list[RevisionStep]:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic's own upgrade command calls

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection, transaction_per_migration=True, **_options(schema))
        with environment.begin_transaction():
            environment.run_migrations()
    version_table = f"{_quoted(schema)}.{VERSION_TABLE}"
    connection.exec_driver_sql(f"REVOKE INSERT, UPDATE, DELETE ON {version_table} FROM {_quoted(role(schema))}")
    connection.commit()


def _options(schema: str) -> dict[str, Any]:
    return {"version_table": VERSION_TABLE, "version_table_schema": schema}


@functools.cache
def _script(schema: str) -> ScriptDirectory | None:
    folder = Path(mneme.__path__[0]) / schema / "migrations"
    if not any(folder.glob("versions/*.py")):
        return None
    return ScriptDirectory(folder, version_locations=[folder / "versions"])


def _knows(script: ScriptDirectory, revision: str) -> bool:
    try:
        return script.get_revision(revision) is not None
    except alembic.util.CommandError:
        return False


def _quoted(identifier: str) -> str:
    return sql.Identifier(identifier).as_string(None)


def _explain(doing: str, error: BaseException | None) -> MigrationError:
    detail = str(error).strip().partition("\n")[0]
    if isinstance(error, errors.InsufficientPrivilege):
        return MigrationError(
            f"the owner role lacks a right for {doing}: {detail}. It needs CREATEROLE and CREATE on the database, and "
            "the extension `vector`, unless trusted, created beforehand by an administrator"
        )
    if isinstance(error, errors.LockNotAvailable):
        return MigrationError(f"{doing} had to wait too long for running transactions: run `mneme migrate` again")
    if isinstance(error, errors.UndefinedFile | errors.FeatureNotSupported) and "vector" in detail:
        return MigrationError(f"the extension pgvector is not installed on the database server ({detail})")
    if isinstance(error, psycopg.OperationalError):
        return MigrationError(f"the database does not answer: {detail}")
    return MigrationError(f"{doing} failed: {detail}")
