"""The data folder: where it is, who holds it, and what a crashed run left in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_data_path

from mneme.embedded import process
from mneme.embedded.errors import EmbeddedError

SYSTEM_DATA_DIR = Path("/var/lib/mneme")
_SOCKET_PATH_BYTES = 100  # the kernel's limit is 107; the longest name of ours and PostgreSQL's lock file stay below
_PREFIX = "mneme-"
_ABANDONED_SECONDS = 60
_LONGEST_SOCKET_NAME = ".s.PGSQL.5432"
_FREE_BYTES_NEW = 200 * 1024 * 1024
_FREE_BYTES_AGAIN = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Leavings:
    """What a run writes down so that the next one can clean up after its crash."""

    children: list[process.Identity]
    """Store processes that were started."""
    socket_dir: str
    """Folder of their sockets."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A data folder that this process alone holds."""

    path: Path
    socket_dir: Path
    account: process.Account | None
    """Who the database runs as; None for the current user."""

    @property
    def postgres(self) -> Path:
        """Folder of the database cluster."""
        return self.path / "postgres"

    def note(self, children: list[process.Identity]) -> None:
        """Writes down which processes run, for the next start after a crash."""
        state = {"children": [asdict(child) for child in children], "socket_dir": str(self.socket_dir)}
        _state_file(self.path).write_text(json.dumps(state), encoding="utf-8")


def default_data_dir() -> Path:
    """The folder used unless one is named: `/var/lib/mneme` for root, else the user's own data folder."""
    if process.is_root():
        return SYSTEM_DATA_DIR
    path = user_data_path("mneme", appauthor=False)
    if not path.is_absolute():
        raise EmbeddedError("the user has no home folder: name a data folder with --data")
    return path


@contextlib.contextmanager
def hold(path: Path | None) -> Iterator[DataFolder]:
    """Holds a data folder, made when missing, and cleans up what a crashed run left.

    Args:
        path: The folder; None for a temporary one that is removed at the end.

    Raises:
        EmbeddedError: Another process holds it, or it cannot be written, entered or filled.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = _temporary(stack) if path is None else path.expanduser().absolute()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(_locked(folder))
            _clean_up(folder)
            _check_space(folder)
            account = process.database_account()
            if account is not None:
                if not process.is_searchable(folder, account):
                    # The database's own user must pass through; what is secret in here protects itself.
                    folder.chmod(folder.stat().st_mode | 0o001)
                process.check_searchable(folder, account)
            socket_dir = _socket_dir(folder, account, stack)
        except OSError as error:
            where = f"the data folder {path}" if path else "the folder for temporary files"
            raise EmbeddedError(f"{where} cannot be used: {error.strerror} ({error.filename})") from error
        yield DataFolder(folder, socket_dir, account)
        with contextlib.suppress(OSError):
            _state_file(folder).unlink(missing_ok=True)


def _temporary(stack: contextlib.ExitStack) -> Path:
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove_abandoned() -> None:
    """Removes temporary data folders of killed runs: those of this user whose lock is free."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with contextlib.suppress(OSError, EmbeddedError):
            status = lock.stat()
            # A young one may belong to a start that has not locked it yet.
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                with _locked(lock.parent):
                    _clean_up(lock.parent)
                    shutil.rmtree(lock.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            message = f"the data folder {folder} is in use by process {holder}: stop it or name another with --data"
            raise EmbeddedError(message) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _clean_up(folder: Path) -> None:
    """Ends store processes that outlived a killed run, which our holding the lock proves dead."""
    leavings = _read_state(folder)
    if leavings is None:
        return
    for child in leavings.children:
        process.end_orphan(child)
    socket_dir = Path(leavings.socket_dir)
    if socket_dir != folder / "run" and socket_dir.name.startswith(_PREFIX):
        shutil.rmtree(socket_dir, ignore_errors=True)
    _state_file(folder).unlink(missing_ok=True)


def _read_state(folder: Path) -> Leavings | None:
    try:
        state = json.loads(_state_file(folder).read_text(encoding="utf-8"))
        return Leavings([process.Identity(**child) for child in state["children"]], state["socket_dir"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # Half written by a run that was killed before it had started anything.
        return None


def _state_file(folder: Path) -> Path:
    return folder / "processes.json"


def _check_space(folder: Path) -> None:
    needed = _FREE_BYTES_AGAIN if (folder / "postgres").exists() else _FREE_BYTES_NEW
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"only {free >> 20} MiB are free at {folder}, and at least {needed >> 20} MiB are needed"
        raise EmbeddedError(message)


def _socket_dir(folder: Path, account: process.Account | None, stack: contextlib.ExitStack) -> Path:
    """A folder for the database's user alone; a short temporary one where the data folder's path is long."""
    socket_dir = folder / "run"
    too_long = len(os.fsencode(socket_dir / _LONGEST_SOCKET_NAME)) > _SOCKET_PATH_BYTES
    # PostgreSQL's clients take a comma for the start of another host.
    if too_long or "," in os.fspath(socket_dir):
        socket_dir = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
        stack.callback(shutil.rmtree, socket_dir, ignore_errors=True)
    socket_dir.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(socket_dir, account.uid, account.gid)
    return socket_dir
