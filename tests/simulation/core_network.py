"""The network of the core simulator: it loses, delays, reorders, repeats and cuts one way."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nefia.raft.messages import (
    AppendReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVoteReply,
    VoteReply,
)

if TYPE_CHECKING:
    from tests.simulation.core_simulator import Simulator

REMEMBERED_MESSAGES = 500
"""How many messages are kept to be replayed later."""

DOUBLE_LATE_TIMEOUTS = 2.0
"""A message comes a second time up to so many heartbeat timeouts later. What a dead leader said
keeps its followers waiting, even once the network is healed."""

Pair = tuple[str, str]
Parcel = tuple[Message, str, str]  # with the instances of sender and recipient when it was sent

REPLIES = (PreVoteReply, VoteReply, AppendReply, InstallSnapshotReply)


class Network:
    """`cut` counts for each (sender, recipient) how many faults block that direction now."""

    def __init__(self, world: Simulator) -> None:
        self.world = world
        self.cut: Counter[Pair] = Counter()
        self.loss = world.scenario.loss
        self.duplication = world.scenario.duplication
        self.delay = world.scenario.delay
        self.slow_until = 0.0
        self.old: deque[Parcel] = deque(maxlen=REMEMBERED_MESSAGES)

    def is_open(self, sender: str, recipient: str) -> bool:
        return self.cut[sender, recipient] == 0

    def both_ways(self, one: str, other: str) -> bool:
        return self.is_open(one, other) and self.is_open(other, one)

    def send(self, message: Message) -> None:
        world, random = self.world, self.world.random
        world.count("messages sent")
        nodes = world.nodes
        recipient = nodes.get(message.recipient)
        if recipient is None:
            return
        parcel = (message, nodes[message.sender].instance, recipient.instance)
        self.old.append(parcel)
        if not self.is_open(message.sender, message.recipient) or random.random() < self.loss:
            world.count("fault message lost")
            return
        self.post(parcel, self._latency())
        if random.random() < self.duplication:
            world.count("fault message doubled")
            late = DOUBLE_LATE_TIMEOUTS * world.scenario.options.heartbeat_timeout
            self.post(parcel, self._latency() + random.uniform(0, late))

    def _latency(self) -> float:
        random = self.world.random
        mean = self.delay * (10 if self.world.now < self.slow_until else 1)
        tail = 20 if random.random() < 0.01 else 1
        return random.expovariate(1 / mean) * tail

    def post(self, parcel: Parcel, delay: float) -> None:
        self.world.after(delay, lambda: self._deliver(parcel))

    def _deliver(self, parcel: Parcel) -> None:
        message, sender_instance, recipient_instance = parcel
        nodes = self.world.nodes
        sender, recipient = nodes[message.sender], nodes[message.recipient]
        if not self.is_open(message.sender, message.recipient):
            self.world.count("fault message lost")
            return
        if recipient.instance != recipient_instance or recipient.raft is None:
            return
        # A wiped node answers for a log that it no longer has: who knows it by another instance
        # must not count its answers. Its questions and its leadership harm nobody.
        if isinstance(message, REPLIES):
            member = recipient.raft.log.configuration.get(message.sender)
            if member and member.instance and member.instance != sender_instance:
                return
            if sender.instance != sender_instance:
                return
        if isinstance(message, InstallSnapshot):
            snapshot = message.snapshot
            staged = (snapshot.index, snapshot.term) in recipient.disk.staged
            if not staged and snapshot.index > recipient.raft.commit_index:
                return  # a driver drops what it has not the data for
        recipient.receive(message)

    def replay(self) -> None:
        """Deliver a message of the past once more."""
        if self.old:
            self.post(self.world.random.choice(self.old), self._latency())

    # Cuts.

    def block(self, pairs: Iterable[Pair], seconds: float) -> None:
        """Cut these directions; connections that live on them end, and open again afterwards."""
        blocked = sorted(set(pairs))
        self.cut.update(blocked)
        for pair in blocked:
            self._notice("unreachable", *pair, chance=0.5)
        self.world.after(seconds, lambda: self._unblock(blocked))

    def block_for_ever(self, pairs: Iterable[Pair]) -> None:
        self.cut.update(sorted(set(pairs)))

    def _unblock(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            self.cut[pair] = max(0, self.cut[pair] - 1)
        for one, other in pairs:
            if self.both_ways(one, other):
                self._notice("connected", one, other, chance=0.8)

    def heal(self) -> None:
        """Open every direction; what faults unblock later is open already."""
        self.cut.clear()

    def _notice(self, kind: str, one: str, other: str, chance: float) -> None:
        random = self.world.random
        for node_id, peer in ((one, other), (other, one)):
            if random.random() < chance:
                self.world.nodes[node_id].notice(kind, peer, random.uniform(0.0, 0.05))
