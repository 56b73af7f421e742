"""What goes wrong in the daemon simulator, and how it is healed."""

from __future__ import annotations

from collections.abc import Callable

import trio

from nefia.raft.quorum import majority
from tests.node.cluster import Process
from tests.simulation.daemon_world import Pair, World

BUSY_STEPS = 30
"""A crash comes up to so many scheduler rounds after something has begun to happen."""
HOUR_MS = 3_600_000
SLOW_FACTOR = 20.0
CALM_DELAY = 0.005
"""Of the heartbeat timeout: the longest that a message takes between healed nodes."""


class Faults:
    """Each kind of the scenario comes again and again, after random times; `run` in a nursery.

    Cancelling that nursery ends what would end by itself, so `leave_a_quorum` heals all of it.
    """

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.random = world.random
        self._nursery = nursery
        self._kinds: dict[str, Callable[[], None]] = {
            "crash": lambda: self._crash(self._anyone()),
            "crash_leader": lambda: self._crash(self._a_leader()),
            "crash_in_write": self._crash_in_write,
            "power_cut": self._power_cut,
            "damage": self._damage,
            "pause": lambda: self._pause(self._anyone()),
            "pause_leader": lambda: self._pause(self._a_leader()),
            "partition": self._partition,
            "one_way": self._one_way,
            "isolate_leader": self._isolate_leader,
            "partial": self._partial,
            "reset": self._reset,
            "slow_network": self._slow_network,
            "disk_hang": self._disk_hang,
            "disk_fail": lambda: self._disk_fail(full=False),
            "disk_full": lambda: self._disk_fail(full=True),
            "slow_disk": self._slow_disk,
            "wall_jump": self._wall_jump,
            "leave": self._leave,
        }

    def start(self) -> None:
        for kind, interval in self.world.scenario.faults:
            self._nursery.start_soon(self._repeat, kind, interval)

    async def _repeat(self, kind: str, interval: float) -> None:
        while True:
            await trio.sleep(self.random.expovariate(1 / interval))
            for _ in range(self.random.randrange(BUSY_STEPS)):
                await trio.lowlevel.checkpoint()  # into the middle of what happens at this moment
            self.world.journal.count(f"fault {kind}")
            self._kinds[kind]()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await trio.sleep(seconds)
            action()

        self._nursery.start_soon(wait)

    def _anyone(self) -> str | None:
        return self.random.choice(sorted(self.world.up)) if self.world.up else None

    def _a_leader(self) -> str | None:
        leaders = self.world.leaders()
        return self.random.choice(leaders) if leaders else None

    # Processes.

    def _crash(self, name: str | None) -> None:
        if name is None and self.world.starting:
            name = self.random.choice(sorted(self.world.starting))
        if name is not None:
            self.world.journal.record(name, "crashes")
            self.world.bring_down(name)
            self.world.revive_later(name)

    def _crash_in_write(self) -> None:
        name = self._anyone()
        if name is not None:
            self.world.crash_in_write.add(name)

    def _power_cut(self) -> None:
        for name in sorted(self.world.up.keys() | self.world.starting.keys()):
            self._crash(name)

    def _damage(self) -> None:
        """Its next start finds it. Never more than others make up for."""
        name = self._anyone()
        if name is None or not self.world.scenario.changes or not self.world.can_spare(name):
            return
        disk = self.world.disks[name]
        if disk.entries:
            self._crash(name)
            disk.damaged = self.random.randint(1, disk.last_index)
            self.world.journal.record(name, f"entry {disk.damaged} is damaged")
            self.world.journal.count("entries damaged")

    def _pause(self, name: str | None) -> None:
        if name is None or name in self.world.paused:
            return
        process, seconds = self.world.up[name], self.random.uniform(0.05, 4.0)
        self.world.journal.record(name, f"is paused for {seconds:.3f} s")
        self.world.pause(name)
        self._later(seconds, lambda: self._resume(process))

    def _resume(self, process: Process) -> None:
        if self.world.up.get(process.name) is process:
            self.world.journal.record(process.name, "goes on")
            self.world.resume(process.name)

    def _leave(self) -> None:
        """SIGTERM, and a new start."""
        name = self._anyone()
        if name is not None and name not in self.world.paused:
            self._nursery.start_soon(self._leave_now, self.world.up[name])

    async def _leave_now(self, process: Process) -> None:
        self.world.journal.record(process.name, "leaves")
        await process.node.leave()
        if self.world.up.get(process.name) is process:
            self.world.bring_down(process.name)
            self.world.revive_later(process.name)

    def _wall_jump(self) -> None:
        name, jump = self.random.choice(self.world.names), self.random.randint(-HOUR_MS, HOUR_MS)
        if self.world.scenario.wall_jumps:
            self.world.journal.wall_offsets_ms[name] = jump

    # Networks.

    def _block(self, pairs: list[Pair]) -> None:
        seconds = self.random.uniform(0.2, 8.0)
        self.world.journal.record("-", f"cut for {seconds:.2f} s: {pairs}")
        block = self.world.block(pairs)
        self._later(seconds, lambda: self.world.unblock(block))

    def _partition(self) -> None:
        side = {name for name in self.world.names if self.random.random() < 0.5}
        self._block([(a, b) for a, b in self.world.pairs() if (a in side) != (b in side)])

    def _one_way(self) -> None:
        pairs = self.world.pairs()
        if pairs:
            self._block(self.random.sample(pairs, self.random.randint(1, len(pairs))))

    def _isolate_leader(self) -> None:
        leader = self._a_leader()
        pairs = [pair for pair in self.world.pairs() if leader in pair]
        kept = self.random.choice([0, 1, 2])  # the leader may only speak, or only hear
        self._block([pair for pair in pairs if not kept or pair[kept - 1] == leader])

    def _partial(self) -> None:
        pairs = [(a, b) for a, b in self.world.pairs() if a < b and self.random.random() < 0.4]
        self._block([*pairs, *((b, a) for a, b in pairs)])

    def _reset(self) -> None:
        pairs = self.world.pairs()
        if pairs:
            self.world.network.reset(*self.random.choice(pairs))

    def _slow_network(self) -> None:
        network, scenario = self.world.network, self.world.scenario
        network.jitter_seconds = SLOW_FACTOR * (scenario.delay + scenario.jitter)

        def over() -> None:
            network.jitter_seconds = scenario.jitter

        self._later(self.random.uniform(0.5, 5.0), over)

    # Disks.

    def _disk_hang(self) -> None:
        name = self._anyone()
        if name is None or name in self.world.paused:
            return
        disk, process = self.world.disks[name], self.world.up[name]
        self.world.journal.record(name, "its disk hangs")
        disk.stall()

        def over() -> None:
            if process.clock.running.is_set() or self.world.up.get(name) is not process:
                disk.release()

        self._later(self.random.uniform(0.2, 5.0), over)

    def _disk_fail(self, *, full: bool) -> None:
        name = self._anyone()
        if name is not None:
            self.world.journal.record(name, f"its disk {'is full' if full else 'fails'}")
            self.world.disks[name].fail(full=full, lands=self.random.random() < 0.5)

    def _slow_disk(self) -> None:
        name = self.random.choice(self.world.names)
        self.world.slow.add(name)
        self._later(self.random.uniform(1.0, 5.0), lambda: self.world.slow.discard(name))

    # Healing. The nursery of `start` is cancelled by now.

    def _calm(self) -> None:
        world = self.world
        world.blocks.clear()
        world.slow.clear()
        world.crash_in_write.clear()
        longest = world.scenario.options.heartbeat_timeout * CALM_DELAY
        world.network.delay_seconds = min(world.network.delay_seconds, longest)
        world.network.jitter_seconds = min(world.scenario.jitter, longest)
        world.apply_blocks()

    def _mend(self, name: str) -> None:
        world = self.world
        if name in world.damaged or world.disks[name].damaged is not None:
            world.damaged.discard(name)
            world.disks[name].damaged = None
            world.journal.record(name, "its disk was not damaged after all")
        world.kept_down.discard(name)
        if name in world.paused:
            world.resume(name)
        world.disks[name].release()
        world.disks[name].repair()
        world.revive_later(name, 0.0)

    def choose_quorum(self) -> set[str]:
        """A random smallest set with a majority of each configuration, undamaged if possible."""
        world = self.world
        order = list(world.names)
        self.random.shuffle(order)
        order.sort(key=lambda name: name in world.damaged or bool(world.disks[name].damaged))
        configurations = world.checkers.undecided_configurations()
        chosen: set[str] = set()
        for name in order:
            lacking = [c for c in configurations if len(chosen & c.voters) < majority(c.voters)]
            if any(name in c.voters for c in lacking):
                chosen.add(name)
        return chosen

    def leave_a_quorum(self) -> set[str]:
        """Heal a majority among its members; the others are and remain broken, each its way."""
        self._calm()
        chosen = self.choose_quorum()
        for name in self.world.names:
            if name in chosen:
                self._mend(name)
            else:
                ways = [self._dead, self._cut_off, self._partly, self._hung, self._frozen]
                self.random.choice(ways)(name)
        return chosen

    def _dead(self, name: str) -> None:
        self.world.kept_down.add(name)
        self.world.bring_down(name)

    def _cut_off(self, name: str) -> None:
        """Both ways, or it only speaks, or only hears."""
        kept = self.random.choice([0, 1, 2])
        pairs = [pair for pair in self.world.pairs() if name in pair]
        self.world.block([pair for pair in pairs if not kept or pair[kept - 1] == name])

    def _partly(self, name: str) -> None:
        """It reaches some of the healed majority only."""
        some = [peer for peer in self.world.names if peer != name and self.random.random() < 0.5]
        self.world.block([pair for peer in some for pair in ((name, peer), (peer, name))])

    def _hung(self, name: str) -> None:
        self.world.disks[name].stall()

    def _frozen(self, name: str) -> None:
        if name in self.world.up and name not in self.world.paused:
            self.world.pause(name)

    def heal_all(self) -> None:
        self._calm()
        for name in self.world.names:
            self._mend(name)
