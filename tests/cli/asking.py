"""Running a command against a fake daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from nefia.cli.root import root

sys.path.insert(0, str(Path(__file__).parent))
from tests.cli.fake_daemon import FakeDaemon

TASK = {
    "id": "12",
    "queue": "default",
    "host": "",
    "payload": {"a": None},
    "priority": 0,
    "run_at": "2026-01-02T03:04:05.006Z",
    "attempt": 1,
    "state": "leased",
    "worker": "w",
    "token": 7,
    "lease_expires_at": "2026-01-02T03:04:35.006Z",
}


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(root, args, input=stdin, prog_name="nefia")


def ask(tmp_path: Path, action: str, answer: Any, *args: str, **options: Any) -> tuple[Result, Any]:
    """The command's result and the one request that it made."""
    with FakeDaemon(tmp_path, **{action: answer}) as daemon:
        result = run(*args, **options)
    assert len(daemon.requests) == 1, result.stderr
    return result, daemon.requests[0]
