"""The embedded stores: paths of all kinds, crashes, restarts, and messages that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

import mneme
from mneme.embedded import Embedded, EmbeddedError, process

_CHILD = """
import asyncio, sys
from pathlib import Path
from mneme.embedded import Embedded

async def main():
    async with Embedded.start(Path(sys.argv[1])) as stores:
        print(stores.owner_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def running_elsewhere(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The stores of a data folder in a process of their own, and the owner's URL."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mneme.__path__[0]).parent)}
    command = [sys.executable, "-c", _CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def store_processes(path: Path) -> list[psutil.Process]:
    noted = json.loads((path / "processes.json").read_text(encoding="utf-8"))["children"]
    return [psutil.Process(child["pid"]) for child in noted]


def wait_for_end(processes: list[psutil.Process]) -> None:
    limit = time.monotonic() + 10
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes):
        assert time.monotonic() < limit, "a store outlived its parent"
        time.sleep(0.01)


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize(
    "name", ["plain", "with space", 'o\'hara "quoted"', "数据 文件夹", "comma, comma", "a" * 120, "100%", "#hash?&="]
)
async def test_stores_start_again_on_any_path_with_all_their_data(data_path: Path, name: str) -> None:
    async with Embedded.start(data_path / name) as stores:
        execute(stores.owner_url, "CREATE TABLE kept AS SELECT '坚果' AS word")
    async with Embedded.start(data_path / name) as stores:
        assert execute(stores.owner_url, "SELECT word FROM kept") == [("坚果",)]
        with redis.Redis.from_url(stores.redis_url) as client:
            assert client.set("key", "value")
    assert not (data_path / name / "processes.json").exists()


async def test_commits_are_safe_and_text_is_unicode(data_path: Path) -> None:
    async with Embedded.start(data_path) as stores:
        query = "SELECT current_setting('fsync'), current_setting('server_encoding'), lower('ÄÉ')"
        assert execute(stores.owner_url, query) == [("on", "UTF8", "äé")]


async def test_the_log_keeps_no_text_and_no_reader(data_path: Path) -> None:
    async with Embedded.start(data_path) as stores:
        execute(stores.owner_url, "CREATE TABLE secret (word text UNIQUE)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            execute(stores.owner_url, "INSERT INTO secret VALUES ('allergic to nuts'), ('allergic to nuts')")
        log = data_path / "postgres.log"
        assert "duplicate key" in process.output(log)
        assert "nuts" not in process.output(log)
        assert log.stat().st_mode & 0o077 == 0


async def test_an_ephemeral_folder_is_gone_at_the_end() -> None:
    async with Embedded.start(ephemeral=True) as stores:
        assert stores.data_dir.is_dir()
    assert not stores.data_dir.exists()


async def test_a_killed_parent_leaves_no_process_and_no_damage(data_path: Path) -> None:
    with running_elsewhere(data_path) as (parent, url):
        execute(url, "CREATE TABLE kept AS SELECT 1 AS number")
        stores = store_processes(data_path)
        assert len(stores) == 2
        parent.send_signal(signal.SIGKILL)
        wait_for_end(stores)
    async with Embedded.start(data_path) as again:
        assert execute(again.owner_url, "SELECT number FROM kept") == [(1,)]


async def test_a_start_right_after_a_kill_waits_for_the_old_stores(data_path: Path) -> None:
    with running_elsewhere(data_path) as (parent, url):
        execute(url, "CREATE TABLE kept AS SELECT 1 AS number")
        parent.kill()
        parent.wait()
        async with Embedded.start(data_path) as again:
            assert execute(again.owner_url, "SELECT number FROM kept") == [(1,)]


async def test_killed_stores_recover(data_path: Path) -> None:
    with running_elsewhere(data_path) as (parent, url):
        execute(url, "CREATE TABLE kept AS SELECT 1 AS number")
        stores = store_processes(data_path)
        parent.kill()
        for one in stores:
            one.kill()
        wait_for_end(stores)
    async with Embedded.start(data_path) as again:
        assert execute(again.owner_url, "SELECT number FROM kept") == [(1,)]


async def test_a_foreign_process_with_the_old_number_is_left_alone(data_path: Path) -> None:
    async with Embedded.start(data_path):
        pass
    mark = data_path / "postgres" / "postmaster.pid"
    mark.write_text(f"{os.getpid()}\n/elsewhere\n0\n5432\n\n\n\nready\n", encoding="utf-8")
    note = {"children": [{"pid": os.getpid(), "created": 1.0}], "socket_dir": str(data_path / "run")}
    (data_path / "processes.json").write_text(json.dumps(note), encoding="utf-8")
    async with Embedded.start(data_path) as stores:
        assert execute(stores.owner_url, "SELECT 1") == [(1,)]


async def test_a_half_made_cluster_is_made_anew(data_path: Path) -> None:
    (data_path / "postgres.partial" / "base").mkdir(parents=True)
    (data_path / "processes.json").write_text('{"chil', encoding="utf-8")
    async with Embedded.start(data_path) as stores:
        assert execute(stores.owner_url, "SELECT 1") == [(1,)]


async def test_one_folder_serves_one_process(data_path: Path) -> None:
    with (
        running_elsewhere(data_path) as (holder, _),
        pytest.raises(EmbeddedError, match=f"process {holder.pid}:.*--data"),
    ):
        async with Embedded.start(data_path):
            pass


async def test_an_interrupted_block_stops_the_stores(data_path: Path) -> None:
    stores: list[psutil.Process] = []

    async def interrupted() -> None:
        async with Embedded.start(data_path):
            stores.extend(store_processes(data_path))
            await asyncio.Event().wait()

    task = asyncio.create_task(interrupted())
    await process.until(lambda: bool(stores), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for_end(stores)


async def test_a_folder_that_is_a_file_is_named(data_path: Path) -> None:
    await asyncio.to_thread(data_path.write_text, "not a folder", encoding="utf-8")
    with pytest.raises(EmbeddedError, match="cannot be used"):
        async with Embedded.start(data_path):
            pass


async def test_data_of_another_version_is_named(data_path: Path) -> None:
    (data_path / "postgres").mkdir(parents=True)
    (data_path / "postgres" / "PG_VERSION").write_text("15\n", encoding="ascii")
    with pytest.raises(EmbeddedError, match="data of PostgreSQL 15; this version runs 18"):
        async with Embedded.start(data_path):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the database as another user")
async def test_a_closed_folder_above_is_named() -> None:
    with tempfile.TemporaryDirectory() as closed, pytest.raises(EmbeddedError, match=f"may not enter {closed}"):
        async with Embedded.start(Path(closed) / "data"):
            pass


async def test_a_damaged_cluster_gives_the_servers_reason(data_path: Path) -> None:
    async with Embedded.start(data_path):
        pass
    (data_path / "postgres" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(EmbeddedError, match="pg_control"):
        async with Embedded.start(data_path):
            pass
