"""The driver of the pure core: inputs in, effects out, in one loop with one wake-up a batch.

Whatever happens meanwhile (messages, proposals, finished writes) is gathered and given to the core
in one pass; then its effects are performed. Nothing here decides anything about the protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, assert_never

import structlog
import trio
from attrs import frozen

from nefia.clock import NodeClock, sleep
from nefia.errors import DiskFailed, NefiaError, NoLeader, NotInitialized, NotLeader, Overloaded
from nefia.node.applier import Applier
from nefia.node.promise import Promise
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
    TransferEnded,
    Write,
)
from nefia.raft.messages import AppendEntries, Message
from nefia.state.cluster_clock import ClusterClock
from nefia.state.commands import Change, Command
from nefia.state.machine import Machine
from nefia.state.records import Outcome
from nefia.storage.store import LogStore
from nefia.wire import CHANGES

MAX_INBOX_MESSAGES = 4096
MAX_PENDING_CHANGES = 16_384
MAX_PENDING_READS = 16_384
FETCH_BYTES = 1024 * 1024
FAREWELL_SECONDS = 0.2
"""What a node with a failed disk leaves its last message, which hands leadership over."""

_log = structlog.get_logger("nefia.node")

Lead = Callable[[int], Awaitable[None]]
T = TypeVar("T")


@frozen
class _Proposal:
    command: Command
    request_id: str
    promise: Promise[Outcome]


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
        send: Callable[[Message], object],
        lead: Lead,
        on_configuration: Callable[[Configuration], None],
    ) -> None:
        self.raft = raft
        self.applier = applier
        self.cluster_clock = cluster_clock
        self.changed = trio.Event()
        """Set, and replaced, when role, leader, configuration or commit index change."""
        self._store = store
        self._clock = clock
        self._send = send
        self._lead = lead
        self._on_configuration = on_configuration
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._messages: list[Message] = []
        self._inputs: list[Callable[[float], None]] = []
        self._proposals: deque[_Proposal] = deque()
        self._reads: dict[int, Promise[Machine]] = {}
        self._next_token = 0
        self._leadership: trio.CancelScope | None = None
        self._configuration: Configuration | None = None
        self._failure: NefiaError | None = None

    # Inputs.

    def post(self, action: Callable[[float], None]) -> None:
        """Call `action(now)`, an input of the core, in the next pass."""
        self._inputs.append(action)
        self._wake.set()

    async def receive(self, messages: Sequence[Message]) -> None:
        """Give messages of one peer to the core; waits while too many are there already."""
        while len(self._messages) >= MAX_INBOX_MESSAGES:
            await self._drained.wait()
        self._messages.extend(messages)
        self._wake.set()

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

    def propose(self, command: Command, request_id: str) -> Promise[Outcome]:
        """The outcome of `command`, some day: the caller bounds the wait.

        The promise is broken with NotLeader or NoLeader if nothing was changed. Raises those too,
        and Overloaded.
        """
        if self.raft.leader is None:
            raise self.not_leader()
        if len(self._proposals) + self.applier.waiting >= MAX_PENDING_CHANGES:
            raise Overloaded(f"{MAX_PENDING_CHANGES} changes wait already", hint="try again later")
        promise: Promise[Outcome] = Promise()
        self._proposals.append(_Proposal(command, request_id, promise))
        self._wake.set()
        return promise

    def is_proposed(self, promise: Promise[Outcome]) -> bool:
        """Whether the change has left the queue, so that its outcome may be unknown."""
        return all(proposal.promise is not promise for proposal in self._proposals)

    def withdraw(self, promise: Promise[Outcome]) -> None:
        """Forget a change that `is_proposed` denies: nobody waits for it any more."""
        self._proposals = deque(p for p in self._proposals if p.promise is not promise)

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
                hint="an election takes about a second; try again, and see nefia cluster status",
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
            self._follow_configuration()
            while True:
                await self._wait()
                self._wake = trio.Event()
                self._pass(self._clock.now(), nursery)

    async def _wait(self) -> None:
        with self._clock.deadline_scope(self.raft.deadline):
            await self._wake.wait()
        await trio.lowlevel.checkpoint()

    def _pass(self, now: float, nursery: trio.Nursery) -> None:
        messages, self._messages = self._messages, []
        inputs, self._inputs = self._inputs, []
        self._drained.set()
        self._drained = trio.Event()
        self.raft.cluster_ms = self.cluster_ms(now)
        for message in messages:
            if isinstance(message, AppendEntries) and message.term >= self.raft.term:
                self.cluster_clock.heard(now, message.cluster_ms)
            self.raft.step(now, message)
        for action in inputs:
            action(now)
        self.raft.tick(now)
        if self._proposals:
            self._propose(now)
        self._perform(self.raft.take(), nursery)
        self._update_leadership(now, nursery)

    def _propose(self, now: float) -> None:
        if self.raft.leader is None:
            error = self.not_leader()
            while self._proposals:
                self._proposals.popleft().promise.fail(error)
        elif not self.raft.leader.transferring:  # else they are held until it is decided
            time_ms = self.cluster_ms(now)
            batch = [(p, Change(time_ms, p.request_id, p.command)) for p in self._proposals]
            self._proposals.clear()
            first = self.raft.propose(now, [CHANGES.encode(change) for _, change in batch])
            for index, (proposal, change) in enumerate(batch, first):
                self.applier.expect(index, self.raft.term, change, proposal.promise)

    def _perform(self, effects: Effects, nursery: trio.Nursery) -> None:
        for message in effects.send:
            self._send(message)
        if effects.write is not None:
            nursery.start_soon(self._write, effects.write)
        for fetch in effects.fetch:
            nursery.start_soon(self._fetch, fetch)
        assert (effects.restore, effects.snapshots) == (None, ()), "nothing is compacted yet"
        if effects.committed:
            self.applier.apply(effects.committed)
        for ready in effects.reads:
            self.applier.answer_at(ready.index, self._reads.pop(ready.token))
        for notice in effects.notices:
            self._report(notice)
        if effects.notices or effects.committed:
            self.changed.set()
            self.changed = trio.Event()
        self._follow_configuration()
        if self._failure is not None:
            nursery.start_soon(self._leave, self._failure)
            self._failure = None

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

    async def _write(self, write: Write) -> None:
        try:
            await self._store.write(write)
        except DiskFailed as error:
            self.fail(error)
        else:
            self.post(partial(self._persisted, write.sequence))

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
        while self._proposals:
            self._proposals.popleft().promise.fail(error)

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
