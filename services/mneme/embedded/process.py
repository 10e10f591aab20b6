"""Child processes that never outlive their parent, and the account that a database runs as under root."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from mneme.embedded.errors import EmbeddedError

_ACCOUNT = "pgserver"
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.005
_ORPHAN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, safe against the reuse of its number."""

    pid: int
    created: float


@dataclass(frozen=True, slots=True)
class Account:
    """A system user."""

    name: str
    uid: int
    gid: int


def is_root() -> bool:
    """Whether this process runs as root, which PostgreSQL refuses to do."""
    return os.geteuid() == 0


def database_account() -> Account | None:
    """The user a database runs as: made when missing under root, None (the current one) otherwise.

    Raises:
        EmbeddedError: The user is missing and cannot be made.
    """
    if not is_root():
        return None
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        _create_account()
        entry = pwd.getpwnam(_ACCOUNT)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def check_searchable(path: Path, account: Account) -> None:
    """Returns when an account may pass through all folders down to `path`; else names the first shut one."""
    for folder in (*reversed(path.parents), path):
        if not _may_enter(folder, account):
            mode = f"{folder.stat().st_mode & 0o777:04o}"
            raise EmbeddedError(
                f"the database runs as user {account.name}, who may not enter {folder} (mode {mode}): "
                f"name another data folder with --data, or run `chmod o+x {folder}`"
            )


def is_searchable(path: Path, account: Account) -> bool:
    """Whether an account may pass through all folders down to `path`."""
    return all(_may_enter(folder, account) for folder in (*path.parents, path))


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Starts a child that gets `death_signal` when the calling thread ends, however it ends.

    Args:
        command: Program and arguments.
        log: File that takes its output; what an earlier run wrote is replaced.
        account: Who it runs as; None for the current user.
        death_signal: What makes it stop in an orderly way.
    """
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        try:
            return subprocess.Popen(  # noqa: S603 - programs of the installed wheels, no shell
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                # Ctrl-C on the terminal is for the parent, which stops its children in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(death_signal),  # noqa: PLW1509 - only system calls, prepared beforehand
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except PermissionError as error:
            name = account.name if account else pwd.getpwuid(os.geteuid()).pw_name
            raise EmbeddedError(f"{command[0]} cannot be run as user {name}: {error.strerror}") from error


def identify(child: subprocess.Popen[bytes]) -> Identity:
    """The lasting identity of a child."""
    try:
        return Identity(child.pid, psutil.Process(child.pid).create_time())
    except psutil.NoSuchProcess:
        return Identity(child.pid, 0.0)


async def stop(child: subprocess.Popen[bytes], signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """Ends a child: sends each signal and waits its seconds, then kills."""
    for number, seconds in signals:
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await until(lambda: child.poll() is not None, seconds)
    if child.poll() is None:
        child.kill()
        await until(lambda: child.poll() is not None, _ORPHAN_SECONDS)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns when the condition holds; raises TimeoutError when it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - another process's state has no event
            await asyncio.sleep(_POLL_SECONDS)


def end_orphan(identity: Identity) -> None:
    """Ends a store process whose parent is gone, if the number still belongs to it."""
    try:
        orphan = psutil.Process(identity.pid)
        if abs(orphan.create_time() - identity.created) < 0.05:
            _end(orphan)
    except psutil.NoSuchProcess:
        return


def end_all_in(folder: Path, leader: int) -> None:
    """Ends all processes that work in a folder: the leader in an orderly way, the others by force if they stay."""
    inside = [one for one in psutil.process_iter() if _works_in(one, folder)]
    for one in inside:
        if one.pid == leader:
            _end(one)
    for one in inside:
        if not _gone(one):
            one.kill()
            _gone(one)


def _works_in(one: psutil.Process, folder: Path) -> bool:
    try:
        return one.cwd() == os.path.realpath(folder)
    except psutil.Error:
        return False


def _end(orphan: psutil.Process) -> None:
    # SIGINT is PostgreSQL's fast shutdown, and ends Redis as well.
    orphan.send_signal(signal.SIGINT)
    if not _gone(orphan):
        for member in (*orphan.children(recursive=True), orphan):
            member.kill()
        _gone(orphan)


def _gone(orphan: psutil.Process) -> bool:
    """Waits for the end of a process that is not a child; one that nobody has reaped yet is gone as well."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def run_as(account: Account | None, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end and returns its output."""
    return subprocess.run(  # noqa: S603 - programs of the installed wheels, no shell
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd="/",
        env=_environment(),
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def output(log: Path) -> str:
    """What a child has written so far."""
    return log.read_text(encoding="utf-8", errors="replace")


def _environment() -> dict[str, str]:
    # PostgreSQL obeys many variables (PGDATA, PGOPTIONS, locale): it gets none of the caller's.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, number.value, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def _may_enter(folder: Path, account: Account) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _create_account() -> None:
    program = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    message = f"PostgreSQL does not run as root, and the system user {_ACCOUNT} for it cannot be made"
    if program is None:
        raise EmbeddedError(f"{message}: there is no useradd; run as a normal user instead")
    made = run_as(None, [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT])
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while made.returncode != 0 and not _account_exists() and time.monotonic() < deadline:
        # Another start may hold the password file's lock at this moment.
        time.sleep(0.1)
        made = run_as(None, [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT])
    if not _account_exists():
        raise EmbeddedError(f"{message}: {made.stdout.strip()}; run as a normal user instead")


def _account_exists() -> bool:
    try:
        pwd.getpwnam(_ACCOUNT)
    except KeyError:
        return False
    return True
