"""`mneme doctor`: looks at everything the suite stands on, and says what to do about what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
import uvloop
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from mneme import registry, settings
from mneme.cli import connect
from mneme.cli.options import Config
from mneme.orchestrator.models.lifecycle import examine
from mneme.runtime import migrations
from mneme.runtime.db import Connection, Database
from mneme.runtime.errors import Error
from mneme.runtime.redis import Cache, CacheDown
from mneme.settings import Settings

SAFE_PGVECTOR = (0, 8, 4)
"""Older ones can lose rows from an index (pgvector changelog: CVE-2026-3172, repairs up to 0.8.4)."""

_VECTOR_COMMANDS = {"vector sets": "vadd", "search": "ft.search"}


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    verdict: Verdict
    detail: str
    cure: str = ""


def doctor(
    config: Config = None,
    data: connect.DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Check database, schemas, Redis and models, and say what to do.

    Looks at what the settings name; without a database there, at the running `mneme dev`. Exit code 1 when something
    must be mended.
    """
    effective = _with_running_suite(settings.load(config), data)
    # What it would say at each attempt stands in the table once.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    findings = uvloop.run(_collect(effective))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _print(findings)
    if any(finding.verdict is Verdict.FAILURE for finding in findings):
        raise typer.Exit(1)


def _with_running_suite(effective: Settings, data: Any) -> Settings:
    suite = None if effective.database.url.get_secret_value() else connect.find(data)
    if suite is None:
        return effective
    return effective.model_copy(
        update={
            "database": effective.database.model_copy(update={"url": SecretStr(suite.database_url)}),
            "redis": effective.redis.model_copy(update={"url": SecretStr(suite.redis_url)}),
        }
    )


async def _collect(effective: Settings) -> list[Finding]:
    findings = [finding async for finding in _database(effective)]
    findings.append(await _redis(effective))
    for report in await examine(effective.models):
        verdict = (Verdict.WARNING if report.cure else Verdict.OK) if report.usable else Verdict.FAILURE
        findings.append(Finding(f"model {report.model}", verdict, report.detail, report.cure))
    return findings


async def _database(effective: Settings) -> AsyncIterator[Finding]:
    if not effective.database.url.get_secret_value():
        yield Finding("database", Verdict.FAILURE, "not set", "set MNEME_DATABASE__URL, or run `mneme dev`")
        return
    database = await Database.open(effective.database, name="doctor")
    try:
        async with database.work() as connection:
            async for finding in _examine_database(connection):
                yield finding
    except Error as error:
        yield Finding("database", Verdict.FAILURE, error.message, "check the URL, the network and the credentials")
    finally:
        await database.close()


async def _examine_database(connection: Connection) -> AsyncIterator[Finding]:
    row = await _one(
        connection,
        """
        SELECT current_setting('server_version') AS version, rolsuper OR rolbypassrls AS too_mighty, rolname AS role,
               (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector
        FROM pg_roles WHERE rolname = current_user
        """,
    )
    yield Finding("database", Verdict.OK, f"PostgreSQL {row['version']}")
    if row["too_mighty"]:
        cure = "use a role without SUPERUSER and BYPASSRLS, such as mneme_app: row-level security does not bind others"
        yield Finding("role", Verdict.FAILURE, f"{row['role']} passes by row-level security", cure)
    else:
        yield Finding("role", Verdict.OK, f"{row['role']} is bound by row-level security")
    yield _pgvector(row["vector"])
    for name in registry.NAMES:
        yield await _schema(connection, name)


def _pgvector(found: str | None) -> Finding:
    if found is None:
        return Finding("pgvector", Verdict.FAILURE, "not installed", "run `mneme migrate` on a server that has it")
    if tuple(int(part) for part in found.split(".")) < SAFE_PGVECTOR:
        wanted = ".".join(map(str, SAFE_PGVECTOR))
        return Finding("pgvector", Verdict.WARNING, f"{found} has known faults in its indexes", f"upgrade to {wanted}")
    return Finding("pgvector", Verdict.OK, found)


async def _schema(connection: Connection, name: str) -> Finding:
    try:
        await migrations.check_schema(connection, name)
    except Error as error:
        return Finding(f"schema {name}", Verdict.FAILURE, error.message, "run `mneme migrate`")
    applied = await migrations.applied(connection, name)
    return Finding(f"schema {name}", Verdict.OK, f"revision {applied}" if applied else "needs none")


async def _redis(effective: Settings) -> Finding:
    cure = "set MNEME_REDIS__URL; without Redis everything works, only slower"
    if not effective.redis.url.get_secret_value():
        return Finding("redis", Verdict.WARNING, "not set", cure)
    cache = Cache(effective.redis)
    try:
        server = await cache.run(lambda redis: redis.info("server"), within=2)
        commands = await cache.run(lambda redis: redis.command(), within=2)
    except CacheDown as down:
        return Finding("redis", Verdict.WARNING, str(down), cure)
    finally:
        await cache.close()
    able = (
        ", ".join(name for name, command in _VECTOR_COMMANDS.items() if command in commands)
        or "no vector commands: matching runs in process"
    )
    version = server.get("valkey_version") or server.get("redis_version")
    product = "Valkey" if "valkey_version" in server else "Redis"
    return Finding("redis", Verdict.OK, f"{product} {version}, {able}")


async def _one(connection: Connection, query: str) -> dict[str, Any]:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None, "the current role always exists"
    return row


def _print(findings: list[Finding]) -> None:
    colours = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILURE: "bold red"}
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("", "what", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        mark = f"[{colours[finding.verdict]}]{finding.verdict.value}[/]"
        table.add_row(mark, finding.subject, finding.detail, finding.cure)
    Console(highlight=False).print(table)
