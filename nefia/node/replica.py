"""The driver of the pure core: inputs in, effects out, one pass for all that has gathered.

Messages, a finished write and proposals are given to the core by the task that brings them, with
whatever else has gathered; the loop of `run` makes the passes that timers need.
Nothing here decides anything about the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar, assert_never

import structlog
import trio

from nefia.clock import NodeClock, sleep
from nefia.errors import (
    DiskFailed,
    NefiaError,
    NoLeader,
    NotInitialized,
    NotLeader,
    Overloaded,
)
from nefia.node.applier import Applier
from nefia.node.promise import Promise
from nefia.node.proposals import Proposals, Settle
from nefia.raft.configuration import Configuration
from nefia.raft.core import Raft
from nefia.raft.effects import (
    ConfigurationChanged,
    Effects,
    Fetch,
    HandedOver,
    LeaderChanged,
    Notice,
    Removed,
    RoleChanged,
    SendSnapshot,
    TransferEnded,
)
from nefia.raft.entries import SnapshotMeta
from nefia.raft.messages import AppendEntries, InstallSnapshot, Message
from nefia.state.cluster_clock import ClusterClock
from nefia.state.commands import Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from nefia.storage.store import LogStore

MAX_PENDING_READS = 16_384
FETCH_BYTES = 1024 * 1024
FAREWELL_SECONDS = 0.2
"""What a node with a failed disk leaves its last message, which hands leadership over."""

_log = structlog.get_logger("nefia.node")

Lead = Callable[[int], Awaitable[None]]
T = TypeVar("T")


class Snapshots(Protocol):
    """What becomes of the core's wishes that concern snapshots."""

    def may_install(self, place: SnapshotMeta) -> bool:
        """Whether the core may hear that this snapshot has arrived."""
        ...

    def install(self, place: SnapshotMeta) -> Machine:
        """The state of that snapshot, now that the core has heard of it and wants it."""
        ...

    async def send(self, order: SendSnapshot) -> None:
        """Bring it to the follower, and tell the core how that ended."""
        ...


class Replica:
    """Runs one `Raft`. Everything but `run` is called from tasks of the same event loop.

    `lead(term)` runs while this node may act as the leader, in a cancel scope whose deadline is the
    end of the lease, moved forward with each renewal.
    """

    def __init__(
        self,
        *,
        raft: Raft,
        store: LogStore,
        clock: NodeClock,
        cluster_clock: ClusterClock,
        applier: Applier,
        apply_timeout: float,
        send: Callable[[Message], object],
        lead: Lead,
        on_configuration: Callable[[Configuration], None],
    ) -> None:
        self.raft = raft
        self.applier = applier
        self.cluster_clock = cluster_clock
        self.snapshots: Snapshots
        """To be set before `run`."""
        self.changed = trio.Event()
        """Set, and replaced, when role, leader, configuration or commit index change."""
        self.renewed: Callable[[float], None] = lambda lease_end: None
        """Called with each later end of the lease."""
        self.observers: list[Callable[[], None]] = []
        """Called then, and when a snapshot has taken the place of the state."""
        self.notice_observers: list[Callable[[Notice], None]] = []
        self._store = store
        self._clock = clock
        self._apply_timeout = apply_timeout
        self._send = send
        self._lead = lead
        self._on_configuration = on_configuration
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._timer = trio.CancelScope()
        self._due = math.inf
        """When the timer wakes the loop, at the latest."""
        self._broken: Exception | None = None
        self._messages: list[Message] = []
        self._inputs: list[Callable[[float], None]] = []
        self._proposals = Proposals()
        self._reads: dict[int, Promise[Machine]] = {}
        self._next_token = 0
        self._leadership: trio.CancelScope | None = None
        self._lease_end = -math.inf
        self._configuration: Configuration | None = None
        self._failure: NefiaError | None = None

    # Inputs.

    def post(self, action: Callable[[float], None]) -> None:
        """Call `action(now)`, an input of the core, in the next pass."""
        self._inputs.append(action)
        self._wake.set()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of one peer for the core, in their order."""
        self._messages.extend(messages)
        self._turn()

    def resign(self, reason: str) -> None:
        """Have another node lead, if this one does."""
        self.post(lambda now: self.raft.resign(now, reason))

    async def ask(self, action: Callable[[float], T]) -> T:
        """What `action(now)`, an input of the core, returns or raises in the next pass."""
        promise: Promise[T] = Promise()

        def perform(now: float) -> None:
            try:
                promise.keep(action(now))
            except NefiaError as error:
                promise.fail(error)

        self.post(perform)
        return await promise.wait()

    def propose(self, command: Command, request_id: str, settle: Settle) -> None:
        """Have `command` committed and applied; `settle` is told its outcome, or why there is none.

        That is NotLeader, NoLeader or NoQuorum if nothing was changed, and OutcomeUnknown if the
        change was proposed and not confirmed within the apply timeout. Raises NotInitialized,
        NotLeader, NoLeader and Overloaded at once. To be followed by `proceed`.
        """
        if self.raft.leader is None:
            self.require_member()
            raise self.not_leader()
        deadline = self._clock.now() + self._apply_timeout
        self._proposals.add(command, request_id, settle, deadline)

    def proceed(self) -> None:
        """Whoever has proposed has no more that could go into the same entry."""
        if self._proposals and not self.raft.write_is_out:  # else its end brings the next turn
            self._turn()

    async def change(self, command: Command, request_id: str = "") -> Outcome:
        """The outcome of `propose`, whose errors are raised."""
        promise: Promise[Outcome] = Promise()
        self.propose(command, request_id, promise.settle)
        self.proceed()
        return await promise.wait()

    def read(self) -> Promise[Machine]:
        """The machine, once a read of it is linearizable (6.4). Raises as `propose` does."""
        if self.raft.leader is None:
            raise self.not_leader()
        if len(self._reads) >= MAX_PENDING_READS:
            raise Overloaded(f"{MAX_PENDING_READS} reads wait already", hint="try again later")
        self._next_token += 1
        promise: Promise[Machine] = Promise()
        self._reads[self._next_token] = promise
        self.post(partial(self._ask_read, self._next_token))
        return promise

    def _ask_read(self, token: int, now: float) -> None:
        try:
            self.raft.read(now, token)
        except NotLeader:
            self._reads.pop(token).fail(self.not_leader())

    def cluster_ms(self, now: float) -> int:
        """Cluster time; a leader's continues what its predecessors have stamped (SPEC 8)."""
        stamped_ms = self.applier.machine.time_ms
        if self.raft.leader is not None and stamped_ms > self.cluster_clock.read(now):
            self.cluster_clock.lead(now, stamped_ms)
        return self.cluster_clock.read(now)

    def require_member(self) -> None:
        """Raises NotInitialized while this node waits to be added to a cluster, or to found one."""
        if not self.raft.log.configuration.members:
            raise NotInitialized(
                "this node belongs to no cluster yet",
                hint="run nefia cluster init here for a new one, or add-peer on the leader of one",
            )

    def not_leader(self) -> NotLeader | NoLeader:
        """The error for what only the leader may do, naming the leader if one is known."""
        leader_id = self.raft.leader_id
        if leader_id is None or leader_id == self.raft.node_id:
            return NoLeader(
                "no leader is known at the moment",
                hint="an election takes about a second: try again. If none comes, nefia cluster "
                "why says what is missing, and nefia cluster recover is for a majority that is "
                "gone for good",
            )
        member = self.raft.log.configuration.get(leader_id)
        address = member.address if member else None
        return NotLeader(
            f"this node is not the leader; the leader is {leader_id} at {address}",
            hint=f"run the command on {leader_id}, or add --forward",
            leader_id=leader_id,
            leader_addr=address,
        )

    # The loop.

    async def run(self) -> None:
        """Drive the core for ever. Raises DiskFailed or DataDamaged: the node must start anew."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._store.run)
            self._nursery = nursery
            try:
                await self._run()
            finally:
                self._nursery = None  # a write that ends now is nobody's any more

    async def _run(self) -> None:
        self._follow_configuration()
        while self._broken is None:
            self._due = self._next_deadline()
            with self._clock.deadline_scope(self._due) as self._timer:
                await self._wake.wait()
            self._wake = trio.Event()
            self._turn()
        raise self._broken

    def _next_deadline(self) -> float:
        return min(self.raft.deadline, self._proposals.deadline)

    def _turn(self) -> None:
        """One pass, done by whoever brings news: to wake the loop for it would cost a tick of trio.

        What fails in it is nobody's fault but ours, or the disk's, and ends `run`.
        """
        if self._broken is not None or self._nursery is None:
            return
        try:
            self._pass(self._clock.now(), self._nursery)
        except Exception as error:
            self._break(error)
            return
        due = self._next_deadline()
        if due < self._due:
            self._due = due
            self._clock.move_deadline(self._timer, due)

    def _break(self, error: Exception) -> None:
        self._broken = error
        self._timer.cancel()

    def _pass(self, now: float, nursery: trio.Nursery) -> None:
        messages, self._messages = self._messages, []
        inputs, self._inputs = self._inputs, []
        self.raft.cluster_ms = self.cluster_ms(now)
        for message in messages:
            match message:
                case AppendEntries() if message.term >= self.raft.term:
                    self.cluster_clock.heard(now, message.term, message.cluster_ms)
                case InstallSnapshot() if not self.snapshots.may_install(message.snapshot):
                    continue
            self.raft.step(now, message)
        for action in inputs:
            action(now)
        self.raft.tick(now)
        if self._proposals:
            self._propose(now)
        self._proposals.expire(now)
        self._perform(self.raft.take(), nursery)
        self._update_leadership(now, nursery)

    def _propose(self, now: float) -> None:
        """What has gathered goes into one entry; while that is written, more gathers.

        A flood is thus taken in doses that leave time for heartbeats. While leadership is handed
        over, all are held until that is decided.
        """
        leader = self.raft.leader
        if leader is None:
            self._proposals.fail_waiting(self.not_leader())
        elif not (leader.transferring or self.raft.write_is_out):
            payload, batch = self._proposals.next_batch(self.cluster_ms(now))
            index = self.raft.propose(now, [payload])
            self.applier.expect(index, self.raft.term, batch)

    def _perform(self, effects: Effects, nursery: trio.Nursery) -> None:
        for message in effects.send:
            self._send(message)
        if effects.write is not None:
            ended = partial(self._written, effects.write.sequence)
            self._store.begin_write(effects.write, ended)
        for fetch in effects.fetch:
            nursery.start_soon(self._fetch, fetch)
        if effects.restore is not None:
            self.applier.restore(self.snapshots.install(effects.restore))
        for order in effects.snapshots:
            nursery.start_soon(self.snapshots.send, order)
        if effects.committed:
            self.applier.apply(effects.committed)
        for ready in effects.reads:
            self.applier.answer_at(ready.index, self._reads.pop(ready.token))
        for notice in effects.notices:
            self._report(notice)
        if effects.notices or effects.committed or effects.restore is not None:
            self._tell_of_change()
        self._follow_configuration()
        if self._failure is not None:
            nursery.start_soon(self._leave, self._failure)
            self._failure = None

    def _tell_of_change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
        for observe in self.observers:
            observe()

    def _follow_configuration(self) -> None:
        configuration = self.raft.log.configuration
        if configuration is not self._configuration:
            self._configuration = configuration
            self._on_configuration(configuration)

    def _update_leadership(self, now: float, nursery: trio.Nursery) -> None:
        """Losing the lease cancels the leadership scope, and nothing else."""
        lease_end = self.raft.lease_end
        if self.raft.leader is None:
            self._fail_reads()
        if lease_end == self._lease_end and self._leadership is not None:
            return
        self._lease_end = lease_end
        if lease_end > now:
            self.renewed(lease_end)
        if self._leadership is not None:
            self._clock.move_deadline(self._leadership, lease_end)
        elif lease_end > now:
            self._leadership = self._clock.deadline_scope(lease_end)
            nursery.start_soon(self._run_leadership, self._leadership, self.raft.term)

    async def _run_leadership(self, scope: trio.CancelScope, term: int) -> None:
        with scope:
            await self._lead(term)
        self._leadership = None
        self._wake.set()

    def _fail_reads(self) -> None:
        if self._reads:
            error = self.not_leader()
            for promise in self._reads.values():
                promise.fail(error)
            self._reads.clear()

    # Effects that wait for the disk.

    def _written(self, sequence: int, error: Exception | None) -> None:
        """A write has ended. What was proposed while it was out is the next, at once."""
        if error is None:
            self._inputs.append(partial(self._persisted, sequence))
            self._turn()
        elif isinstance(error, DiskFailed):
            self.fail(error)
        else:
            self._break(error)

    def fail(self, error: DiskFailed) -> None:
        """The disk has refused a write, of the core's or another: this node must start anew."""
        self.post(partial(self._write_failed, error))

    def _persisted(self, sequence: int, now: float) -> None:
        self.raft.persisted(now, sequence)

    def _write_failed(self, error: DiskFailed, now: float) -> None:
        _log.error("disk_failed", error=error.message)
        self.raft.write_failed(now)
        self._failure = error
        self.applier.give_up(error.message)
        self._proposals.fail_waiting(error)

    async def _leave(self, failure: NefiaError) -> None:
        await sleep(self._clock, FAREWELL_SECONDS)
        raise failure

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            entries = await self._store.read(fetch.first, fetch.last, FETCH_BYTES)
        except KeyError:
            entries = ()
        self.post(lambda now: self.raft.fetched(now, fetch.node_id, entries))

    # What people see.

    def _report(self, notice: Notice) -> None:
        for heed in self.notice_observers:
            heed(notice)
        match notice:
            case RoleChanged():
                _log.info(
                    "role_changed",
                    old=notice.old.value,
                    new=notice.new.value,
                    term=notice.term,
                    leader=notice.leader,
                    reason=notice.reason,
                )
            case LeaderChanged():
                _log.info("leader_changed", leader=notice.leader, term=notice.term)
            case ConfigurationChanged():
                _log.info(
                    "members_changed",
                    index=notice.index,
                    committed=notice.committed,
                    voters=sorted(notice.configuration.voters),
                    learners=sorted(notice.configuration.ids - notice.configuration.voters),
                )
            case TransferEnded():
                _log.warning("transfer_failed", target=notice.target, reason=notice.reason)
            case HandedOver():
                _log.info("handed_over", target=notice.target)
            case Removed():
                _log.warning("removed_from_cluster", index=notice.index)
            case _:
                assert_never(notice)
