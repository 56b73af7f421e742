"""A small cluster of `Raft` objects in lockstep, for tests that tell one short story each.

Nothing happens by itself: a test ticks, proposes and cuts, and `deliver` runs until nobody has
anything left to say. Writes are durable at once, but for nodes in `slow_disks`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from random import Random
from typing import TypeVar

from nefia.raft.configuration import Configuration, Member
from nefia.raft.core import Raft
from nefia.raft.effects import Effects, Notice, ReadReady, SendSnapshot, Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.log import Log
from nefia.raft.messages import Message
from nefia.raft.options import Options

MAX_DELIVERIES = 10_000

Kind = TypeVar("Kind")


def members(voters: str, learners: str = "") -> Configuration:
    """`members("abc", "d")`: three voters and a learner. Ids are single letters."""
    return Configuration(
        [Member(i, f"{i}:9700", voter=True, instance=f"{i}.0") for i in voters]
        + [Member(i, f"{i}:9700", voter=False, instance=f"{i}.0") for i in learners]
    )


def log_of(configuration: Configuration, *terms: int) -> Log:
    """A log whose first entry, of term 1, is `configuration`; then one command of each term."""
    log = Log()
    log.append([Entry(1, 1, configuration)])
    log.append([Entry(i, term, b"%d" % i) for i, term in enumerate(terms, 2)])
    return log


class Cluster:
    """`dropped`: (sender, recipient) pairs that lose everything. `sent`: all that was ever said."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        logs: dict[str, tuple[int, ...]] | None = None,
        terms: dict[str, int] | None = None,
        votes: dict[str, str] | None = None,
        options: Options | None = None,
    ) -> None:
        self.now = 0.0
        self.nodes: dict[str, Raft] = {}
        self.queue: deque[Message] = deque()
        self.sent: list[Message] = []
        self.dropped: set[tuple[str, str]] = set()
        self.slow_disks: set[str] = set()
        self.writes: dict[str, Write] = {}
        self.committed: defaultdict[str, list[Entry]] = defaultdict(list)
        self.reads: defaultdict[str, list[ReadReady]] = defaultdict(list)
        self.snapshots: list[SendSnapshot] = []
        self.notices: defaultdict[str, list[Notice]] = defaultdict(list)
        for node_id in sorted(configuration.ids):
            log = log_of(configuration, *(logs or {}).get(node_id, ()))
            term = max((terms or {}).get(node_id, 1), log.last_term)
            self.nodes[node_id] = Raft(
                node_id=node_id,
                options=options or Options(),
                random=Random(node_id),
                now=0.0,
                hard_state=HardState(term, (votes or {}).get(node_id)),
                log=log,
            )

    def __getitem__(self, node_id: str) -> Raft:
        return self.nodes[node_id]

    # Driving.

    def perform(self, node_id: str) -> Effects:
        """Take the node's effects; what it sends waits in the queue."""
        raft = self.nodes[node_id]
        effects = raft.take()
        self.queue += effects.send
        self.sent += effects.send
        self.committed[node_id] += effects.committed
        self.reads[node_id] += effects.reads
        self.snapshots += effects.snapshots
        self.notices[node_id] += effects.notices
        if effects.write:
            self.writes[node_id] = effects.write
            if node_id not in self.slow_disks:
                self.finish_write(node_id)
        if raft.applied_index < raft.commit_index and raft.deadline <= self.now:
            raft.tick(self.now)
            self.perform(node_id)
        return effects

    def finish_write(self, node_id: str) -> None:
        write = self.writes.pop(node_id)
        self.nodes[node_id].persisted(self.now, write.sequence)
        self.perform(node_id)

    def collect(self, node_id: str) -> list[Message]:
        """What this node says now; nothing of it is delivered."""
        before = len(self.sent)
        self.perform(node_id)
        said = [m for m in self.sent[before:] if m.sender == node_id]
        self.queue.clear()
        return said

    def deliver(self) -> None:
        """Until there is nothing left to deliver."""
        for node_id in self.nodes:
            self.perform(node_id)
        for _ in range(MAX_DELIVERIES):
            if not self.queue:
                return
            message = self.queue.popleft()
            if (message.sender, message.recipient) in self.dropped:
                continue
            if message.recipient in self.nodes:
                self.nodes[message.recipient].step(self.now, message)
                self.perform(message.recipient)
        raise AssertionError("the cluster never falls silent")

    def cut(self, ones: Iterable[str], others: Iterable[str]) -> None:
        others = list(others)
        for one in ones:
            self.dropped |= {(one, other) for other in others}
            self.dropped |= {(other, one) for other in others}

    def tick(self, node_id: str) -> None:
        self.nodes[node_id].tick(self.now)
        self.deliver()

    def pass_time(self, seconds: float) -> None:
        """Let time pass for everyone, in steps short enough for heartbeats."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.02)
            for node_id in self.nodes:
                self.nodes[node_id].tick(self.now)
            self.deliver()

    def elect(self, node_id: str) -> Raft:
        """Wait until nobody hears a leader any more, then let `node_id` campaign first."""
        raft = self.nodes[node_id]
        self.now += 1.2
        for other in self.nodes.values():
            if other.leader:
                other.tick(self.now)
        self.queue.clear()
        self.now = max(self.now, raft.election.due)
        self.tick(node_id)
        return raft

    # Asking.

    def said(self, node_id: str, kind: type[Kind]) -> list[Kind]:
        return [m for m in self.sent if m.sender == node_id and isinstance(m, kind)]

    def commands(self, node_id: str) -> list[bytes]:
        return [e.payload for e in self.committed[node_id] if isinstance(e.payload, bytes)]

    def leaders(self) -> list[str]:
        return [node_id for node_id, raft in self.nodes.items() if raft.leader]


def snapshot_at(raft: Raft, index: int) -> SnapshotMeta:
    term = raft.log.term_at(index)
    assert term is not None
    configuration_index, configuration = raft.log.configuration_at(index)
    return SnapshotMeta(index, term, configuration, configuration_index)
