"""PySyncObj: another Raft in Python. Its journal is a mapped file that is never synced."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.processes import HOST, Servers
from nefia.cli.load import Exchange
from nefia.errors import Internal, NefiaError
from tests.end_to_end.cluster import free_ports, until

DEFAULT_TICK_SECONDS = 0.05
DEFAULT_APPEND_SECONDS = 0.1
STATUS_SECONDS = 2.0


class Puts:
    """An `Exchange` of lines with `pysyncobj_node`."""

    def __init__(self, payload_bytes: int) -> None:
        self.error: NefiaError | None = None
        self.refused = 0
        self._value = b" " + b"x" * payload_bytes + b"\n"
        self._begun = b""

    def request(self, number: int) -> bytes:
        return b"%d" % number + self._value

    def owed(self) -> bytes:
        return b""

    def feed(self, data: bytes) -> list[int]:
        *lines, self._begun = (self._begun + data).split(b"\n")
        return [number for number in map(self._read, lines) if number is not None]

    def _read(self, line: bytes) -> int | None:
        number, _, reason = line.partition(b" ")
        if not reason:
            return int(number)
        self.refused += 1
        self.error = self.error or Internal(f"PySyncObj refused a change: {reason.decode()}")
        return None


class PySyncObjCluster:
    """`tick_seconds`: how long its loop waits for the network before it looks at what to send."""

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty if it is there."""
        return "" if find_spec("pysyncobj") else "pip install pysyncobj"

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        tick_seconds: float = DEFAULT_TICK_SECONDS,
        append_seconds: float = DEFAULT_APPEND_SECONDS,
    ) -> None:
        ports = free_ports(2 * nodes)
        self._clients = ports[:nodes]
        peers = [f"{HOST}:{port}" for port in ports[nodes:]]
        self._servers = Servers(
            directory,
            [
                [
                    sys.executable,
                    "-m",
                    "benchmarks.peers.pysyncobj_node",
                    f"--own={own}",
                    f"--others={','.join(peer for peer in peers if peer != own)}",
                    f"--port={port}",
                    f"--directory={directory / str(port)}",
                    f"--tick={tick_seconds}",
                    f"--append-period={append_seconds}",
                ]
                for own, port in zip(peers, self._clients, strict=True)
            ],
        )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._servers)
            until(self._leader, "PySyncObj has a leader that is ready")
            self._running = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, trace)

    @property
    def pids(self) -> Sequence[int]:
        return self._servers.pids

    @property
    def changes(self) -> int:
        """How many entries the leader has applied since it was made."""
        leader: int = until(self._leader, "PySyncObj has a leader")
        return int(self._status(leader)["applied"])

    def connect(self, payload_bytes: int) -> tuple[socket.socket, Exchange]:
        leader: int = until(self._leader, "PySyncObj has a leader")
        connection = socket.create_connection((HOST, leader))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, Puts(payload_bytes)

    def _leader(self) -> int | None:
        """The client port of the leader, once it is ready."""
        for port in self._clients:
            status = self._status(port)
            if status.get("is_leader") and status.get("is_ready"):
                return port
        return None

    @staticmethod
    def _status(port: int) -> dict[str, Any]:
        try:
            with socket.create_connection((HOST, port), timeout=STATUS_SECONDS) as connection:
                connection.sendall(b"status\n")
                return dict(json.loads(connection.makefile("rb").readline()))
        except (OSError, ValueError):
            return {}
