"""A cluster of real nodes under faults: what `daemon_faults` and `daemon_clients` act upon."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import trio
from attrs import evolve

from nefia.admin.actions import SessionLifetimes
from nefia.errors import DataDamaged, DiskFailed, NefiaError
from nefia.raft.quorum import majority
from nefia.storage.memory import Disk
from tests.node.cluster import SETTINGS, Cluster, PausableClock, Process
from tests.node.service_stubs import ServiceCluster
from tests.simulation.daemon_checkers import Checkers
from tests.simulation.daemon_journal import NODE, Journal
from tests.simulation.daemon_network import SlowNetwork
from tests.simulation.daemon_scenario import Scenario
from tests.simulation.history import Json, Recorder

Pair = tuple[str, str]

SERVICES = ("first", "second")
APPLY_SECONDS = 2.0
TRANSPORT_SECONDS = 4.0
REVIVE_SECONDS = 0.1
"""How long after a failed start the next is tried."""
DAY_MS = 86_400_000
CRASH_SHARE = 0.9
"""Of a write's time: the latest that a crash in the middle of it comes."""


class RatedClock(PausableClock):
    """Runs faster or slower than the others' clocks, and began at another moment."""

    def __init__(self, rate: float, offset: float) -> None:
        super().__init__()
        self._rate = rate
        self._offset = offset

    def now(self) -> float:
        return trio.current_time() * self._rate + self._offset

    def _real(self, when: float) -> float:
        return (when - self._offset) / self._rate

    async def sleep_until(self, when: float) -> None:
        await super().sleep_until(self._real(when))

    def move_deadline(self, scope: trio.CancelScope, when: float) -> None:
        super().move_deadline(scope, self._real(when))


class World(Cluster):
    """`kept_down`: nodes that do not come back by themselves. `damaged`: that cannot.

    `blocks`: what is cut at present, one set of directed pairs a fault.
    """

    def __init__(self, nursery: trio.Nursery, scenario: Scenario, journal: Journal) -> None:
        settings = evolve(
            SETTINGS,
            options=scenario.options,
            apply_timeout=APPLY_SECONDS,
            transport_timeout=TRANSPORT_SECONDS,
            snapshots=scenario.snapshots,
        )
        super().__init__(nursery, seed=scenario.seed, settings=settings)
        self.scenario = scenario
        self.journal = journal
        self.random = Random(f"run {scenario.seed}")
        self.network = SlowNetwork(
            Random(f"network {scenario.seed}"), scenario.delay, scenario.jitter
        )
        self.net = self.network
        self.names = [f"n{number + 1}" for number in range(scenario.size)]
        self.addresses = {name: f"{name}:9700" for name in self.names}
        self.checkers = Checkers(journal, scenario.options.leader_lease)
        self.recorder = Recorder(trio.current_time)
        self.kept_down: set[str] = set()
        self.damaged: set[str] = set()
        self.slow: set[str] = set()
        self.crash_in_write: set[str] = set()
        self.blocks: list[frozenset[Pair]] = []
        self.starting: dict[str, trio.CancelScope] = {}
        self.nursery = nursery
        self._clocks = dict(zip(self.names, scenario.rates, strict=True))
        for name in self.names:
            self.new_disk(name)
        self.services = ServiceCluster(self, nursery, SERVICES)

    # Machines.

    def new_clock(self, name: str) -> PausableClock:
        return RatedClock(self._clocks[name], offset=1000.0 * (1 + self.names.index(name)))

    def new_disk(self, name: str) -> None:
        self.disks[name] = Disk(write_latency=partial(self._write_seconds, name))

    def _write_seconds(self, name: str) -> float:
        seconds = self.scenario.write_seconds * self.random.uniform(0.2, 2.0)
        if name in self.slow:
            seconds *= self.random.uniform(5, 50)
        if name in self.crash_in_write and name in self.up:
            self.crash_in_write.discard(name)
            share = self.random.uniform(0, CRASH_SHARE)
            self.nursery.start_soon(self._crash_after, self.up[name], seconds * share)
        return seconds

    async def _crash_after(self, process: Process, seconds: float) -> None:
        await trio.sleep(seconds)
        if self.up.get(process.name) is process:
            self.journal.record(process.name, "crashes within a write")
            self.bring_down(process.name)
            self.revive_later(process.name)

    # Processes.

    async def bring_up(self, name: str) -> None:
        """Unless it runs, is being started, or shall not or cannot run."""
        if name in self.up or name in self.starting or name in self.kept_down | self.damaged:
            return
        self.disks[name].release()
        self.disks[name].repair()
        scope = self.starting[name] = trio.CancelScope()
        token = NODE.set(name)
        try:
            with scope:
                peers = [peer for peer in self.names if peer != name]
                process = await self.start(name, peers=peers, address=self.addresses[name])
                process.actions.lifetimes = SessionLifetimes(DAY_MS, DAY_MS)
                self.journal.count("process starts")
                self.journal.record(name, "started")
        except DataDamaged as error:
            self.journal.record(name, f"refuses to run: {error.message}")
            self.journal.count("damaged logs refused")
            self.damaged.add(name)
        except DiskFailed as error:
            self.journal.record(name, f"could not start: {error.message}")
        finally:
            NODE.reset(token)
            del self.starting[name]

    def bring_down(self, name: str) -> None:
        """Dead at once, whatever it was doing, its start included."""
        if name in self.starting:
            self.starting[name].cancel()
            self.disks[name].crash(self.random)
        elif name in self.up:
            self.crash(name)

    def revive_later(self, name: str, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = self.random.uniform(0.02, 4.0)
        self.nursery.start_soon(self._revive, name, seconds)

    async def _revive(self, name: str, seconds: float) -> None:
        await trio.sleep(seconds)
        while name not in self.up and name not in self.kept_down | self.damaged:
            await self.bring_up(name)
            await trio.sleep(REVIVE_SECONDS)

    async def _run(
        self, process: Process, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]
    ) -> None:
        NODE.set(process.name)
        try:
            with process.scope:
                await process.node.run(listeners)
        except* DiskFailed:
            self.journal.record(process.name, "ends, since its disk has failed")
            self.journal.count("nodes ended by a failed disk")
            if self.up.get(process.name) is process:
                self.bring_down(process.name)
                self.revive_later(process.name)

    def _watch_leaderships(self, process: Process) -> None:
        super()._watch_leaderships(process)
        self.checkers.watch(process, trio.current_time())

    def leaders(self) -> list[str]:
        """Those that take themselves for the leader."""
        return [name for name in sorted(self.up) if self.up[name].raft.leader is not None]

    # The network.

    def block(self, pairs: Sequence[Pair]) -> frozenset[Pair]:
        """Nothing arrives any more from the first of each pair at the second."""
        block = frozenset(pairs)
        self.blocks.append(block)
        self.apply_blocks()
        return block

    def unblock(self, block: frozenset[Pair]) -> None:
        self.blocks = [other for other in self.blocks if other is not block]
        self.apply_blocks()

    def apply_blocks(self) -> None:
        self._cuts = set[Pair]().union(*self.blocks)
        self._apply_cuts()

    def pairs(self) -> list[Pair]:
        return [(one, other) for one in self.names for other in self.names if one != other]

    # Clients.

    async def call(
        self, name: str, client: str, action: str, args: dict[str, Json], patience: float
    ) -> Json | None:
        """What `name` answers, as on the socket; None if it does not. It becomes history."""
        number = self.recorder.called(client, action, args)
        said: Json | None = None
        with trio.move_on_after(patience):
            said = json.loads(await self.serve(name, {"action": action, **args}))
        if said is not None:
            self.recorder.answered(number, said)
        shown = "no answer" if said is None else "ok" if said["ok"] else said["error"]["code"]
        self.journal.record(client, f"{name} {action} {args.get('request_id', '')}: {shown}")
        self.journal.count("client calls")
        return said

    async def serve(self, name: str, request: dict[str, Any]) -> bytes:
        token = NODE.set(name)
        try:
            return await self._answer(name, json.dumps(request).encode())
        finally:
            NODE.reset(token)

    async def order(self, name: str, action: str, **params: Any) -> dict[str, Any]:
        """What an operator is answered. Raises the error of the answer."""
        answer = json.loads(await self.serve(name, {"action": action, **params}))
        if not answer["ok"]:
            raise NefiaError.from_json(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    # What may be lost.

    def named(self) -> set[str]:
        """Members of any configuration that is, or may yet be, in force."""
        return {node_id for c in self.checkers.undecided_configurations() for node_id in c.ids}

    def can_spare(self, name: str) -> bool:
        """Whether an undamaged majority of every configuration is left without `name`."""
        lost = self.damaged | {name} | {n for n, d in self.disks.items() if d.damaged is not None}
        return all(
            len(c.voters - lost) >= majority(c.voters)
            for c in self.checkers.undecided_configurations()
        )

    async def wait_for(self, condition: Callable[[], object], seconds: float) -> bool:
        """Whether `condition` came to hold."""
        with trio.move_on_after(seconds):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.02)
        return bool(condition())
