"""Three, or any number of, real nefia daemons on loopback, with the default configuration."""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nefia.admin.client import AdminClient
from nefia.cli.bench import Calls, Pushes
from nefia.cli.load import Exchange, Load, Plan
from nefia.state.records import TaskState
from tests.end_to_end.cluster import Daemon, new_cluster

QUEUE = "benchmark"
ENTRIES_IN_FLIGHT = 8
"""Few, since changes that wait together share an entry."""
MAX_GROWTH_RUNS = 100
FILL_BATCH = 500
FILL_BYTES = 256
FILL_IN_FLIGHT = 4


class NefiaCluster:
    """`raft` are settings other than the defaults, as in nefia.yaml."""

    def __init__(self, directory: Path, nodes: int = 3, raft: dict[str, Any] | None = None) -> None:
        self._cluster = new_cluster(directory, nodes, raft=raft)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._cluster)
            self._cluster.form()
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
        return [daemon.pid for daemon in self._cluster.daemons]

    @property
    def leader(self) -> Daemon:
        return self._cluster.wait_leader()

    @property
    def follower(self) -> Daemon:
        leader = self.leader
        return next(daemon for daemon in self._cluster.daemons if daemon is not leader)

    @property
    def changes(self) -> int:
        """How many tasks the leader has taken up since it was made."""
        queues = self.leader.call("queue_stats", queue=QUEUE)["queues"]
        return sum(queues[QUEUE][state.value] for state in TaskState)

    def status_seconds(self, calls: int) -> float:
        """The median time in which the leader says how it is."""
        leader, taken = self.leader, []
        with AdminClient(leader.socket) as client:
            for _ in range(calls):
                begun = time.perf_counter()
                client.call("status")
                taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    def lengthen_log(self, entries: int) -> None:
        """Until the log has so many, with changes that leave the state as large as it was."""
        session = self.leader.call("session_open", host="h")["session"]["id"]
        line = b'{"action":"session_touch","seq":%%d,"id":"%b"}\n' % session.encode()
        self._grow(
            lambda number: line % number,
            ENTRIES_IN_FLIGHT,
            lambda: entries - self.leader.status()["last_index"],
        )

    def fill(self, tasks: int) -> None:
        """Until there are so many, all of them pending, in entries of many each."""
        pushes = Pushes(QUEUE, FILL_BYTES, FILL_BATCH, forward=False)
        self._grow(
            pushes.line(), FILL_IN_FLIGHT, lambda: math.ceil((tasks - self.changes) / FILL_BATCH)
        )

    def _grow(
        self, line: Callable[[int], bytes], in_flight: int, missing: Callable[[], int]
    ) -> None:
        """Send requests until none is missing, to whoever leads."""
        for _ in range(MAX_GROWTH_RUNS):
            if (count := missing()) <= 0:
                return
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self.leader.socket))
                Load(connection, Calls(line), Plan(in_flight, count)).run()
        raise AssertionError(f"{missing()} requests are missing still")

    def connect(self, payload_bytes: int) -> tuple[socket.socket, Exchange]:
        pushes = Pushes(QUEUE, payload_bytes, batch=1, forward=False)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.leader.socket))
        return connection, Calls(pushes.line())
