"""What the daemon tells a service manager, and that the unit file asks for what it gives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from nefia.daemon import STOP_SECONDS
from nefia.errors import EXIT_USAGE
from nefia.systemd import ServiceManager
from nefia.units import parse_duration
from tests.end_to_end.cluster import Daemon, free_ports, until

UNIT = Path(__file__).parents[2] / "packaging/nefia.service"
WATCHDOG_SECONDS = 0.6
PATIENCE_SECONDS = 20.0


class Manager:
    """A service manager's socket, as $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.received: list[str] = []

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def settle(self) -> None:
        """Take all that is there."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.received.append(self.next())
        self._socket.settimeout(PATIENCE_SECONDS)

    def is_silent(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self.next()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_SECONDS)
        return False

    def close(self) -> None:
        self._socket.close()


@contextmanager
def managed(
    place: Path, monkeypatch: pytest.MonkeyPatch, address: str, watchdog: float = 0
) -> Iterator[tuple[Daemon, Manager]]:
    manager = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    if watchdog:
        monkeypatch.setenv("WATCHDOG_USEC", str(round(watchdog * 1e6)))
    daemon = Daemon(place, "node-1", f"127.0.0.1:{free_ports(1)[0]}")
    try:
        daemon.start()
        yield daemon, manager
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.resume()
            daemon.kill()
        manager.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_and_stopping(place: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    """Ready once it answers and listens, though it waits to be added to a cluster."""
    address = f"@nefia-{os.getpid()}" if abstract else str(place / "notify")
    with managed(place, monkeypatch, address) as (daemon, manager):
        assert manager.next() == "READY=1"
        assert daemon.status()["state"] == "Uninitialized"
        host, port = daemon.address.rsplit(":", 1)
        socket.create_connection((host, int(port)), 5.0).close()
        assert daemon.stop() == 0
        assert manager.next() == "STOPPING=1"


def test_the_watchdog_is_fed_as_long_as_the_node_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with managed(place, monkeypatch, str(place / "notify"), WATCHDOG_SECONDS) as (daemon, manager):
        assert manager.next() == "READY=1"
        for _ in range(5):
            assert manager.next() == "WATCHDOG=1"
        daemon.pause()
        manager.settle()
        assert manager.is_silent(3 * WATCHDOG_SECONDS)
        daemon.resume()
        assert manager.next() == "WATCHDOG=1"


async def test_without_a_pulse_nothing_is_fed(
    place: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A timer of its own would go on beside a node that stands still."""
    manager = Manager(str(place / "notify"))
    beats, stuck = [], trio.Event()
    told = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})

    async def pulse() -> None:
        if trio.current_time() > 10:
            await stuck.wait()
        beats.append(trio.current_time())

    with trio.move_on_after(100):
        await told.feed_watchdog(pulse)
    manager.settle()
    assert manager.received == ["WATCHDOG=1"] * len(beats)
    assert len(beats) == 11, "once a second for ten seconds, then never again"
    manager.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/x"},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
async def test_no_watchdog_is_fed_that_is_not_there(environ: dict[str, str]) -> None:
    async def pulse() -> None:
        raise AssertionError

    await ServiceManager(environ).feed_watchdog(pulse)


def test_a_manager_that_is_gone_is_no_reason_to_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(place / "nobody"))
    daemon = Daemon(place, "node-1", f"127.0.0.1:{free_ports(1)[0]}")
    daemon.start()
    try:
        daemon.wait_ready()
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def test_the_unit_fits_the_daemon(place: Path) -> None:
    unit = settings()
    assert unit["Type"] == "notify"
    assert unit["NotifyAccess"] == "main"
    assert parse_duration(f"{unit['TimeoutStopSec']}s") > STOP_SECONDS
    assert int(unit["RestartPreventExitStatus"]) == EXIT_USAGE
    assert unit["ExecReload"].endswith("-HUP $MAINPID")
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"]
    assert unit["DeviceAllow"] == "/dev/net/tun rw"
    assert unit["ProtectKernelTunables"] == "no"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/nefia", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_configuration_ends_with_the_status_that_is_not_restarted(place: Path) -> None:
    daemon = Daemon(place, "node-1", "127.0.0.1:1")
    daemon.config.write_text("cluster: {enabled: true, node-id: x}")
    assert daemon.cli("daemon").returncode == EXIT_USAGE
    until(lambda: not daemon.socket.exists(), "nothing was started")
