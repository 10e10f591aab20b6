"""Every schema: migrated safely, equal to its models, closed to other tenants and other services."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg.rows import dict_row
from sqlalchemy import MetaData, NullPool, create_engine

import mneme
from mneme.runtime import migrations
from mneme.runtime.db import Database
from mneme.runtime.errors import Error
from mneme.runtime.migrations import MigrationError

NewDatabase = Callable[[str | None], str]

WITH_HISTORY = [schema for schema in migrations.SCHEMAS if migrations.head(schema)]

# Tables without a policy. They hold ids, states and times, never anyone's text.
WORK_TABLES = {
    "archival.index_queue",
    "archival.vector_scope",
    "archival.vector_table",
    "embedding.process",
    "embedding.space",
    "orchestrator.conversation_lease",
    "orchestrator.mailbox",
    "orchestrator.operation_head",
    "orchestrator.timer_head",
    "orchestrator.worker",
    "recall.index_queue",
    "recall.retention",
    "recall.retention_due",
    "recall.vector_scope",
    "recall.vector_table",
}

# Made by helpers of the runtime, so no store describes them.
SHARED_TABLES = {"request", "alembic_version"}


def rows(url: str, query: str, *parameters: object) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query, parameters or None).fetchall()


def in_processes(urls: list[str]) -> list[bool]:
    """Migrates in one process each, all at once; returns which ones changed something."""
    code = "import sys; from mneme.runtime.migrations import migrate; "
    code += "print('changed', any(one.before != one.after for one in migrate(sys.argv[1])))"
    environment = {"PYTHONPATH": str(Path(mneme.__path__[0]).parent)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code, url], env=environment, stdout=subprocess.PIPE, text=True)
        for url in urls
    ]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * len(urls)
    return ["changed True" in output for output in outputs]


def models(schema: str) -> MetaData:
    store = importlib.import_module(f"mneme.{schema}.store")
    found = getattr(store, "metadata", None) or importlib.import_module(f"mneme.{schema}.store.tables").metadata
    assert isinstance(found, MetaData)
    return found


def test_a_second_run_changes_nothing(new_database: NewDatabase) -> None:
    url = new_database(None)
    first = migrations.migrate(url)
    assert [(one.before, one.after) for one in first] == [(None, migrations.head(one.schema)) for one in first]
    second = migrations.migrate(url)
    assert [(one.before, one.after) for one in second] == [(one.after, one.after) for one in first]


def test_two_runs_at_once_are_safe(new_database: NewDatabase) -> None:
    url = new_database(None)
    changed = [run for run in in_processes([url, url, url]) if run]
    assert len(changed) == (1 if WITH_HISTORY else 0)


def test_two_databases_at_once_share_their_roles(new_database: NewDatabase) -> None:
    assert all(in_processes([new_database(None), new_database(None)]))


@pytest.mark.parametrize("schema", WITH_HISTORY)
def test_the_models_equal_the_migrated_schema(schema: str, owner_url: str) -> None:
    def ours(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "schema" or name == schema

    def unshared(item: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or name not in SHARED_TABLES

    options = {"include_schemas": True, "include_name": ours, "include_object": unshared, "compare_type": True}
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, models(schema)) == []


def test_every_table_with_a_tenant_is_closed_to_the_others(owner_url: str) -> None:
    policies = rows(
        owner_url,
        """
        SELECT n.nspname || '.' || c.relname AS name, c.relrowsecurity AND c.relforcerowsecurity AS forced,
               array_agg(p.qual) AS visible, array_agg(p.with_check) AS writable
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        LEFT JOIN pg_policies p ON p.schemaname = n.nspname AND p.tablename = c.relname
        WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%s) GROUP BY 1, 2
        """,
        list(migrations.SCHEMAS),
    )
    mine = ["(tenant_id = current_setting('app.tenant'::text, true))"]
    closed = {row["name"] for row in policies if (row["forced"], row["visible"], row["writable"]) == (True, mine, mine)}
    assert {row["name"] for row in policies} - WORK_TABLES == closed


def test_a_table_without_a_tenant_is_a_declared_work_table(owner_url: str) -> None:
    tables = rows(
        owner_url,
        "SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AND n.nspname = ANY (%s) AND c.relname <> %s",
        list(migrations.SCHEMAS),
        migrations.VERSION_TABLE,
    )
    assert {row["name"] for row in tables} - WORK_TABLES == set()


@pytest.mark.parametrize("schema", WITH_HISTORY)
async def test_rows_of_other_tenants_are_out_of_reach(schema: str, database: Database, owner_url: str) -> None:
    table = f"{schema}.request"
    if not rows(owner_url, "SELECT 1 WHERE to_regclass(%s) IS NOT NULL", table):
        pytest.skip("no request table")
    insert = f"INSERT INTO {table} VALUES (%(tenant)s, 'one', 'method', '', '')"
    async with database.tenant("acme") as tx:
        await tx.execute(insert, {"tenant": "acme"})
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.tenant("other") as tx:
            await tx.execute(insert, {"tenant": "acme"})
    for transaction, seen in ((database.tenant("acme"), 1), (database.tenant("other"), 0), (database.work(), 0)):
        async with transaction as tx:
            assert len(await (await tx.execute(f"SELECT FROM {table}")).fetchall()) == seen
            assert (await tx.execute(f"DELETE FROM {table} WHERE false")).rowcount == 0


def test_the_application_role_has_no_rights_beyond_its_rows(owner_url: str, database_url: str) -> None:
    role = rows(owner_url, "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = 'mneme_app'")
    assert role == [{"rolsuper": False, "rolbypassrls": False, "rolcreaterole": False}]
    for forbidden in (
        "CREATE TABLE recall.mine (id integer)",
        "CREATE SCHEMA mine",
        *(f"DELETE FROM {schema}.alembic_version" for schema in WITH_HISTORY),
        *(f"ALTER TABLE {schema}.alembic_version ADD COLUMN mine integer" for schema in WITH_HISTORY),
    ):
        with psycopg.connect(database_url) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(forbidden)


def test_a_services_role_reaches_its_own_schema_only(owner_url: str) -> None:
    found = rows(
        owner_url,
        "SELECT r.name AS role, s.name AS schema, has_schema_privilege('mneme_' || r.name, s.name, 'USAGE') AS may "
        "FROM unnest(%s::text[]) r(name), unnest(%s::text[]) s(name)",
        list(migrations.SCHEMAS),
        list(migrations.SCHEMAS),
    )
    assert {(row["role"], row["schema"]) for row in found if row["may"]} == {(s, s) for s in migrations.SCHEMAS}


def test_a_missing_right_is_named(new_database: NewDatabase) -> None:
    url = new_database(None)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS powerless")
        admin.execute("CREATE ROLE powerless LOGIN")
    with pytest.raises(MigrationError, match="owner role lacks a right"):
        migrations.migrate(url.replace("://mneme@", "://powerless@"))


def test_an_unprivileged_owner_is_enough(new_database: NewDatabase) -> None:
    url = new_database(None)
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS ordinary")
        admin.execute("CREATE ROLE ordinary LOGIN CREATEROLE")
        admin.execute(f"ALTER DATABASE {name} OWNER TO ordinary")
        for role in [migrations.APP_ROLE, *map(migrations.role, migrations.SCHEMAS)]:
            # Roles belong to the cluster; an owner that made them itself has this right.
            admin.execute(f"GRANT {role} TO ordinary WITH ADMIN OPTION")
        admin.execute("CREATE EXTENSION vector")
    migrations.migrate(url.replace("://mneme@", "://ordinary@"))


def test_an_application_role_above_the_policies_is_refused(new_database: NewDatabase) -> None:
    url = new_database(None)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER ROLE mneme_app BYPASSRLS")
        try:
            with pytest.raises(MigrationError, match="bypasses row-level security"):
                migrations.migrate(url)
        finally:
            admin.execute("ALTER ROLE mneme_app NOBYPASSRLS")


def test_an_unreachable_database_is_named() -> None:
    with pytest.raises(MigrationError, match="does not answer"):
        migrations.migrate("postgresql:///mneme?host=/nonexistent")


@pytest.mark.parametrize("schema", WITH_HISTORY[:1])
async def test_readiness_wants_its_own_schema_or_a_newer_one(schema: str, database: Database, owner_url: str) -> None:
    async with database.work() as tx:
        await migrations.check_schema(tx, schema)
    set_revision(owner_url, schema, "from_the_future")
    async with database.work() as tx:
        await migrations.check_schema(tx, schema)
    assert [one.after for one in migrations.migrate(owner_url, [schema])] == ["from_the_future"]
    set_revision(owner_url, schema, None)
    with pytest.raises(Error, match=f"schema {schema} is at revision none and needs .*: run `mneme migrate`"):
        async with database.work() as tx:
            await migrations.check_schema(tx, schema)


def set_revision(owner_url: str, schema: str, revision: str | None) -> None:
    with psycopg.connect(owner_url) as owner:
        owner.execute(f"DELETE FROM {schema}.alembic_version")
        if revision:
            owner.execute(f"INSERT INTO {schema}.alembic_version VALUES (%s)", [revision])
