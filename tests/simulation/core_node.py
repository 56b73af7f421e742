"""One simulated process: a `Raft`, its clock, its disk, and the driver that performs effects."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from nefia.errors import NefiaError
from nefia.raft.core import Raft
from nefia.raft.effects import (
    ConfigurationChanged,
    Effects,
    Fetch,
    HandedOver,
    Notice,
    ReadReady,
    SendSnapshot,
    Write,
)
from nefia.raft.entries import Entry, SnapshotMeta
from nefia.raft.messages import Message
from tests.simulation.core_disk import SimulatedDisk, StateSnapshot

if TYPE_CHECKING:
    from tests.simulation.core_simulator import Simulator

Result = TypeVar("Result")

TIMER_SLACK_SECONDS = 1e-6
"""Timers run out a little late, never early, whatever rounding does between clocks."""


def next_digest(digest: int, entry: Entry) -> int:
    """The state machine: a hash over all commands, in order."""
    return crc32(repr((digest, entry.index, entry.payload)).encode())


class SimulatedNode:
    """`raft` is None while the process is down. `incarnation` counts its processes.

    Its clock shows `offset + rate * real time`.
    """

    def __init__(self, world: Simulator, node_id: str) -> None:
        self.world = world
        self.id = node_id
        self.rate = world.random.uniform(0.99, 1.01)
        self.offset = world.random.uniform(0, 1e6)
        self.disk = SimulatedDisk()
        self.instance = f"{node_id}.0"
        self.wipes = 0
        self.incarnation = 0
        self.raft: Raft | None = None
        self.paused_until = 0.0
        self.applied_index = 0
        self.digest = 0
        self.started_at = 0.0
        self._tick_at: float | None = None
        self._take_is_due = False
        self._snapshotting = False

    def local(self, real: float) -> float:
        return self.offset + real * self.rate

    def real(self, local: float) -> float:
        return (local - self.offset) / self.rate

    # The process.

    def start(self) -> None:
        assert self.raft is None
        world = self.world
        self.incarnation += 1
        self.paused_until = 0.0
        log, snapshot = self.disk.load(world.random)
        self.applied_index = snapshot.meta.index if snapshot else 0
        self.digest = snapshot.digest if snapshot else 0
        self.started_at = world.now
        self._tick_at = None
        self._take_is_due = self._snapshotting = False
        self.raft = Raft(
            node_id=self.id,
            instance=self.instance,
            options=world.scenario.options,
            random=Random(world.random.getrandbits(64)),
            now=self.local(world.now),
            hard_state=self.disk.hard_state,
            log=log,
            applied_index=self.applied_index,
        )
        world.record(self.id, f"starts: {self.disk.hard_state}, log to {log.last_index}")
        world.checkers.started(self)
        self._schedule_tick()
        for peer in world.peers_of(self.id):
            if world.network.both_ways(self.id, peer) and world.nodes[peer].raft:
                self.notice("connected", peer, world.random.uniform(0.001, 0.05))
                world.nodes[peer].notice("connected", self.id, world.random.uniform(0.001, 0.05))
        self.after(world.random.uniform(0.01, 0.3), self._peers_tried)

    def _peers_tried(self) -> None:
        self.input(lambda raft, now: raft.peers_tried(now))

    def end(self) -> None:
        """The process ends here and now; a write in flight is kept whole or lost whole, as a
        transaction is."""
        assert self.raft is not None
        world = self.world
        if self.disk.writing and not self.disk.fails_next:
            if world.random.random() >= world.scenario.lost_write_chance:
                self.disk.apply(self.disk.writing)
            else:
                world.count("fault write lost in a crash")
        self.disk.writing = None
        self.disk.hung_until = 0.0
        self.raft = None
        world.record(self.id, "ends")
        for peer in world.peers_of(self.id):
            if world.network.both_ways(self.id, peer) and world.nodes[peer].raft:
                world.nodes[peer].notice("unreachable", self.id, world.random.uniform(0, 0.02))
                if world.random.random() < 0.8:
                    world.nodes[peer].notice("peer_lost", self.id, world.random.uniform(0, 0.03))

    def wipe(self) -> None:
        """The data directory is gone, and the process begins anew with an empty one."""
        if self.raft:
            self.end()
        self.wipes += 1
        self.instance = f"{self.id}.{self.wipes}"
        self.disk = SimulatedDisk()
        self.world.checkers.wiped(self)
        self.world.record(self.id, "is wiped")

    # Inputs: at once, or deferred while the process is paused.

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do it in this process after `delay` seconds of real time, or not at all."""
        incarnation = self.incarnation

        def perform() -> None:
            if self.raft is None or self.incarnation != incarnation:
                return
            if self.world.now < self.paused_until:
                rest = self.paused_until - self.world.now
                self._maybe_take_later(rest)  # what has piled up is of one pass
                self.world.after(rest, perform)
                return
            action()

        self.world.after(delay, perform)

    def receive(self, message: Message) -> None:
        def step() -> None:
            self.world.record_message(self.id, message)
            self.input(lambda raft, now: raft.step(now, message))
            if self.raft:
                self.world.checkers.heard(self.raft, message)

        self.after(0.0, step)

    def notice(self, kind: str, peer: str, delay: float) -> None:
        """`connected`, `unreachable` or `peer_lost`."""

        def tell() -> None:
            self.world.record(self.id, f"{kind} {peer}")
            self.world.count(f"notice {kind}")
            self.input(lambda raft, now: getattr(raft, kind)(now, peer))

        self.after(delay, tell)

    def input(self, call: Callable[[Raft, float], Result]) -> Result:
        """One input, and what follows from it. Errors of the core's contract pass through."""
        raft = self.raft
        assert raft is not None
        try:
            result = call(raft, self.local(self.world.now))
        except NefiaError:
            self._after_input(raft)
            raise
        self._after_input(raft)
        return result

    def _after_input(self, raft: Raft) -> None:
        self.world.checkers.after_input(self, raft)
        self._maybe_take_later(0.0)
        if not self._take_is_due:
            self.take()

    def _maybe_take_later(self, delay: float) -> None:
        """Inputs that come before are of the same pass."""
        random, chance = self.world.random, self.world.scenario.late_take_chance
        if not self._take_is_due and random.random() < chance:
            self._take_is_due = True
            self.after(delay + random.uniform(0, 0.003), self._take_if_due)

    def _take_if_due(self) -> None:
        if self._take_is_due:
            self.take()

    def _schedule_tick(self) -> None:
        assert self.raft is not None
        deadline = self.raft.deadline
        if deadline == float("inf"):
            return
        when = max(self.real(deadline) + TIMER_SLACK_SECONDS, self.world.now)
        if self._tick_at is None or when < self._tick_at:
            self._tick_at = when
            self.after(when - self.world.now, lambda: self._tick(when))

    def _tick(self, scheduled: float) -> None:
        assert self.raft is not None
        if self._tick_at != scheduled:
            return  # another timer was set for an earlier time
        self._tick_at = None
        if self.raft.deadline <= self.local(self.world.now):
            self.input(lambda raft, now: raft.tick(now))
        else:
            self._schedule_tick()

    # Effects.

    def take(self) -> None:
        raft = self.raft
        assert raft is not None
        self._take_is_due = False
        effects = raft.take()
        world = self.world
        world.checkers.after_take(self, raft, effects)
        if effects.write:
            self._write(effects.write)
        if effects.restore:
            self._restore(effects.restore)
        self._apply(effects)
        for read in effects.reads:
            self._read_ready(read)
        for message in effects.send:
            world.checkers.sending(self, raft, message)
            world.network.send(message)
        for notice in effects.notices:
            self._noticed(notice)
        for fetch in effects.fetch:
            self._fetch(fetch)
        for order in effects.snapshots:
            self._send_snapshot(order)
        self._schedule_tick()

    def _noticed(self, notice: Notice) -> None:
        self.world.record(self.id, type(notice).__name__)
        if isinstance(notice, HandedOver):
            self.world.faults.handed_over()
        if self.raft and self.raft.leader and isinstance(notice, ConfigurationChanged):
            self.world.count("membership changes", by=int(notice.committed))

    def _write(self, write: Write) -> None:
        assert self.disk.writing is None, "two writes at once"
        world, disk = self.world, self.disk
        world.count("writes")
        disk.writing = write
        slow = 8 if world.now < disk.slow_until else 1
        delay = world.random.expovariate(1 / world.scenario.write_delay) * slow
        delay = max(delay, disk.hung_until - world.now)
        if disk.fails_next:
            self.after(delay, self._write_failed)
        else:
            self.after(delay, lambda: self._write_done(write))

    def _write_done(self, write: Write) -> None:
        if self.world.now < self.disk.hung_until:
            self.after(self.disk.hung_until - self.world.now, lambda: self._write_done(write))
            return
        self.disk.apply(write)
        self.disk.writing = None
        self.world.record(self.id, f"write {write.sequence} is durable")
        self.input(lambda raft, now: raft.persisted(now, write.sequence))

    def _write_failed(self) -> None:
        world = self.world
        world.record(self.id, "write failed")
        self.input(lambda raft, now: raft.write_failed(now))
        self.disk.fails_next = False  # it was lost or kept, as at a crash
        self.take()
        self.after(world.random.uniform(0.01, 0.2), self.end)
        world.after(world.random.uniform(0.3, 2.0), self.revive)

    def revive(self) -> None:
        if self.raft is None and self.id not in self.world.kept_down:
            self.start()

    def _restore(self, meta: SnapshotMeta) -> None:
        staged = self.disk.staged[meta.index, meta.term]
        self.disk.keep_snapshot(staged)
        self.applied_index, self.digest = meta.index, staged.digest
        self.world.count("snapshots installed")
        self.world.checkers.applied(self)

    def _apply(self, effects: Effects) -> None:
        for entry in effects.committed:
            assert entry.index == self.applied_index + 1, "entries are applied in order, each once"
            self.applied_index = entry.index
            self.digest = next_digest(self.digest, entry)
            self.world.checkers.applied(self)
        if effects.committed:
            self.world.record(self.id, f"applied to {self.applied_index}")

    def _read_ready(self, read: ReadReady) -> None:
        self.world.checkers.read_ready(self, read)

    def _fetch(self, fetch: Fetch) -> None:
        def fetched() -> None:
            entries = self.disk.read(fetch.first, fetch.last, self.world.random.randint(4, 30))
            self.world.count("fetches")
            self.input(lambda raft, now: raft.fetched(now, fetch.node_id, entries))

        self.after(self.world.random.expovariate(1 / 0.002), fetched)

    # Snapshots.

    def take_snapshot(self) -> None:
        """Write down the state, then let the log before it go, but for a few trailing entries."""
        raft, world = self.raft, self.world
        assert raft is not None
        if self._snapshotting or self.applied_index <= raft.log.base_index or raft.halted:
            return
        index, digest = self.applied_index, self.digest
        term = raft.log.term_at(index)
        if term is None:
            return
        configuration_index, configuration = raft.log.configuration_at(index)
        snapshot = StateSnapshot(
            SnapshotMeta(index, term, configuration, configuration_index), digest
        )
        self._snapshotting = True
        trailing = world.random.choice([0, 0, 5, 30])

        def written() -> None:
            self._snapshotting = False
            self.disk.keep_snapshot(snapshot)
            world.count("snapshots taken")
            through = max(0, index - trailing)
            self.input(lambda raft, now: raft.compact(now, through))

        self.after(world.random.uniform(0.0, 0.3), written)

    def _send_snapshot(self, order: SendSnapshot) -> None:
        world = self.world
        snapshot = self.disk.snapshots[-1] if self.disk.snapshots else None
        target = world.nodes.get(order.node_id)
        ready = snapshot is not None and snapshot.meta.index >= order.minimum_index
        begun_for = target.incarnation if target else 0

        def arrived() -> None:
            arrives = (
                ready
                and target is not None
                and target.raft is not None
                and target.incarnation == begun_for
                and world.network.both_ways(self.id, target.id)
                and world.random.random() < 0.9
            )
            meta = snapshot.meta if snapshot and arrives else None
            if meta and snapshot and target:
                target.disk.staged[meta.index, meta.term] = snapshot
            world.record(self.id, f"snapshot {meta and meta.index} sent to {order.node_id}")
            self.input(lambda raft, now: raft.snapshot_sent(now, order.node_id, meta))

        self.after(world.random.uniform(0.01, 0.8), arrived)
