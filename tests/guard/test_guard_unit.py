"""The guard as a unit of systemd's: `nefia guard`, and the two unit files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nefia.errors import EXIT_USAGE
from nefia.guard.protocol import PATIENCE_SECONDS, SOCKET_NAME
from nefia.services.guard_client import UNIT_ONLY
from nefia.units import parse_duration
from tests.guard.guard_driver import WAIT_SECONDS

PACKAGING = Path(__file__).parents[2] / "packaging"


def unit(name: str) -> dict[str, str]:
    lines = (PACKAGING / name).read_text().splitlines()
    settings = [line for line in lines if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in settings)


def command(tmp_path: Path, services: list[dict[str, object]]) -> list[str]:
    config = tmp_path / "nefia.yaml"
    config.write_text(json.dumps({"services": services}))
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state")]
    return [sys.executable, "-m", "nefia", *options, "guard"]


def test_it_is_ready_once_it_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_SECONDS)
        services: list[dict[str, object]] = [{"name": "app", "kind": "command", "run": ["true"]}]
        guard = subprocess.Popen(
            command(tmp_path, services),
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.PIPE,
        )
        with guard:
            assert manager.recv(100) == b"READY=1"
            assert (tmp_path / "state" / SOCKET_NAME).is_socket()
            guard.send_signal(signal.SIGTERM)
            assert guard.wait(WAIT_SECONDS) == 0


def test_a_wrong_configuration_ends_with_the_status_that_is_not_restarted(tmp_path: Path) -> None:
    wrong: list[dict[str, object]] = [{"name": "app", "kind": "command"}]
    done = subprocess.run(command(tmp_path, wrong), capture_output=True, text=True)
    assert (
        done.returncode
        == EXIT_USAGE
        == int(unit("nefia-guard.service")["RestartPreventExitStatus"])
    )
    assert "Traceback" not in done.stderr


def test_the_units_fit_together() -> None:
    daemon, guard = unit("nefia.service"), unit("nefia-guard.service")
    for order in ("Wants", "After"):
        assert "nefia-guard.service" in daemon[order].split()
    assert "Requires" not in daemon
    assert daemon["Environment"] == f"{UNIT_ONLY}=unit"
    assert guard["Type"] == "notify"
    assert guard["KillMode"] == "mixed"
    assert guard["LimitMEMLOCK"] == "infinity"
    assert parse_duration(guard["TimeoutStartSec"].replace("min", "m")) > PATIENCE_SECONDS
    assert "CAP_IPC_LOCK" in guard["CapabilityBoundingSet"].split()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_them(tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("nefia.service", "nefia-guard.service")]
    for copy in copies:
        text = (PACKAGING / copy.name).read_text()
        copy.write_text(text.replace("/usr/local/bin/nefia", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
