"""`nefia watch` against a socket that streams."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.asking import run

WATCHING = {"event": "watching", "node_id": "n1", "state": "Leader", "term": 3, "leader_id": None}
CLAIMED = {
    "event": "queue",
    "change": "claimed",
    "task": {"id": "7", "queue": "mail", "host": "", "state": "leased", "worker": "w", "token": 9},
}
MEMBERS = {
    "event": "membership",
    "members": [{"id": "n1", "voter": True}, {"id": "n2", "voter": False}],
    "committed": True,
}
END = {"ok": False, "error": {"code": "shutting_down", "message": "stops", "changed": False}}


@contextmanager
def streaming(directory: Path, *lines: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """A daemon that answers one request with these lines, and closes; the requests that came."""
    asked: list[dict[str, Any]] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = json.loads(connection.makefile("rb").readline())
            asked.append(request)
            for each in lines:
                connection.sendall(json.dumps({"seq": request["seq"]} | each).encode() + b"\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "admin.sock"))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


def test_a_line_for_each_event(tmp_path: Path) -> None:
    with streaming(tmp_path, WATCHING, CLAIMED, MEMBERS, END) as asked:
        result = run("watch")
    assert asked == [{"action": "watch", "seq": 1}]
    lines = [text.split()[1:] for text in result.stdout.splitlines()]
    assert lines == [
        ["watching", "node_id=n1", "state=Leader", "term=3", "leader_id=-"],
        ["queue", "claimed", "id=7", "queue=mail", "state=leased", "worker=w", "token=9"],
        ["membership", "members=n1,n2", "(learner)", "committed=true"],
    ]
    assert result.exit_code == 1
    assert "shutting_down" in result.stderr


def test_json_is_an_object_a_line(tmp_path: Path) -> None:
    with streaming(tmp_path, WATCHING, CLAIMED, END) as asked:
        result = run("watch", "-o", "json", "--event", "queue", "--event", "role")
    assert asked[0]["events"] == ["queue", "role"]
    assert [json.loads(text) for text in result.stdout.splitlines()] == [WATCHING, CLAIMED]


@pytest.mark.parametrize("lines", [(), (WATCHING,)])
def test_a_connection_that_breaks_off(tmp_path: Path, lines: tuple[dict[str, Any], ...]) -> None:
    with streaming(tmp_path, *lines):
        result = run("watch")
    assert result.exit_code == 8
    assert "broke off" in result.stderr
