"""Clusters whose nodes are embedded in programs: a machine, and a service of the program's own."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from nefia.services.interface import Tenure
from nefia.services.leadership import Leadership
from nefia.services.program import Program
from tests.node.cluster import Cluster, Process
from tests.node.service_stubs import Life, Lives
from tests.state.words import Words


async def apply(cluster: Cluster, name: str, body: bytes, **params: Any) -> bytes:
    """What a client of `name` is answered. Raises the error of the answer."""
    command = b64encode(body).decode()
    answer = await cluster.ask(name, "apply", machine="words", command=command, **params)
    return b64decode(answer["result"])


def words(cluster: Cluster, name: str) -> list[bytes]:
    application = cluster.up[name].machine.application
    assert application is not None
    assert isinstance(application.machine, Words)
    return application.machine.words


class _Tasks:
    """What of a nursery a `Program` uses; its tasks end with the process."""

    def __init__(self, nursery: trio.Nursery, process: Process) -> None:
        self._nursery = nursery
        self._process = process

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(self._run, run, args)

    async def _run(self, run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        with trio.CancelScope() as scope:
            self._process.calls.add(scope)
            try:
                await run(*args)
            finally:
                self._process.calls.discard(scope)


class Programs:
    """Programs with a service that writes down its life on each node.

    `lingers`: how long it goes on when it is cancelled. `killed`: nodes whose process was ended.
    """

    def __init__(self, cluster: Cluster, nursery: trio.Nursery) -> None:
        self.lives = Lives()
        self.lingers = 0.0
        self.killed: list[str] = []
        self.fails_once = False
        self._cluster = cluster
        self._nursery = nursery
        cluster.started = self._started

    def _started(self, process: Process) -> None:
        async def serve(tenure: Tenure) -> None:
            await self._serve(process.name, tenure)

        def end() -> None:
            self.killed.append(process.name)
            for life in self.lives.running():
                if life.node == process.name:
                    life.end = trio.current_time()
            self._cluster.crash(process.name)

        tasks: Any = _Tasks(self._nursery, process)
        node = process.node
        node.services = Leadership(
            services=[Program("program", serve, tasks, end)],
            guard=None,
            replica=node.replica,
            clock=process.clock,
            chronicle=node.chronicle,
            cluster_id=lambda: node.cluster_id,
            hand_over=node.hand_over,
        )

    async def _serve(self, name: str, tenure: Tenure) -> None:
        life = Life(name, "program", tenure.term, trio.current_time())
        self.lives.lives.append(life)
        try:
            if self.fails_once:
                self.fails_once = False
                raise ValueError("not this time")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.lingers)
            life.end = min(life.end, trio.current_time())
            assert life.end < math.inf
