"""Services and guards of a kind that only writes down its life, for whole clusters in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import define, field

from nefia.clock import NodeClock
from nefia.config.services import CommandConfig, ServiceConfig
from nefia.errors import GuardLost, ServiceFailed
from nefia.services.interface import Tenure
from nefia.services.leadership import Leadership
from tests.node.cluster import Cluster, Process

ACKNOWLEDGE_SECONDS = 0.001


@define(eq=False)
class Life:
    """Of one service on one node, on the common clock. `end` is infinite while it lives."""

    node: str
    service: str
    term: int
    begin: float
    end: float = math.inf


@define(eq=False)
class Lives:
    """Of all services in the cluster."""

    lives: list[Life] = field(factory=list)

    def overlaps(self) -> list[tuple[Life, Life]]:
        """Pairs on different nodes that lived at the same time."""
        lives = sorted(self.lives, key=lambda life: life.begin)
        return [
            (one, other)
            for i, one in enumerate(lives)
            for other in lives[i + 1 :]
            if one.node != other.node and other.begin < one.end
        ]

    def running(self) -> list[Life]:
        return [life for life in self.lives if life.end == math.inf]


class StubService:
    """An external service. `broken`: why it cannot start. `stop_seconds`: what a stop takes."""

    def __init__(self, config: ServiceConfig, guard: StubGuard) -> None:
        self.config = config
        self.broken = ""
        self.start_seconds = 0.01
        self.stop_seconds = 0.01
        self.reloads = 0
        self.tenures: list[Tenure] = []
        self.life: Life | None = None
        self._guard = guard
        self._failure = trio.Event()

    async def start(self, tenure: Tenure) -> None:
        self.tenures.append(tenure)
        await trio.sleep(self.start_seconds)
        if self.broken:
            raise ServiceFailed(self.broken)
        self._guard.require_lease()
        self._failure = trio.Event()
        self.life = Life(self._guard.node, self.config.name, tenure.term, trio.current_time())
        self._guard.lives.lives.append(self.life)

    def fail(self) -> None:
        self.end()
        self._failure.set()

    async def failed(self) -> ServiceFailed:
        await self._failure.wait()
        return ServiceFailed(f"{self.config.name} has ended by itself")

    async def stop(self, reason: str) -> None:
        await trio.sleep(self.stop_seconds)
        self.fence()

    def fence(self) -> None:
        if self._guard.has_daemon():
            self.end()

    def take(self, config: ServiceConfig) -> None:
        self.config = config

    async def reload(self) -> None:
        self.reloads += 1

    def status(self) -> dict[str, Any]:
        return {}

    def end(self) -> None:
        if self.life is not None and self.life.end == math.inf:
            self.life.end = trio.current_time()


class StubGuard:
    """Ends everything at half of the stop budget after the lease, whatever the daemon does.

    That is its worst: a real one ends them as soon as its daemon's connection ends. `clock` is the
    machine's, which goes on while the daemon is paused.
    """

    def __init__(self, node: str, lives: Lives, names: tuple[str, ...], clock: NodeClock) -> None:
        self.node = node
        self.lives = lives
        self.clock = clock
        self.services = [
            StubService(CommandConfig(name=name, run=("true",), stop_timeout=2.0), self)
            for name in names
        ]
        self.on_lease: Callable[[float], None] = lambda lease_end: None
        self.lease_end = -math.inf
        self.has_daemon: Callable[[], bool] = lambda: True
        """A daemon that was killed tells it nothing any more."""
        self.refuses_next = False
        self.is_deaf = False
        """Whether renewals do not reach it."""
        self.begun: list[int] = []
        self._budget = 0.0
        self._begins = trio.Event()
        self._lost = trio.Event()
        self._back = trio.Event()
        self._back.set()

    async def run(self) -> None:
        """The process of its own: nothing that happens to the daemon stops it."""
        while True:
            while self.lease_end == -math.inf:
                await self._begins.wait()
            await self.clock.sleep_until(self.lease_end + self._budget / 2)
            if self.clock.now() >= self.lease_end + self._budget / 2:
                self.end_all()
                self._set_lease(-math.inf)

    def _set_lease(self, end: float) -> None:
        self.lease_end = end
        if end > -math.inf:
            self._begins.set()
        elif self._begins.is_set():
            self._begins = trio.Event()

    def require_lease(self) -> None:
        if self.clock.now() >= self.lease_end:
            raise ServiceFailed("the lease is over")

    def end_all(self) -> None:
        for service in self.services:
            service.end()

    def vanish(self) -> None:
        """kill -9; what it ran goes with it."""
        self.end_all()
        self._set_lease(-math.inf)
        self._back = trio.Event()
        self._lost.set()

    def return_(self) -> None:
        self._lost = trio.Event()
        self._back.set()

    # What the daemon calls.

    def configure(self, services: Sequence[ServiceConfig]) -> None:
        pass

    def service(self, config: ServiceConfig) -> StubService:
        return next(each for each in self.services if each.config is config)

    async def ready(self) -> None:
        await self._back.wait()

    async def begin(self, term: int, lease_end: float, stop_budget: float) -> None:
        await trio.sleep(ACKNOWLEDGE_SECONDS)
        if not self._back.is_set():
            raise GuardLost("there is no guard")
        if self.refuses_next:
            self.refuses_next = False
            raise GuardLost("it has ended that term")
        if self.clock.now() >= lease_end:
            raise GuardLost("that lease is over")
        self.end_all()
        self.begun.append(term)
        self._budget = stop_budget
        self._set_lease(lease_end)

    def renew(self, lease_end: float) -> None:
        is_told = self.has_daemon() and self._back.is_set() and not self.is_deaf
        runs = self.lease_end > -math.inf and self.clock.now() < self.lease_end
        if is_told and runs and lease_end > self.lease_end:
            self._set_lease(lease_end)
            self.on_lease(lease_end)

    def end(self, reason: str) -> None:
        if self.has_daemon():
            self.end_all()
            self._set_lease(-math.inf)

    async def ended(self) -> None:
        await trio.lowlevel.checkpoint()

    async def lost(self) -> GuardLost:
        await self._lost.wait()
        return GuardLost("the guard was killed")


class ServiceCluster:
    """A cluster whose nodes have services. `guards`: by node, as processes that outlive daemons."""

    def __init__(
        self, cluster: Cluster, nursery: trio.Nursery, names: tuple[str, ...] = ("a", "b")
    ) -> None:
        self.cluster = cluster
        self.lives = Lives()
        self.guards: dict[str, StubGuard] = {}
        self._names = names
        self._nursery = nursery
        cluster.started = self._started

    def _started(self, process: Process) -> None:
        guard = self.guards.get(process.name)
        if guard is None:
            guard = self.guards[process.name] = StubGuard(
                process.name, self.lives, self._names, self.cluster.new_clock(process.name)
            )
            self._nursery.start_soon(guard.run)
        guard.has_daemon = lambda: self.cluster.up.get(process.name) is process
        node = process.node
        node.services = Leadership(
            services=guard.services,
            guard=guard,
            replica=node.replica,
            clock=process.clock,
            chronicle=node.chronicle,
            cluster_id=lambda: node.cluster_id,
            hand_over=node.hand_over,
        )
