"""The workers of docs/worker.md, as they stand there, on a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from tests.end_to_end.cluster import Daemon, all_tasks, new_cluster, until
from tests.end_to_end.documents import program

DOCUMENT = "docs/worker.md"


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    with new_cluster(place, 1) as cluster:
        yield cluster.form().wait_leader()


@contextmanager
def running(argv: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker and all that it starts, for as long as the context lasts."""
    worker = subprocess.Popen(argv, env=os.environ | environment, start_new_session=True)
    try:
        yield worker
        assert worker.poll() is None, "the worker has ended by itself"
    finally:
        os.killpg(worker.pid, 9)
        worker.wait()


def finished(daemon: Daemon) -> list[dict[str, Any]]:
    return [task for task in all_tasks(daemon) if task["state"] not in ("pending", "leased")]


def test_in_python(daemon: Daemon, place: Path) -> None:
    script = place / "worker.py"
    script.write_text(program(DOCUMENT, "worker.py"))
    with running([sys.executable, str(script), str(daemon.socket), "squares"]):
        daemon.call("queue_push", queue="squares", payload={"number": 12})
        daemon.call("queue_push", queue="squares", payload={"no": 1}, max_attempts=1)
        daemon.call("queue_push", queue="other", payload={"number": 1})
        until(lambda: len(finished(daemon)) == 2, "both tasks are over")
        # It goes on while its daemon is away.
        daemon.kill()
        daemon.start()
        daemon.wait_ready()
        until(lambda: daemon.ask("queue_push", queue="squares", payload={"number": 5}), "a push")
        until(lambda: len(finished(daemon)) == 3, "the task is over")
    done, dead, last = finished(daemon)
    assert (done["state"], done["result"]) == ("done", {"squared": 144})
    assert (dead["state"], dead["error"]) == ("dead", "KeyError('number')")
    assert (last["state"], last["result"]) == ("done", {"squared": 25})


@pytest.mark.skipif(which("jq") is None, reason="the example needs jq")
def test_in_shell(daemon: Daemon, place: Path) -> None:
    tools = place / "bin"
    tools.mkdir()
    commands = {
        "worker.sh": program(DOCUMENT, "worker.sh"),
        "nefia": f'#!/bin/sh\nexec {sys.executable} -m nefia "$@"\n',
        "deliver": '#!/bin/sh\nread -r payload && [ "$payload" != \'"bad"\' ] && '
        'printf \'{"got": %s}\' "$payload"\n',
    }
    for name, text in commands.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "NEFIA_STATE_DIR": str(daemon.state_dir),
        "NO_COLOR": "1",
    }
    with running([str(tools / "worker.sh"), "mail"], **environment):
        daemon.call("queue_push", queue="mail", payload={"to": "a  b"})
        daemon.call("queue_push", queue="mail", payload="bad", max_attempts=1)
        until(lambda: len(finished(daemon)) == 2, "both tasks are over")
    done, dead = finished(daemon)
    assert (done["state"], done["result"]) == ("done", {"got": {"to": "a  b"}})
    assert (dead["state"], dead["error"]) == ("dead", "deliver ended with 1")


def test_watching_from_the_command_line(daemon: Daemon) -> None:
    """Not in the document, but a worker's operator does it."""
    argv = daemon.argv("watch", "-o", "json", "--event", "queue")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        assert (first["event"], first["state"]) == ("watching", "Leader")
        daemon.call("session_open", host="web")
        daemon.call("queue_push", queue="mail", payload=1)
        pushed = json.loads(watch.stdout.readline())
        assert (pushed["change"], pushed["task"]["queue"]) == ("pushed", "mail")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130
