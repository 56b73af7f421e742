"""Clusters of real daemons, driven as an operator drives them: the command line and the socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Any, Self

from nefia.admin.client import AdminClient
from nefia.credentials import TlsFiles
from nefia.errors import NefiaError
from tests.certificates import bake, write

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.005
STOP_SECONDS = 15.0
CALL_SECONDS = 15.0

_random = SystemRandom()


def until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of `condition()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def free_ports(count: int) -> list[int]:
    """Below the ephemeral range, so that no outgoing connection takes one while a node is down."""
    while True:
        first = _random.randrange(15_000, 30_000)
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Daemon:
    """One node: its files, its process when it runs, and ways to talk to it.

    `prefix` is put before the daemon's command (such as `ip netns exec NAME`).
    """

    def __init__(
        self,
        directory: Path,
        node_id: str,
        address: str,
        *,
        raft: dict[str, Any] | None = None,
        prefix: tuple[str, ...] = (),
        peers: dict[str, str] | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.state_dir = directory / node_id
        self.config = directory / f"{node_id}.yaml"
        self.log = directory / f"{node_id}.log"
        self.prefix = prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster: dict[str, Any] = {
            "enabled": True,
            "node_id": node_id,
            "bind_addr": address,
            "advertise_addr": address,
            "peers": [{"id": peer, "address": at} for peer, at in (peers or {}).items()],
            "raft": raft or {},
        }
        if tls is not None:
            paths = {"cert": tls.cert, "key": tls.key, "ca": tls.ca}
            cluster |= {f"tls_{name}_file": str(path) for name, path in paths.items()}
            cluster["tls_enabled"] = True
        self.config.write_text(json.dumps({"cluster": cluster}))  # JSON is YAML

    @property
    def socket(self) -> Path:
        return self.state_dir / "admin.sock"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def argv(self, *arguments: str) -> list[str]:
        options = ["--config", str(self.config), "--state-dir", str(self.state_dir)]
        return [sys.executable, "-m", "nefia", *options, *arguments]

    def cli(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.run(self.argv(*arguments), timeout)

    @staticmethod
    def run(command: list[str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.program()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NO_COLOR": "1", "NEFIA_STATE_DIR": str(self.state_dir)},
            )

    def program(self) -> list[str]:
        """What runs the node."""
        return self.argv("daemon")

    def wait_ready(self) -> None:
        until(lambda: self.ask("status") is not None, f"{self.node_id} answers")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def call(self, action: str, timeout: float = CALL_SECONDS, **params: Any) -> dict[str, Any]:
        with AdminClient(self.socket) as client:
            return client.call(action, timeout=timeout, **params)

    def ask(self, action: str, timeout: float = 1.0, **params: Any) -> dict[str, Any] | None:
        """As `call`, but None where it fails."""
        try:
            return self.call(action, timeout=timeout, **params)
        except NefiaError:
            return None

    def status(self) -> dict[str, Any]:
        return self.call("status")

    @property
    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


class Cluster:
    """Daemons of one cluster. A context manager: leaves no process behind."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self.daemons = daemons

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for daemon in self.daemons:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            if error is not None and daemon.log.exists():
                print(f"=== {daemon.node_id}\n{daemon.log_text[-4000:]}")

    def form(self) -> Self:
        """Exactly SPEC 2: init on the first, daemon on each, add-peer for the others."""
        first, *others = self.daemons
        assert first.cli("cluster", "init").returncode == 0
        for daemon in self.daemons:
            daemon.start()
        for daemon in self.daemons:
            daemon.wait_ready()
        until(self.leader, "a leader")
        for daemon in others:
            added = first.cli(
                "cluster", "add-peer", "--id", daemon.node_id, "--addr", daemon.address
            )
            assert added.returncode == 0, added.stderr
        self.wait_healthy()
        return self

    def leader(self) -> Daemon | None:
        """The node that leads in the newest term that any node knows."""
        newest = max(
            ((status["term"], d) for d in self.running for status in [d.ask("status")] if status),
            key=lambda found: found[0],
            default=(0, None),
        )[0]
        for daemon in self.running:
            status = daemon.ask("status")
            if status and status["is_leader"] and status["term"] >= newest:
                return daemon
        return None

    @property
    def running(self) -> list[Daemon]:
        return [d for d in self.daemons if d.process is not None and d.process.poll() is None]

    def wait_leader(self) -> Daemon:
        found: Daemon = until(self.leader, "a leader")
        return found

    def wait_healthy(self) -> Daemon:
        """Until a leader sees every voter answering; returns it."""

        def healthy() -> Daemon | None:
            leader = self.leader()
            status = leader.ask("status") if leader else None
            return leader if status and status["healthy"] else None

        found: Daemon = until(healthy, "a leader with all voters answering")
        return found

    def wait_equal(self) -> str:
        """Until all running nodes have applied the same and hold the same; returns the digest."""

        def equal() -> str | None:
            statuses = [daemon.ask("status") for daemon in self.running]
            found = {(s["applied_index"], s["digest"]) for s in statuses if s}
            complete = all(statuses) and len(found) == 1
            return next(iter(found))[1] if complete else None

        digest: str = until(equal, "equal digests on all nodes")
        return digest


def new_cluster(
    directory: Path,
    count: int = 3,
    *,
    raft: dict[str, Any] | None = None,
    tls: bool = False,
    of: type[Daemon] = Daemon,
) -> Cluster:
    """Configured, not started. Every node but the first lists the first as a peer."""
    ports = free_ports(count)
    first = {"node-1": f"127.0.0.1:{ports[0]}"}
    return Cluster(
        [
            of(
                directory,
                f"node-{number}",
                f"127.0.0.1:{port}",
                raft=raft,
                peers=first if number > 1 else None,
                tls=certified(directory, f"node-{number}") if tls else None,
            )
            for number, port in enumerate(ports, 1)
        ]
    )


def certified(directory: Path, node_id: str, recipe: str = "both") -> TlsFiles:
    """A node's files, each time with a new certificate and key."""
    return write(directory / f"{node_id}-tls", bake(recipe, node_id))


@contextmanager
def paused(daemon: Daemon) -> Iterator[None]:
    daemon.pause()
    try:
        yield
    finally:
        daemon.resume()


def all_tasks(daemon: Daemon) -> list[dict[str, Any]]:
    """Every task that this node has applied, page by page."""
    tasks: list[dict[str, Any]] = []
    position: dict[str, Any] = {}
    while True:
        page = daemon.call("queue_list", consistency="local", limit=1000, **position)
        tasks += page["tasks"]
        if page["cursor"] is None:
            return tasks
        position = {"cursor": page["cursor"]}
