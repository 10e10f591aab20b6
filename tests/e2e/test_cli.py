"""The command line as a newcomer uses it: `mneme dev` in one terminal, `mneme chat` in another, and a restart."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import psutil
import pytest

MNEME = (sys.executable, "-m", "mneme")
LIMIT_SECONDS = 90


def run(*arguments: str, data: Path, check: bool = True) -> str:
    """Runs a command to its end; what it printed."""
    command = [*MNEME, *arguments, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def developing(data: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`mneme dev`, running inside the block and ended by Ctrl-C after it, unless it ended before."""
    process = subprocess.Popen(
        [*MNEME, "dev", "--data", str(data), "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    giving_up = Timer(LIMIT_SECONDS, process.kill)
    giving_up.start()
    try:
        wait_for_line(process, "Mneme is running")
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)
    finally:
        giving_up.cancel()
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}:\n{''.join(seen)}")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_memory_outlives_a_restart_of_everything(data_path: Path) -> None:
    with developing(data_path) as first:
        children = descendants(first)
        assert children, "PostgreSQL and Redis run as children"
        told = run("chat", "My name is Ann and I am allergic to nuts", data=data_path)
        assert "remembers" in told
        run("chat", "我叫小安，我住在杭州。", data=data_path)
    assert first.returncode == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with developing(data_path):
        assert "nuts" in run("chat", "--quiet", "What must I not eat?", data=data_path)
        assert "杭州" in run("chat", "--quiet", "我住在哪里？", data=data_path)
        findings = json.loads(run("doctor", "--json", data=data_path))
        assert {finding["verdict"] for finding in findings} <= {"ok", "warning"}


def test_a_killed_suite_leaves_nothing_behind_and_starts_again(data_path: Path) -> None:
    with developing(data_path) as first:
        children = descendants(first)
        run("chat", "My bicycle is called Rocinante.", data=data_path)
        first.kill()
        first.wait()
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with developing(data_path):
        assert "Rocinante" in run("chat", "--quiet", "What is my bicycle called?", data=data_path)


def test_a_store_that_dies_ends_the_suite_and_says_so(data_path: Path) -> None:
    with developing(data_path) as suite:
        postgres = next(child for child in psutil.Process(suite.pid).children() if child.name() == "postgres")
        postgres.kill()
        assert suite.stdout is not None
        shown = suite.stdout.read()
        assert suite.wait(LIMIT_SECONDS) == 1
    assert "postgres ended by itself" in shown
    with developing(data_path):
        pass


def test_a_taken_port_is_named_and_another_offered(data_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = run("dev", "--port", str(port), data=data_path, check=False)
        offered = re.search(r"--port (\d+)", shown)
        assert f"port {port} is taken" in shown
        assert offered
        assert int(offered[1]) != port


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("MNEME_MODELS__CHAT", "us.anthropic.claude-sonnet-4-6", "set MNEME_MODELS__BEDROCK_REGION"),
        ("MNEME_SERVER__METRICS_PORT", "", "MNEME_SERVER__METRICS_PORT"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_start_with_one_line(
    name: str, value: str, shown: str, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv(name, value or str(taken.getsockname()[1]))
        printed = run("dev", "--port", "0", data=data_path, check=False)
    assert shown in " ".join(printed.split())
    assert "Traceback" not in printed


def test_ctrl_c_at_the_prompt_ends_the_dialogue(data_path: Path) -> None:
    with developing(data_path):
        controller, terminal = pty.openpty()
        dialogue = subprocess.Popen(
            [*MNEME, "chat", "--data", str(data_path)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        shown = b""
        while "›".encode() not in shown:
            shown += os.read(controller, 1024)
        dialogue.send_signal(signal.SIGINT)
        assert dialogue.wait(LIMIT_SECONDS) == 130
        os.close(controller)
        os.close(terminal)


def test_a_second_suite_on_the_same_folder_is_refused_with_the_holders_id(data_path: Path) -> None:
    with developing(data_path) as first:
        shown = run("dev", "--port", "0", data=data_path, check=False)
        assert str(first.pid) in shown.replace("\n", "")
        assert "in use" in shown


def test_an_ephemeral_suite_leaves_no_files(data_path: Path) -> None:
    folder = data_path.parent
    environment = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(
        [*MNEME, "dev", "--ephemeral", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment,
    )  # fmt: skip
    giving_up = Timer(LIMIT_SECONDS, process.kill)
    giving_up.start()
    try:
        wait_for_line(process, "Mneme is running")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)
    finally:
        giving_up.cancel()
        process.kill()
        process.communicate()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["chat", "hello"], "start `mneme dev`"),
        (["serve", "--service", "nope"], "unknown service nope"),
        (["serve"], "MNEME_DATABASE__URL"),
        (["migrate"], "MNEME_DATABASE__OWNER_URL"),
        (["config", "nope"], "unknown section nope"),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(arguments: list[str], shown: str, data_path: Path) -> None:
    flags = ["--data", str(data_path)] if arguments[0] == "chat" else []
    done = subprocess.run(
        [*MNEME, *arguments, *flags], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 1
    assert shown in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEME_DATABASE__URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("MNEME_MODELS__OPENAI_API_KEY", "hunter2")
    monkeypatch.setenv("MNEME_MODELS__OPENAI_BASE_URL", "http://user:hunter2@localhost/v1")
    done = subprocess.run([*MNEME, "config"], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True)
    assert "MNEME_DATABASE__URL=" in done.stdout
    assert "hunter2" not in done.stdout
