"""`nefia cluster why|watch` and `status --check`, against canned answers."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nefia.admin.why import explain
from nefia.errors import NoLeader
from tests.admin.statuses import BOTH, NONE, gone, peer, status
from tests.cli.asking import ask, run
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.test_cli_cluster import EVENT

MEMBERS = {
    "members": [
        {
            "id": "node-2",
            "address": "10.99.0.2:9700",
            "state": "Unreachable",
            "local": False,
            "voter": True,
            "reachable": False,
            "last_contact_ms": 4711,
            "lag": 12,
        }
    ],
    "source": "node-1",
    "note": None,
}
SICK = status([peer("node-2"), gone("node-3")], healthy=False)


def test_why_prints_sentences(tmp_path: Path) -> None:
    result, _ = ask(tmp_path, "status", SICK, "cluster", "why")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == explain(SICK)


def test_why_for_programs(tmp_path: Path) -> None:
    result, _ = ask(tmp_path, "status", SICK, "cluster", "why", "-o", "json")
    assert json.loads(result.stdout) == {"why": explain(SICK), "evidence": SICK["evidence"]}


def test_why_of_an_earlier_daemon(tmp_path: Path) -> None:
    old = {name: value for name, value in SICK.items() if name != "evidence"}
    result, _ = ask(tmp_path, "status", old, "cluster", "why")
    assert result.exit_code == 5
    assert "newer_format" in result.stderr


def test_check_of_a_sound_cluster(tmp_path: Path) -> None:
    result, _ = ask(tmp_path, "status", status(BOTH), "cluster", "status", "--check")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("form", ["table", "wide", "json"])
def test_check_of_a_degraded_one(tmp_path: Path, form: str) -> None:
    arguments = ("cluster", "status", "--check", "-o", form)
    result, _ = ask(tmp_path, "status", SICK, *arguments)
    assert result.exit_code == 3
    assert result.stderr == (
        "degraded: node-3 (10.99.0.3:9700) has been out of reach for 2m5s (nothing listens there)\n"
    )
    assert ("evidence" in result.stdout.lower()) == (form == "json")


def test_without_check_it_is_no_failure(tmp_path: Path) -> None:
    result, _ = ask(tmp_path, "status", SICK, "cluster", "status")
    assert (result.exit_code, result.stderr) == (0, "")


class TestWatch:
    def answers(self, **changes: Any) -> dict[str, Any]:
        return {"status": SICK, "members": MEMBERS, "history": {"events": [EVENT]}} | changes

    def test_without_a_terminal_it_shows_once(self, tmp_path: Path) -> None:
        with FakeDaemon(tmp_path, **self.answers()) as daemon:
            result = run("cluster", "watch")
        assert result.exit_code == 0, result.stderr
        for text in ("node-1", "degraded", "out of reach", "Unreachable", "4711", "broken fan"):
            assert (text in result.stdout) == (text != "broken fan"), text
        assert "voters: node-1, node-2" in result.stdout
        assert [request.action for request in daemon.requests] == ["status", "members", "history"]
        assert daemon.requests[-1].consistency == "local"

    def test_what_fails_is_shown_and_does_not_end_it(self, tmp_path: Path) -> None:
        with FakeDaemon(tmp_path, **self.answers(members=NoLeader("no leader is known"))):
            result = run("cluster", "watch")
        assert result.exit_code == 0
        assert "no_leader: no leader is known" in result.stdout
        assert "node-1" in result.stdout

    def test_without_a_daemon(self, tmp_path: Path) -> None:
        result = run("cluster", "watch")
        assert result.exit_code == 0
        assert "no_daemon" in result.stdout

    @pytest.mark.parametrize("interval", ["199ms", "0", "2m"])
    def test_the_rate_is_bounded(self, tmp_path: Path, interval: str) -> None:
        result = run("cluster", "watch", "--interval", interval)
        assert result.exit_code == 2

    def test_on_a_terminal_it_goes_on(self, tmp_path: Path) -> None:
        """Until Ctrl-C, and no more often than it says."""
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "nefia", "cluster", "watch", "--interval", "200ms"]
        with FakeDaemon(tmp_path, **self.answers()) as daemon:
            environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
            process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                start_new_session=True,
            )
            os.close(theirs)
            began = time.monotonic()
            shown = b""
            while len(daemon.requests) < 9 and time.monotonic() - began < 20:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 65536)
            took = time.monotonic() - began
            process.send_signal(2)
            assert process.wait(10) == 130
        os.close(ours)
        assert len(daemon.requests) >= 9
        assert took > 2 * 0.2
        assert b"out of reach" in shown


def test_the_words_without_a_leader(tmp_path: Path) -> None:
    shown = status([gone("node-2"), gone("node-3")], **NONE, healthy=False)
    result, _ = ask(tmp_path, "status", shown, "cluster", "status", "--check")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == "degraded: no leader is known"
